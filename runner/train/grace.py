"""Measures what a step and a save take, and does not begin a save that the machine's grace would cut off."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path

from curriculum.artifacts import timing
from curriculum.artifacts.job_process import StopFlag
from curriculum.artifacts.jobs import TrainJob
from curriculum.artifacts.stage_folder import Attempt, StageFolder
from runner.parallel.ranks import Ranks

STEPS, SAVES = 20, 3  # the longest of the last so many is what the next one is taken to need


class Grace:
    """Every rank has one; what rank 0 has measured is what all go by."""

    def __init__(self, job: TrainJob, ranks: Ranks) -> None:
        self._job = job
        self._ranks = ranks
        self._steps: deque[float] = deque(maxlen=STEPS)
        self._saves: deque[float] = deque(maxlen=SAVES)
        self._begun: float | None = None
        before = timing.measured(StageFolder(Path(job.stage_folder))) if ranks.first else None
        if before is not None:
            self._saves.append(before.save_seconds)

    def step_begins(self) -> None:
        self._begun = time.monotonic()

    def step_ended(self) -> None:
        if self._begun is not None:
            self._steps.append(time.monotonic() - self._begun)

    def saved(self, seconds: float) -> None:
        """On rank 0, a save became durable `seconds` after it was begun."""
        self._saves.append(seconds)
        if self._steps:
            pace = timing.SaveTiming(
                step_seconds=round(max(self._steps), 3),
                save_seconds=round(max(self._saves), 3),
                every=self._job.checkpoint_every,
                grace=self._job.machine.grace,
            )
            timing.write(Attempt(Path(self._job.attempt_folder)), pace)

    def lacks(self, stop: StopFlag) -> str | None:
        """Why a save begun now could not end in time, on every rank; None when it can, or nothing says otherwise."""
        grace = self._job.machine.grace
        if grace is None:
            return None
        asked = max(
            (each for each in self._ranks.gather(stop.seconds_ago()) if each is not None), default=None
        )
        needed = self._ranks.agree(max(self._saves, default=0.0))
        if asked is None or grace - asked >= needed:
            return None
        return f"of {grace:g} s of grace {max(0.0, grace - asked):.1f} were left, and a save takes {needed:.1f} s"
