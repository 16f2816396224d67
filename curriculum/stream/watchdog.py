"""Ends a process whose step does not end, after writing the stacks of all its threads and its last collectives.

A collective that waits for a stuck rank never returns, so no Python code of the process could look at a clock. The
interpreter's fault handler does, in a thread that needs no lock of ours. A stopped process has no such thread: the
supervisor sees that its file of stacks is no longer touched. The collectives are written by a thread of Python, which
a collective that waits does not hinder; one that holds the interpreter's lock does, and then there are stacks only.
"""

from __future__ import annotations

import faulthandler
import math
import os
import signal
import threading
import time
from types import TracebackType
from typing import IO, Self

from curriculum.artifacts.jobs import SLOW_TIMES
from curriculum.artifacts.stage_folder import Attempt
from curriculum.stream import flight_recorder

TOUCH_SECONDS = 1.0
DUMP_SECONDS = 5.0
"""Before a limit passes, at most a quarter of it: when the last collectives are written."""


class Watchdog:
    """Armed for `limit` seconds at a time; `attempt.stacks(rank)` stays empty unless a limit passes.

    As a context manager it watches until the block ends, whose first step may be slow. SIGUSR2 writes the stacks, and
    within a second the last collectives, without ending the process.
    """

    def __init__(self, attempt: Attempt, rank: int, limit: float) -> None:
        self._attempt, self._rank, self._limit = attempt, rank, limit
        self._file: IO[str] = attempt.stacks(rank).open("a")
        self._touched_at = 0.0
        self._deadline = math.inf
        self._ended = threading.Event()
        flight_recorder.configure(attempt)

    def __enter__(self) -> Self:
        faulthandler.register(signal.SIGUSR2, file=self._file, all_threads=True)
        self.arm_slow()
        threading.Thread(target=self._record_collectives, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._ended.set()

    def arm(self, times: int = 1) -> None:
        """Start the limit again, or `times` as much: the process ends unless this is called before it passes."""
        faulthandler.dump_traceback_later(self._limit * times, file=self._file, exit=True)
        now = time.monotonic()
        self._deadline = now + self._limit * times
        if now - self._touched_at >= TOUCH_SECONDS:
            self._touched_at = now
            os.utime(self._file.fileno())

    def arm_slow(self) -> None:
        """Start the limit of what may be slow: the start, and a save that may wait for the one before."""
        self.arm(SLOW_TIMES)

    def _record_collectives(self) -> None:
        """Write the last collectives shortly before a limit passes, and once stacks were written on request."""
        written = os.fstat(self._file.fileno()).st_size
        while not self._ended.wait(min(TOUCH_SECONDS, self._limit / 8)):
            size = os.fstat(self._file.fileno()).st_size
            late = time.monotonic() > self._deadline - min(DUMP_SECONDS, self._limit / 4)
            if late or size > written:
                written = size
                self._deadline = math.inf if late else self._deadline
                flight_recorder.dump(self._attempt, self._rank)
