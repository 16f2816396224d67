"""Measures how long steps and saves take, and refuses to begin a save that the machine's grace would cut off."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from curriculum.artifacts import timing
from curriculum.artifacts.job_process import StopFlag
from curriculum.artifacts.jobs import TrainJob
from curriculum.artifacts.stage_folder import Attempt, StageFolder
from runner.parallel.ranks import Ranks

STEPS, SAVES = 20, 3  # the next one is expected to take as long as the longest of these last ones


class Grace:
    """Times of this rank's steps and saves, in seconds; all ranks decide by rank 0's."""

    def __init__(self, job: TrainJob, ranks: Ranks) -> None:
        self._job = job
        self._ranks = ranks
        self._steps: deque[float] = deque(maxlen=STEPS)
        self._saves: deque[float] = deque(maxlen=SAVES)
        earlier = timing.newest_timing(StageFolder(Path(job.stage_folder))) if ranks.first else None
        if earlier is not None:
            self._saves.append(earlier.save_seconds)

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Measure a step."""
        start = time.monotonic()
        yield
        self._steps.append(time.monotonic() - start)

    def saved(self, seconds: float, *, copied: bool) -> None:
        """On rank 0, take in that a save became durable `seconds` after it began, and write the attempt's times.

        Training waited for one that was not `copied`.
        """
        self._saves.append(seconds)
        if self._steps:
            times = timing.SaveTiming(
                step_seconds=round(max(self._steps), 3),
                save_seconds=round(max(self._saves), 3),
                every=self._job.checkpoint_every,
                grace=self._job.machine.grace,
                copied=copied,
            )
            timing.write(Attempt(Path(self._job.attempt_folder)), times)

    def insufficient(self, stop: StopFlag) -> str | None:
        """Why a save that starts now could not end in time, on every rank; None when it can, or no grace is known."""
        grace = self._job.machine.grace
        if grace is None:
            return None
        ages = [age for age in self._ranks.gather(stop.seconds_ago()) if age is not None]
        needed = self._ranks.agree(max(self._saves, default=0.0))
        if not ages or grace - max(ages) >= needed:
            return None
        remaining = max(0.0, grace - max(ages))
        return f"of {grace:g} s of grace {remaining:.1f} were left, and a save takes {needed:.1f} s"
