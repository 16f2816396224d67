"""Hands the preparation of a text to Slurm: an array of helpers, and behind it the job that brings all together.

A helper is the same job anywhere: it does tasks that nobody does until none is left, and what it finished is never
done again. So a helper that was killed costs its one task, and saying the same command again is harmless.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from curriculum import fs
from curriculum.artifacts import jobs
from curriculum.artifacts.stage_folder import Attempt, new_attempt
from curriculum.data.requests import PrepareRequest
from curriculum.errors import Busy, PlanError
from curriculum.execution.request import RunRequest
from curriculum.execution.slurm.train import placed
from curriculum.launchers import slurm, slurm_record
from curriculum.launchers.base import runner_command


@dataclass(frozen=True, slots=True)
class SubmittedText:
    """A text and the Slurm job that ends its preparation; `fresh` when it was submitted just now."""

    dataset: str
    job: str
    words: str
    fresh: bool


def submit(request: RunRequest, asked: PrepareRequest) -> SubmittedText:
    """Queue the preparation that `asked` says, unless it is queued or running already.

    Busy when a process holds it, PlanError with Slurm's own words when it refuses.
    """
    partial = Path(f"{asked.output}.partial")
    fs.make_directory(partial)
    with fs.Lock(partial / "submit.lock", f"handing `{asked.dataset}` to Slurm"):
        before = slurm_record.read(partial)
        if before is not None:
            found = slurm.query(before.job)
            if found is not None and found.live:
                state = found.state.lower()
                return SubmittedText(
                    asked.dataset, before.job, f"Slurm job {before.job}: {state}", fresh=False
                )
        holder = fs.lock_holder(partial / "lock")
        if holder is not None:
            who = f"pid {holder.get('pid')} on {holder.get('host')}"
            raise Busy(f"`{asked.dataset}` is being prepared already, by {who}", hint="wait for it to end")
        place = new_attempt(partial / slurm_record.FOLDER).path
        try:
            number, words = _queue(request, asked, place)
        except PlanError as error:
            raise placed(error, request) from None
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        slurm_record.write(
            partial,
            slurm_record.Submission(job=number, machine=request.machine, since=since, folder=place.name),
        )
    return SubmittedText(asked.dataset, number, words, fresh=True)


def _queue(request: RunRequest, asked: PrepareRequest, place: Path) -> tuple[str, str]:
    """Submit the helpers and, behind them, the job that ends it: its number, and both in words."""
    entry = request.machine_entry
    threads = entry.threads or 1
    helpers = min(asked.tasks, entry.nodes * entry.processes)
    each = replace(asked, workers=threads)
    after: tuple[str, ...] = ()
    words = ""
    if helpers > 1 and "tokenised" not in asked.read:
        batch = _batch(place, "help", each, threads, array=f"0-{helpers - 1}")
        after = (_submitted(batch, place, request),)
        words = f", after {helpers} helpers (job {after[0]})"
    batch = replace(_batch(place, "end", each, threads), after=after)
    number = _submitted(batch, place, request)
    return number, f"Slurm job {number}{words}"


def _batch(
    place: Path, name: str, asked: PrepareRequest, threads: int, array: str | None = None
) -> slurm.BatchJob:
    attempt = Attempt(place / name)
    fs.make_directory(attempt.path)
    jobs.save(
        jobs.PrepareJob(attempt_folder=str(attempt), request=asked, help=array is not None),
        attempt.job,
    )
    return slurm.BatchJob(
        name=f"curriculum:{asked.dataset}",
        command=("env", "PYTHONSAFEPATH=1", *runner_command(), str(attempt.job)),
        log=attempt.path / ("%A-%a.log" if array else "%j.log"),
        threads=threads,
        array=array,
    )


def _submitted(batch: slurm.BatchJob, place: Path, request: RunRequest) -> str:
    path = place / f"{batch.log.parent.name}.sh"
    fs.write_bytes(path, slurm.script(batch, request.machine_entry).encode())
    return slurm.submit(path)
