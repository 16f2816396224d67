"""Launches of jobs: an attempt's folder, the job file in it, and its processes under supervision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from curriculum.artifacts import checkpoints, jobs
from curriculum.artifacts.job_process import StopFlag
from curriculum.artifacts.stage_folder import Attempt, StageFolder, new_attempt
from curriculum.compiler.prepared_text import sources_place
from curriculum.errors import RunFailed
from curriculum.execution.notices import AttemptNotices
from curriculum.execution.parent import drop_converted, with_readable_parent
from curriculum.execution.request import RunRequest
from curriculum.launchers.process import Launcher, ProcessLauncher, default_threads
from curriculum.launchers.supervisor import silence, supervise, supervise_each
from curriculum.plan.stage import StagePlan
from curriculum.stream import resume
from curriculum.stream.resume import LOCK_SECONDS, stage_lock
from curriculum.stream.saves import mark_done

PATIENCE_SECONDS = 1.5
"""What a job that trains nothing may take to end once it is stopped: it loses nothing when it is killed."""

NOT_STARTED_CODES = (126, 127)
"""The exit codes of a shell and of `env` that could not start a program."""


def run_job(
    request: RunRequest, job: jobs.Job, title: str, stop: StopFlag, *, progress: Path | None = None, processes: int = 1
) -> bool:
    """Run `job` in its own processes, shown as `title` with its `progress` file; false when it was stopped.

    RunFailed names the line of sources.yaml that a refusal is about.
    """
    attempt = Attempt(Path(job.attempt_folder))
    jobs.save(job, attempt.job)
    request.listener.job_started(title, progress)
    trainer = job.trainer if isinstance(job, jobs.EvaluateJob) else None
    launcher = ProcessLauncher(processes, default_threads(None, processes), trainer)
    try:
        outcome = supervise(launcher, lambda: attempt, stop=stop, tick=request.listener.tick, patience=PATIENCE_SECONDS)
    except RunFailed as error:
        place = sources_place(request.project, error.entry)
        raise RunFailed(error.what, place=place, hint=error.hint) from None
    done: bool = outcome["outcome"] == jobs.DONE
    if done:
        request.listener.job_done(title)
    return done


def run_training(
    job: jobs.TrainJob,
    launcher: Launcher,
    stop: StopFlag,
    *,
    note: Callable[[str], None],
    launched: Callable[[Attempt], None] = lambda attempt: None,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Train a stage to the job's end, each launch in a new attempt of the stage; the outcome.

    A parent of another trainer is converted first.

    `note` gets a line for what an attempt reports of its environment and of a grace too short to save in.
    """
    folder = StageFolder(Path(job.stage_folder))
    ready = with_readable_parent(job, stop, note)
    if ready is None:
        return {"outcome": jobs.STOPPED}
    notices = AttemptNotices(folder, job.machine.grace, note)

    def start_attempt() -> Attempt:
        attempt, decided = _launchable(ready)
        machine = replace(job.machine, threads=launcher.threads)
        jobs.save(replace(decided, attempt_folder=str(attempt), machine=machine), attempt.job)
        notices.attempt = attempt
        launched(attempt)
        return attempt

    def check() -> None:
        tick()
        notices.check()

    outcome = supervise(
        launcher,
        start_attempt,
        stop=stop,
        progress=lambda: reached(folder, 0),
        tick=check,
        silence=silence(job.machine),
        unsaid=partial(_unsaid, job),
    )
    drop_converted(folder)
    return outcome


def run_each(
    trainings: Sequence[jobs.TrainJob], launcher: ProcessLauncher, stop: StopFlag, *, tick: Callable[[], None]
) -> list[dict[str, Any] | None]:
    """Launch the trainings of several stages once, one after the other in one process of our own trainer.

    Their outcomes; None for one that did not start or ended with the process. `run_training` restarts what is not done.
    """
    attempts = []
    for job in trainings:
        attempt, decided = _launchable(job)
        machine = replace(job.machine, threads=launcher.threads)
        jobs.save(replace(decided, attempt_folder=str(attempt), machine=machine), attempt.job)
        attempts.append(attempt)
    supervise_each(launcher, attempts, stop=stop, tick=tick, silence=max(silence(job.machine) for job in trainings))
    return [attempt.read_outcome() for attempt in attempts]


def _launchable(job: jobs.TrainJob) -> tuple[Attempt, jobs.TrainJob]:
    """A new attempt of the job's stage, and the job with what that resumes from."""
    folder = StageFolder(Path(job.stage_folder))
    lock = stage_lock(folder)
    lock.acquire(wait_seconds=LOCK_SECONDS)  # a trainer whose supervisor was killed may still save
    with lock:
        decided = resume.with_resume(job)
    return new_attempt(folder.attempts), decided


def _unsaid(job: jobs.TrainJob, code: int) -> dict[str, Any]:
    """How another trainer ended that did not say so itself, by its exit code and what it saved."""
    if code == jobs.TAKEN_CODE:
        return {"outcome": jobs.TAKEN}
    if job.trainer is not None and code in NOT_STARTED_CODES:
        attempt = StageFolder(Path(job.stage_folder)).newest_attempt()
        return {
            "outcome": jobs.REFUSED,
            "message": f"trainer `{job.trainer.name}` ended with exit code {code}: what its command starts is missing, "
            "or may not be executed",
            "hint": f"its log names the program: {attempt.log if attempt else 'there is none'}",
        }
    if code != 0 or job.trainer is None:
        return {"outcome": jobs.FAILED}
    plan = StagePlan.load(Path(job.plan))
    end = plan.end if job.stop_at is None else job.stop_at
    position = reached(StageFolder(Path(job.stage_folder)), plan.start)
    if position != end:
        return {
            "outcome": jobs.REFUSED,
            "message": f"trainer `{job.trainer.name}` ended without reaching the end or saying why: it is at "
            f"{position:,} of {end:,} tokens",
            "hint": "its log says what it did; a trainer that uses `curriculum.stream.join()` says how it ends, and "
            "exit code 75 that its machine is taken away; the same command resumes from what is saved",
        }
    if end == plan.end:
        mark_done(job, plan)
    return {"outcome": jobs.DONE, "position": end}


def reached(folder: StageFolder, start: int) -> int:
    """The position of the stage's newest checkpoint, else where the stage starts."""
    last = checkpoints.latest(folder)
    return last.position if last else start
