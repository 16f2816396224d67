"""Notices a step that does not end: the stacks of all threads are written down and the process ends.

A collective that waits for a rank which is stuck never returns, so nothing that is written in Python could look at
a clock. The interpreter's own fault handler does, in a thread that needs no lock of ours. A process that was
stopped whole has no such thread either: the supervisor sees that its file of stacks is touched no more.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from types import TracebackType
from typing import IO, Self

from curriculum.artifacts.jobs import SLOW_TIMES
from curriculum.artifacts.stage_folder import Attempt

TOUCH_SECONDS = 1.0


class Watchdog:
    """Armed anew whenever something begins; `limit` in seconds. `attempt.stacks(rank)` stays empty while all goes well.

    As a context manager it watches until the block ends, which may begin slowly. SIGUSR2 writes the stacks without
    ending anything.
    """

    def __init__(self, attempt: Attempt, rank: int, limit: float) -> None:
        self._limit = limit
        self._file: IO[str] = attempt.stacks(rank).open("a")
        self._touched = 0.0

    def __enter__(self) -> Self:
        faulthandler.register(signal.SIGUSR2, file=self._file, all_threads=True)
        self.begins(SLOW_TIMES)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        faulthandler.cancel_dump_traceback_later()

    def begins(self, times: int = 1) -> None:
        """From now on a limit's time is left, or `times` as much, until this is called again."""
        faulthandler.dump_traceback_later(self._limit * times, file=self._file, exit=True)
        now = time.monotonic()
        if now - self._touched >= TOUCH_SECONDS:
            self._touched = now
            os.utime(self._file.fileno())

    def saves(self) -> None:
        """What waits for a save, its own or the one before, may wait longer."""
        self.begins(SLOW_TIMES)
