"""What was handed to Slurm for a stage and what became of it: one small record beside the stage, and the queue.

The record names a job; how it stands is asked of Slurm each time, and once Slurm has forgotten it, of the files
that the job wrote. Looking changes nothing.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curriculum import fs
from curriculum.artifacts import checkpoints, jobs
from curriculum.artifacts.stage_folder import Attempt, StageFolder
from curriculum.errors import Busy
from curriculum.launchers import slurm

RECORD = "slurm.json"
FOLDER = "slurm"
"""Below it a folder a submission: `job.json`, `allocation.json`, `submit.sh`, the log, at last `outcome.json`."""

QUEUED, RUNNING, FAILED, ENDED, UNKNOWN = "queued", "running", "failed", "ended", "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A stage's newest job: its number, what it was asked for, and whether it was told to save and end."""

    job: str
    machine: str
    since: str
    folder: str
    stopping: bool = False


@dataclass(frozen=True, slots=True)
class SubmissionStatus:
    """A submitted job as it stands: one of QUEUED … UNKNOWN, and the same in words."""

    submitted: Submission
    state: str
    words: str

    @property
    def live(self) -> bool:
        """Whether it may still train; what cannot be told is taken for alive."""
        return self.state in (QUEUED, RUNNING, UNKNOWN)


def read(folder: Path) -> Submission | None:
    """The record of the stage at `folder`; None when nothing was handed to Slurm."""
    try:
        return fs.from_json(Submission, json.loads(fs.read_bytes(folder / RECORD)))
    except FileNotFoundError:
        return None


def write(folder: Path, submitted: Submission) -> None:
    fs.write_json(folder / RECORD, submitted, replace=True)


def forget(folder: Path) -> None:
    """Remove the record of a job that never began."""
    with contextlib.suppress(FileNotFoundError):
        (folder / RECORD).unlink()
        fs.fsync(folder)


def status_of(folder: Path) -> SubmissionStatus | None:
    """How the stage's job stands; None when there is none, or when it did all that it was asked for."""
    submitted = read(folder)
    if submitted is None:
        return None
    name = f"Slurm job {submitted.job}"
    try:
        found = slurm.query(submitted.job)
    except slurm.Unreachable:
        return SubmissionStatus(
            submitted, UNKNOWN, f"handed to {name} at {submitted.since}; Slurm cannot be asked here"
        )
    if found is not None and found.live:
        if found.state in ("RUNNING", "COMPLETING", "SUSPENDED"):
            asked = ", asked to save and end" if submitted.stopping else ""
            return SubmissionStatus(submitted, RUNNING, f"{name} on {found.nodes or 'its nodes'}{asked}")
        return SubmissionStatus(submitted, QUEUED, f"{name} waits{_why(found.reason)}")
    outcome = outcome_of(folder, submitted)
    if outcome is not None and outcome["outcome"] == jobs.DONE:
        return None
    if outcome is not None and outcome["outcome"] == jobs.STOPPED:
        return SubmissionStatus(submitted, ENDED, f"{name} saved and ended")
    if outcome is not None:
        return SubmissionStatus(
            submitted, FAILED, f"{name} failed: {outcome.get('message', 'it does not say why')}"
        )
    said = f" ({found.state}{_why(found.reason)})" if found is not None else ""
    log = _log(folder, submitted)
    return SubmissionStatus(
        submitted, FAILED, f"{name} ended without a word{said}{f'; its log: {log}' if log else ''}"
    )


def outcome_of(folder: Path, submitted: Submission) -> dict[str, Any] | None:
    """What the job wrote when it ended."""
    try:
        value: dict[str, Any] = json.loads(fs.read_bytes(Attempt(folder / submitted.folder).outcome))
    except (OSError, ValueError):
        return None
    return value


def refuse_if_live(folder: Path, name: str) -> None:
    """Busy when the stage `name` was handed to Slurm and may still be trained there."""
    found = status_of(folder)
    if found is None or not found.live:
        return
    hint = "wait for it, or `curriculum stop` it (what waits leaves the queue, what runs saves); then say this again"
    if found.state == UNKNOWN:
        hint = f"say this where Slurm can be asked; if that cluster is gone, remove `{folder / RECORD}`"
    raise Busy(f"`{name}` is not free: {found.words}", hint=hint)


def reached(folder: StageFolder, start: int) -> int:
    """The position of the stage's newest checkpoint, else where the stage starts."""
    last = checkpoints.latest(folder)
    return last.position if last else start


def _why(reason: str) -> str:
    return f": {reason}" if reason else ""


def _log(folder: Path, submitted: Submission) -> Path | None:
    return next((folder / submitted.folder).glob("*.log"), None)
