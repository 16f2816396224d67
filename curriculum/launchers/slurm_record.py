"""The record of a submitted Slurm job, slurm.json, and the job's status: from the queue, then from its outcome file."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path

from curriculum import fs
from curriculum.artifacts import jobs
from curriculum.artifacts.stage_folder import Attempt
from curriculum.errors import Busy
from curriculum.launchers import slurm

RECORD = "slurm.json"
FOLDER = "slurm"
"""Below it a folder a submission: its job files, `submit.sh`, the log, at last `outcome.json`."""

QUEUED, RUNNING, FAILED, ENDED, UNKNOWN = "queued", "running", "failed", "ended", "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionRecord:
    """The newest job of a folder: its number, machine, time and submission folder, whether a stop was requested."""

    job: str
    machine: str
    since: str
    folder: str
    stopping: bool = False


@dataclass(frozen=True, slots=True)
class SubmissionStatus:
    """A submitted job's state, one of QUEUED … UNKNOWN, and a sentence about it."""

    record: SubmissionRecord
    state: str
    message: str

    @property
    def live(self) -> bool:
        """Whether the job may still run; an unknown state counts as live."""
        return self.state in (QUEUED, RUNNING, UNKNOWN)


def read(folder: Path) -> SubmissionRecord | None:
    """The record in `folder`; None when nothing was submitted."""
    try:
        return fs.from_json(SubmissionRecord, fs.parse_json(fs.read_bytes(folder / RECORD)))
    except FileNotFoundError:
        return None


def write(folder: Path, record: SubmissionRecord) -> None:
    fs.write_json(folder / RECORD, record, replace=True)


def status_of(folder: Path) -> SubmissionStatus | None:
    """The status of the job of `folder`; None when there is none, or when it has done all its work."""
    record = read(folder)
    if record is None:
        return None
    name = f"Slurm job {record.job}"
    try:
        job = slurm.query(record.job)
    except slurm.Unreachable:
        message = f"submitted as {name} at {record.since}; Slurm is not reachable from here"
        return SubmissionStatus(record, UNKNOWN, message)
    if job is not None and job.live:
        if job.state in ("RUNNING", "COMPLETING", "SUSPENDED"):
            stopping = ", asked to save and end" if record.stopping else ""
            return SubmissionStatus(record, RUNNING, f"{name} on {job.nodes or 'its nodes'}{stopping}")
        return SubmissionStatus(record, QUEUED, f"{name} waits{_reason(job)}")
    outcome = Attempt(folder / record.folder).read_outcome()
    if outcome is None:
        state = f" ({job.state}{_reason(job)})" if job is not None else ""
        log = next((folder / record.folder).glob("*.log"), None)
        message = f"{name} ended without an outcome{state}{f'; its log: {log}' if log else ''}"
        return SubmissionStatus(record, FAILED, message)
    if outcome["outcome"] == jobs.DONE:
        return None
    if outcome["outcome"] == jobs.STOPPED:
        return SubmissionStatus(record, ENDED, f"{name} saved and ended")
    return SubmissionStatus(record, FAILED, f"{name} failed: {outcome.get('message', 'it gives no reason')}")


def live_job(folder: Path) -> SubmissionStatus | None:
    """The status of the job of `folder` while it waits or runs."""
    status = status_of(folder)
    return status if status is not None and status.live else None


def _reason(job: slurm.JobState) -> str:
    return f": {job.reason}" if job.reason else ""


def stop(folder: Path) -> str | None:
    """Take the job of `folder` out of the queue, or ask it to save and end; what was done, None when none is live."""
    status = live_job(folder)
    if status is None:
        return None
    job = status.record.job
    if status.state == UNKNOWN:
        hint = "run this on a login node of the cluster; nothing was changed"
        raise slurm.Unreachable(status.message, hint=hint)
    if status.state == QUEUED:
        slurm.cancel(job)
        with contextlib.suppress(FileNotFoundError):
            (folder / RECORD).unlink()
            fs.fsync(folder)
        return f"took Slurm job {job} out of the queue"
    write(folder, replace(status.record, stopping=True))
    slurm.signal_to_save(job)
    return f"asked Slurm job {job} to save and end"


def refuse_if_live(folder: Path, name: str) -> None:
    """Busy when the stage `name` was submitted to Slurm and may still be trained there."""
    status = live_job(folder)
    if status is None:
        return
    hint = "wait for it, or `curriculum stop` it (a queued job is cancelled, a running one saves); then run this again"
    if status.state == UNKNOWN:
        hint = f"run this where Slurm is reachable; if that cluster is gone, remove `{folder / RECORD}`"
    raise Busy(f"`{name}` is not free: {status.message}", hint=hint)
