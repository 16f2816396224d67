"""Notices a step that does not end: the stacks of all threads are written down and the process ends.

A collective that waits for a rank which is stuck never returns, so nothing that is written in Python could look at
a clock. The interpreter's own fault handler does, in a thread that needs no lock of ours.
"""

from __future__ import annotations

import faulthandler
from pathlib import Path
from typing import IO

from curriculum.job import STACKS


class Watchdog:
    """Armed anew at every step; `limit` in seconds. `STACKS` of this rank stays empty while all goes well."""

    def __init__(self, attempt: Path, rank: int, limit: float) -> None:
        self._limit = limit
        self._file: IO[str] = (attempt / STACKS.format(rank=rank)).open("w")

    def step_begins(self) -> None:
        faulthandler.dump_traceback_later(self._limit, file=self._file, exit=True)

    def rests(self) -> None:
        """What takes as long as it takes begins: measuring, waiting for a save."""
        faulthandler.cancel_dump_traceback_later()
