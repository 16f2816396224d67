"""Ends a process whose step does not end, after writing the stacks of all its threads.

A collective that waits for a stuck rank never returns, so no Python code of the process could look at a clock. The
interpreter's fault handler does, in a thread that needs no lock of ours. A stopped process has no such thread: the
supervisor sees that its file of stacks is no longer touched.
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
    """Armed for `limit` seconds at a time; `attempt.stacks(rank)` stays empty unless a limit passes.

    As a context manager it watches until the block ends, whose first step may be slow. SIGUSR2 writes the stacks
    without ending the process.
    """

    def __init__(self, attempt: Attempt, rank: int, limit: float) -> None:
        self._limit = limit
        self._file: IO[str] = attempt.stacks(rank).open("a")
        self._touched_at = 0.0

    def __enter__(self) -> Self:
        faulthandler.register(signal.SIGUSR2, file=self._file, all_threads=True)
        self.arm_slow()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        faulthandler.cancel_dump_traceback_later()

    def arm(self, times: int = 1) -> None:
        """Start the limit again, or `times` as much: the process ends unless this is called before it passes."""
        faulthandler.dump_traceback_later(self._limit * times, file=self._file, exit=True)
        now = time.monotonic()
        if now - self._touched_at >= TOUCH_SECONDS:
            self._touched_at = now
            os.utime(self._file.fileno())

    def arm_slow(self) -> None:
        """Start the limit of what may be slow: the start, and a save that may wait for the one before."""
        self.arm(SLOW_TIMES)
