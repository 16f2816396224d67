"""What an attempt turns out to be while it runs, said once: another environment, a grace too short to save in."""

from __future__ import annotations

from collections.abc import Callable

from curriculum import fs
from curriculum.artifacts import timing
from curriculum.artifacts.environment import describe_changes
from curriculum.artifacts.stage_folder import Attempt, StageFolder


class AttemptNotices:
    """Looks into the folder of each attempt for what its trainer has found out; `say` gets a line of each, once."""

    def __init__(
        self, stage: str, folder: StageFolder, grace: float | None, say: Callable[[str], None]
    ) -> None:
        self._stage = stage
        self._say = say
        self._grace = grace
        self._said: set[str] = set()
        self._attempt: Attempt | None = None
        if (known := timing.measured(folder)) is not None:
            self._short(known)

    def begins(self, attempt: Attempt) -> None:
        """An attempt was launched."""
        self._attempt = attempt

    def look(self) -> None:
        if self._attempt is None:
            return
        if "environment" not in self._said and self._attempt.environment.exists():
            self._said.add("environment")
            changed = fs.parse_json(fs.read_bytes(self._attempt.environment)).get("changed", {})
            if changed:
                self._say(
                    f"{self._stage}: environment changed since the previous attempt: {describe_changes(changed)}"
                )
        if (
            "short" not in self._said
            and self._attempt.timing.exists()
            and (pace := timing.of_attempt(self._attempt))
        ):
            self._short(pace)

    def _short(self, pace: timing.SaveTiming) -> None:
        if (words := pace.shortfall(self._grace)) is not None:
            self._said.add("short")
            self._say(f"{self._stage}: {words}")
