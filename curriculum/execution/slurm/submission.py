"""Submission of a job to Slurm, one mechanism for training, benchmarks and preparation, and the end of a batch job."""

from __future__ import annotations

import os
import shlex
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from curriculum import fs
from curriculum.artifacts import jobs
from curriculum.artifacts.stage_folder import Attempt, new_attempt, next_attempt
from curriculum.errors import Busy, CurriculumError, PlanError, RunFailed
from curriculum.execution.request import RunRequest
from curriculum.launchers import slurm, slurm_record

NOT_DONE = 3
SCRIPT = "submit.sh"


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A job in Slurm's queue and what it works on; `fresh` when this command submitted it."""

    label: str
    job: str
    message: str
    fresh: bool

    def __str__(self) -> str:
        return f"{self.label}  {self.message}" + ("" if self.fresh else ": left as it is")


@dataclass(frozen=True, kw_only=True)
class Submission(ABC):
    """A job to be submitted for a `request`; `after` is the number of a job that must succeed before it starts, or
    several with colons between them.

    The subclasses are the kinds of jobs: which files each writes and which batch jobs read them.
    """

    request: RunRequest
    after: str | None = None

    @property
    @abstractmethod
    def label(self) -> str:
        """What the job works on, as it is shown."""

    @property
    @abstractmethod
    def folder(self) -> Path:
        """Has the record of the newest submission and a folder for each."""

    @property
    def lock(self) -> Path | None:
        """Held by a process outside Slurm that does the same work."""
        return None

    @abstractmethod
    def write(self, attempt: Attempt) -> None:
        """Write the job's files."""

    @abstractmethod
    def files(self, attempt: Attempt) -> list[Path]:
        """The files that `write` writes for the submission in `attempt`."""

    @abstractmethod
    def batch_jobs(self, attempt: Attempt) -> Mapping[str, slurm.BatchJob]:
        """The batch jobs by the file names of their scripts; each starts after the one before has succeeded."""

    def serves(self, status: slurm_record.SubmissionStatus) -> bool:
        """Whether the live job that was submitted before does this work; Busy when it must end first."""
        return True

    def dependency(self, job: str) -> str:
        return f"job{'s' if ':' in job else ''} {job.replace(':', ' and ')}"

    def submit(self) -> QueuedJob:
        """Submit the job unless it waits or runs already.

        Busy when a process holds `lock`; PlanError with Slurm's own message when it refuses.
        """
        fs.make_directory(self.folder)
        with fs.Lock(self.folder / "submit.lock", f"submitting {self.label} to Slurm"):
            status = slurm_record.live_job(self.folder)
            if status is not None and self.serves(status):
                return QueuedJob(self.label, status.record.job, status.message, fresh=False)
            self.refuse_if_held()
            attempt = new_attempt(self.folder / slurm_record.FOLDER)
            self.write(attempt)
            job, message = self._queue(attempt)
            record = slurm_record.SubmissionRecord(
                job=job,
                machine=self.request.machine,
                since=time.strftime("%Y-%m-%d %H:%M:%S"),
                folder=f"{slurm_record.FOLDER}/{attempt.name}",
            )
            slurm_record.write(self.folder, record)
        return QueuedJob(self.label, job, message, fresh=True)

    def refuse_if_held(self) -> None:
        """Busy when a process holds `lock`."""
        if self.lock and (holder := fs.lock_holder(self.lock)) is not None:
            raise Busy(
                f"{self.label} is in work already: pid {holder.get('pid')} on {holder.get('host')}",
                hint="wait for it to end, or stop it first",
            )

    def _queue(self, attempt: Attempt) -> tuple[str, str]:
        """The number of the last batch job, and a message with what it waits for."""
        job, message = self.after, ""
        for name, batch_job in self.batch_jobs(attempt).items():
            fs.write_bytes(attempt.path / name, self._script(batch_job, job).encode())
            dependency = f", after {self.dependency(job)}" if job else ""
            try:
                job = slurm.submit(attempt.path / name, batch_job)
            except PlanError as error:
                raise placed(error, self.request) from None
            message = f"Slurm job {job}{dependency}"
        assert job is not None
        return job, message

    def _script(self, batch_job: slurm.BatchJob, after: str | None) -> str:
        return slurm.script(replace(batch_job, after=after), self.request.machine_entry)

    def outline(self, summary: str) -> Iterator[str]:
        """The `summary`, files and commands of a job that `submit` would submit, or the job in the queue, as lines."""
        status = slurm_record.live_job(self.folder)
        yield f"{self.label}: {status.message if status else summary}"
        if status:
            return
        attempt = next_attempt(self.folder / slurm_record.FOLDER)
        yield from (f"  writes {path}" for path in self.files(attempt))
        for name, batch_job in self.batch_jobs(attempt).items():
            yield f"  writes {attempt.path / name}:"
            yield from (f"    {line}" for line in self._script(batch_job, self.after).splitlines())
            yield f"  {shlex.join(slurm.command(attempt.path / name, batch_job))}"


def expected_job(folder: Path, label: str) -> str:
    """The number of the job of `folder` in the queue, or a placeholder for one that is not submitted yet."""
    status = slurm_record.live_job(folder)
    return status.record.job if status else f"JOB-OF-{label}"


def placed(error: PlanError, request: RunRequest) -> PlanError:
    """Slurm's refusal with the line of machines.yaml that it is about."""
    document = request.project.machines_document
    keys = [key for key in ("partition", "account", "qos", "time") if key in error.what.lower()]
    paths: list[tuple[str, ...]] = [(request.machine, "launcher")] if "sbatch" in error.what else []
    paths += [(request.machine, "slurm", key) for key in keys]
    paths += [(request.machine, "slurm"), (request.machine,)]
    place = next((document.place(path) for path in paths if path in document), None)
    return PlanError(error.what, place=place, hint=error.hint)


def finish(
    submission: Attempt, work: Callable[[], dict[str, Any]], *, job: str | None = None, beside: Sequence[Attempt] = ()
) -> int:
    """Do the `work` of the batch job that was submitted from the folder `submission`, which gets its outcome.

    The exit code: 0 done, 3 saved before the end, 1 or 2 failed or refused. A job that Slurm stopped, not
    `curriculum stop`, is queued again; that may have named any of the submissions `beside` it in the same job. `job`
    is this job's number, where it is an element of an array.
    """
    try:
        outcome = work()
    except CurriculumError as error:
        print(error.render(), file=sys.stderr, flush=True)
        kind = jobs.FAILED if isinstance(error, RunFailed) else jobs.REFUSED
        outcome = {"outcome": kind, "message": error.what, "hint": error.hint}
        fs.write_json(submission.outcome, outcome, replace=True)
        return error.exit_code
    if outcome["outcome"] == jobs.STOPPED:
        records = [slurm_record.read(each.path.parent.parent) for each in (submission, *beside)]
        if not any(record is not None and record.stopping for record in records):
            queue_again(job or os.environ["SLURM_JOB_ID"])
            return NOT_DONE
        print("saved, and ended as asked", flush=True)
    fs.write_json(submission.outcome, outcome, replace=True)
    return {jobs.DONE: 0, jobs.STOPPED: NOT_DONE}.get(outcome["outcome"], 1)


def queue_again(job: str) -> None:
    """Put this job back into the queue, unless the one who ended it cancels or requeues it."""
    try:
        state = slurm.query(job)
        if state is None or state.state != "RUNNING":
            print("saved; Slurm takes this job away", flush=True)
            return
        # printed first: Slurm may end this process while it answers
        print("saved; asks to be queued again", flush=True)
        refusal = slurm.requeue(job)
    except slurm.Unreachable as error:
        refusal = error.what
    if refusal:
        print(f"not queued again: {refusal}", flush=True)
