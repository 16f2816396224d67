"""Notices on a running attempt, each given once: another environment, too short a grace, saves that are waited for."""

from __future__ import annotations

from collections.abc import Callable

from curriculum import fs
from curriculum.artifacts import timing
from curriculum.artifacts.environment import describe_changes
from curriculum.artifacts.stage_folder import Attempt, StageFolder


class AttemptNotices:
    """Reads what the trainer of the stage in `folder` reports in the folder of its newest `attempt`.

    `note` gets a line for each notice; `grace` in seconds.
    """

    def __init__(self, folder: StageFolder, grace: float | None, note: Callable[[str], None]) -> None:
        self.attempt: Attempt | None = None
        self._stage = folder.name
        self._note = note
        self._grace = grace
        self._environment_reported = self._shortfall_reported = self._waiting_reported = False
        self._check_timing(timing.newest_timing(folder))

    def check(self) -> None:
        """Give the notices that are due by now."""
        if self.attempt is None:
            return
        if not self._environment_reported and self.attempt.environment.exists():
            self._environment_reported = True
            if changed := fs.parse_json(fs.read_bytes(self.attempt.environment)).get("changed", {}):
                description = describe_changes(changed)
                self._note(f"{self._stage}: environment changed since the previous attempt: {description}")
        if not (self._shortfall_reported and self._waiting_reported) and self.attempt.timing.exists():
            self._check_timing(timing.of_attempt(self.attempt))

    def _check_timing(self, measured: timing.SaveTiming | None) -> None:
        if measured is None:
            return
        if not self._shortfall_reported and (shortfall := measured.insufficient_grace(self._grace)) is not None:
            self._shortfall_reported = True
            self._note(f"{self._stage}: {shortfall}")
        if not self._waiting_reported and not measured.copied:
            self._waiting_reported = True
            seconds = f"{measured.save_seconds:.1f} s"
            self._note(
                f"{self._stage}: memory is too short for a copy of the state: training waits {seconds} for a save"
            )
