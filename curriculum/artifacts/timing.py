"""Step and save times of an attempt, compared with the seconds that a machine grants between asking and killing."""

from __future__ import annotations

from dataclasses import dataclass

from curriculum import fs
from curriculum.artifacts.stage_folder import Attempt, StageFolder, attempts_in
from curriculum.units import show_exact

_FORMER_NAME = "pace.json"
"""`timing.json` of a run that the previous release began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveTiming:
    """The longest of an attempt's last steps and saves, in seconds, a save from its begin to its last fsync.

    `grace` is that of the machine, in seconds; `every` is the tokens from one checkpoint to the next. A save that is
    not `copied` is waited for.
    """

    step_seconds: float
    save_seconds: float
    every: int
    grace: float | None = None
    copied: bool = True

    def insufficient_grace(self, grace: float | None) -> str | None:
        """Why a run that is killed `grace` seconds after the request to stop cannot save; None when it can."""
        if grace is None or self.step_seconds + self.save_seconds <= grace:
            return None
        return (
            f"a step and a save take {self.step_seconds:.1f} + {self.save_seconds:.1f} s, and the grace is "
            f"{grace:g} s: a terminated run resumes from the last checkpoint, up to {show_exact(self.every)} tokens "
            "before"
        )


def write(attempt: Attempt, timing: SaveTiming) -> None:
    fs.write_json(attempt.timing, timing, replace=True)


def of_attempt(attempt: Attempt) -> SaveTiming | None:
    """What was measured in an attempt; None before its first save."""
    path = attempt.timing if attempt.timing.exists() else attempt.path / _FORMER_NAME
    try:
        return fs.from_json(SaveTiming, fs.parse_json(fs.read_bytes(path)))
    except (OSError, ValueError):  # an estimate for a warning: no reason to fail
        return None


def newest_timing(folder: StageFolder) -> SaveTiming | None:
    """What was measured in the newest attempt of a stage that measured anything."""
    newest_first = reversed(attempts_in(folder.attempts))
    return next((timing for timing in map(of_attempt, newest_first) if timing is not None), None)
