"""Hands a lineage to Slurm: one batch job a stage, each behind the one it continues from (`afterok`).

Saying it again is harmless: stages that are done or whose job still waits or runs are left alone, so the same
command continues after whatever happened, also on another number of nodes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from curriculum import fs
from curriculum.artifacts import jobs
from curriculum.artifacts.stage_folder import Attempt, StageFolder, new_attempt, next_attempt
from curriculum.compiler import prepared_text
from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.errors import Busy, PlanError
from curriculum.execution.request import RunRequest
from curriculum.execution.slurm.batch import ALLOCATION
from curriculum.execution.train_job import ready, train_job
from curriculum.launchers import slurm, slurm_record
from curriculum.plan.stage import StagePlan
from curriculum.runs.folders import is_finished, stage_folder


@dataclass(frozen=True, slots=True)
class SubmittedStage:
    """A stage of the lineage and the Slurm job that trains it; `fresh` when it was submitted just now."""

    stage: str
    job: str
    words: str
    fresh: bool


def refuse_changed(request: RunRequest, compiled: Compiled) -> None:
    """Busy when a stage's job still waits or runs with a plan that the files no longer say."""
    for stage in compiled.stages:
        folder = stage_folder(request.project, compiled, stage)
        if slurm_record.read(folder.path) is None or not folder.plan.exists():
            continue
        if StagePlan.load(folder.plan).fingerprint == stage.plan.fingerprint:
            continue
        found = slurm_record.status_of(folder.path)
        if found is not None and found.live:
            raise Busy(
                f"`{stage.name}` was handed to Slurm with another plan than the files say now: {found.words}",
                hint=f"`curriculum stop {compiled.curriculum}`, then run it again; or put the files back",
            )


def submit(
    request: RunRequest, compiled: Compiled, texts: prepared_text.PreparedText
) -> tuple[SubmittedStage, ...]:
    """Submit a job for every stage that needs one; all jobs of the lineage that wait or run, root first."""
    handed: list[SubmittedStage] = []
    for stage in compiled.stages:
        folder = stage_folder(request.project, compiled, stage)
        if is_finished(folder, stage):
            request.listener.skipped(stage)
            handed.clear()  # what follows waits for nothing
            continue
        fs.make_directory(folder.path)
        with fs.Lock(folder.path / "submit.lock", f"handing {stage.name} to Slurm"):
            handed.append(_submit_stage(request, compiled, stage, texts, folder, handed))
    return tuple(handed)


def _submit_stage(
    request: RunRequest,
    compiled: Compiled,
    stage: CompiledStage,
    texts: prepared_text.PreparedText,
    folder: StageFolder,
    before: list[SubmittedStage],
) -> SubmittedStage:
    found = slurm_record.status_of(folder.path)
    if found is not None and found.live:
        _refuse_too_short(folder.path, stage, found)
        return SubmittedStage(stage.name, found.submitted.job, found.words, fresh=False)
    holder = fs.lock_holder(folder.lock)
    if holder is not None:
        who = f"pid {holder.get('pid')} on {holder.get('host')}"
        raise Busy(
            f"`{stage.name}` is being trained already, by {who}",
            hint=f"wait for it, or `curriculum stop {compiled.curriculum}` first",
        )
    parent = ready(request, compiled, stage)
    submission = new_attempt(folder.path / slurm_record.FOLDER)
    place = submission.path
    job = train_job(
        request, compiled, stage, texts, attempt=submission, parent_checkpoint=parent, threads=None
    )
    jobs.save(job, submission.job)
    after = (before[-1].job,) if before else ()
    batch = _batch(request, stage, place, after)
    entry = request.machine_entry
    fs.write_json(place / ALLOCATION, _allocation(request))
    fs.write_bytes(place / "submit.sh", slurm.script(batch, entry).encode())
    try:
        number = slurm.submit(place / "submit.sh")
    except PlanError as error:
        raise placed(error, request) from None
    submitted = slurm_record.Submission(
        job=number,
        machine=request.machine,
        since=time.strftime("%Y-%m-%d %H:%M:%S"),
        folder=f"{slurm_record.FOLDER}/{place.name}",
    )
    slurm_record.write(folder.path, submitted)
    waits = f", after job {after[0]}" if after else ""
    return SubmittedStage(stage.name, number, f"Slurm job {number}{waits}", fresh=True)


def _batch(request: RunRequest, stage: CompiledStage, place: Path, after: tuple[str, ...]) -> slurm.BatchJob:
    entry = request.machine_entry
    return slurm.BatchJob(
        name=f"curriculum:{stage.name}",
        command=(sys.executable, "-m", "curriculum.execution.slurm.batch", str(place)),
        log=place / "%j.log",
        nodes=entry.nodes,
        processes=request.processes or entry.processes,
        gpus_per_node=entry.gpus_per_node,
        threads=entry.threads,
        after=after,
    )


def _allocation(request: RunRequest) -> dict[str, object]:
    """What the batch job must know that is no part of the job: how the ranks are spread."""
    entry = request.machine_entry
    return {
        "nodes": entry.nodes,
        "processes": request.processes or entry.processes,
        "threads": entry.threads,
        "address": entry.address,
    }


def _refuse_too_short(folder: Path, stage: CompiledStage, found: slurm_record.SubmissionStatus) -> None:
    """A job that another lineage queued may end before this one leaves the stage."""
    job = jobs.load(Attempt(folder / found.submitted.folder).job)
    if isinstance(job, jobs.TrainJob) and job.stop_at is not None and job.stop_at < stage.stop:
        raise Busy(
            f"{found.words}: it trains `{stage.name}` to {job.stop_at:,} tokens only, and this needs {stage.stop:,}",
            hint="say this again once it has ended",
        )


def placed(error: PlanError, request: RunRequest) -> PlanError:
    """Slurm's refusal with the line of machines.yaml that it is about."""
    document = request.project.machines_document
    keys = [key for key in ("partition", "account", "qos", "time") if key in error.what.lower()]
    paths: list[tuple[str, ...]] = [(request.machine, "launcher")] if "sbatch" in error.what else []
    paths += [(request.machine, "slurm", key) for key in keys]
    paths += [(request.machine, "slurm"), (request.machine,)]
    place = next((document.place(path) for path in paths if path in document), None)
    return PlanError(error.what, place=place, hint=error.hint)


def outline(request: RunRequest, compiled: Compiled) -> Iterator[str]:
    """What `submit` would write and say, stage by stage, without doing it."""
    before: str | None = None
    for stage in compiled.stages:
        folder = stage_folder(request.project, compiled, stage)
        if is_finished(folder, stage):
            yield f"{stage.name}: done at {stage.stop:,} tokens"
            before = None
            continue
        found = slurm_record.status_of(folder.path)
        if found is not None and found.live:
            yield f"{stage.name}: {found.words}"
            before = found.submitted.job
            continue
        begin = slurm_record.reached(folder, stage.plan.start)
        submission = next_attempt(folder.path / slurm_record.FOLDER)
        place = submission.path
        after = (before,) if before else ()
        text = slurm.script(_batch(request, stage, place, after), request.machine_entry)
        yield f"{stage.name}: {begin:,} -> {stage.stop:,} tokens, as one batch job"
        yield f"  writes {folder.plan}\n  writes {submission.job}\n  writes {place / ALLOCATION}"
        yield f"  writes {place / 'submit.sh'}:"
        yield "\n".join(f"    {line}" for line in text.splitlines())
        yield f"  sbatch --parsable {place / 'submit.sh'}"
        before = f"JOB-OF-{stage.name}"


def stop(folder: Path) -> str | None:
    """Take the stage's job out of the queue, or tell it to save and end; in words, None when none is alive."""
    found = slurm_record.status_of(folder)
    if found is None or not found.live:
        return None
    job = found.submitted.job
    if found.state == slurm_record.UNKNOWN:
        raise slurm.Unreachable(
            found.words, hint="say this on a login node of the cluster; nothing was changed"
        )
    if found.state == slurm_record.QUEUED:
        slurm.cancel(job)
        slurm_record.forget(folder)
        return f"took Slurm job {job} out of the queue"
    slurm_record.write(folder, replace(found.submitted, stopping=True))
    slurm.signal_to_save(job)
    return f"asked Slurm job {job} to save and end"
