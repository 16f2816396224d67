"""The Slurm jobs that train a lineage: one batch job a stage, each after the job of its parent stage (`afterok`).

Submitting again is harmless: stages that are done or whose job still waits or runs are skipped, so the same command
continues after any failure, also on another number of nodes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from curriculum import fs
from curriculum.artifacts import jobs
from curriculum.artifacts.stage_folder import Attempt, StageFolder
from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.compiler.prepared_text import PreparedText
from curriculum.errors import Busy
from curriculum.execution import trainers
from curriculum.execution.attempts import reached
from curriculum.execution.request import RunRequest
from curriculum.execution.slurm.batch_main import ALLOCATION
from curriculum.execution.slurm.submission import SCRIPT, QueuedJob, Submission, expected_job
from curriculum.execution.train_job import carry_losses, ready, train_job
from curriculum.launchers import slurm, slurm_record
from curriculum.plan.stage import StagePlan
from curriculum.runs.folders import branch_point, is_finished, stage_folder


def refuse_changed(request: RunRequest, compiled: Compiled) -> None:
    """Busy when a stage's job still waits or runs with a plan that the files no longer describe."""
    for stage in compiled.stages:
        folder = stage_folder(request.project, compiled, stage)
        if slurm_record.read(folder.path) is None or not folder.plan.exists():
            continue
        if StagePlan.load(folder.plan).fingerprint == stage.plan.fingerprint:
            continue
        status = slurm_record.live_job(folder.path)
        if status is not None:
            raise Busy(
                f"`{stage.name}` is in Slurm's queue with another plan than the files now describe: {status.message}",
                hint=f"`curriculum stop {compiled.curriculum}`, then run it again; or put the files back",
            )


def submit(request: RunRequest, compiled: Compiled, texts: PreparedText) -> tuple[QueuedJob, ...]:
    """Submit a job for every stage that needs one; all jobs that wait or run, root first.

    An average's job comes behind those of the lineages that it averages too, which are submitted with it.
    """
    queue: list[QueuedJob] = []
    others: list[QueuedJob] = []
    for stage in compiled.stages:
        if is_finished(stage_folder(request.project, compiled, stage), stage):
            request.listener.stage_skipped(stage)
            queue.clear()  # its children start at once
            continue
        behind = queue[-1:]
        for own, of_member in members_to_queue(request, compiled, stage):
            jobs_of_member = submit(own, of_member.compiled, of_member)
            others += jobs_of_member
            behind += jobs_of_member[-1:]
        after = _after([job.job for job in behind])
        queue.append(
            TrainSubmission(request=request, after=after, compiled=compiled, stage=stage, texts=texts).submit()
        )
    return tuple({job.label: job for job in (*others, *queue)}.values())


def members_to_queue(
    request: RunRequest, compiled: Compiled, stage: CompiledStage
) -> Iterator[tuple[RunRequest, PreparedText]]:
    """The other lineages whose checkpoints an average needs and that are not there yet."""
    if is_finished(stage_folder(request.project, compiled, stage), stage):
        return
    own = {(before.name, before.stop) for before in compiled.stages}
    for member, stated in zip(stage.members, stage.setting.average, strict=True):
        if (member.stage.name, member.stage.stop) in own:
            continue
        if branch_point(request.project, member.compiled, member.stage) is None:
            of_member = replace(request, curriculum=member.compiled.curriculum)
            yield of_member, PreparedText.open(request.project, of_member.curriculum, request.size, stated.stages)


def _after(jobs: Sequence[str]) -> str | None:
    """Jobs that must all succeed first, as sbatch takes them."""
    return ":".join(dict.fromkeys(jobs)) or None


def outline(request: RunRequest, compiled: Compiled, texts: PreparedText) -> Iterator[str]:
    """What `submit` would write and submit, stage by stage, as lines."""
    before: list[str] = []
    for stage in compiled.stages:
        folder = stage_folder(request.project, compiled, stage)
        if is_finished(folder, stage):
            yield f"{stage.name}: done at {stage.stop:,} tokens"
            before = []
            continue
        for own, of_member in members_to_queue(request, compiled, stage):
            yield from outline(own, of_member.compiled, of_member)
            last = of_member.compiled.stages[-1]
            before.append(expected_job(stage_folder(request.project, of_member.compiled, last).path, last.name))
        after = _after(before)
        submission = TrainSubmission(request=request, after=after, compiled=compiled, stage=stage, texts=texts)
        start = reached(folder, stage.plan.start)
        yield from submission.outline(f"{start:,} -> {stage.stop:,} tokens, as one batch job")
        before = [expected_job(folder.path, stage.name)]


@dataclass(frozen=True, kw_only=True)
class TrainSubmission(Submission):
    """A stage of a lineage as one training job, which queues itself again when it was stopped."""

    compiled: Compiled
    stage: CompiledStage
    texts: PreparedText

    @property
    def stage_folder(self) -> StageFolder:
        return stage_folder(self.request.project, self.compiled, self.stage)

    @property
    def label(self) -> str:
        return self.stage.name

    @property
    def folder(self) -> Path:
        return self.stage_folder.path

    @property
    def lock(self) -> Path:
        return self.stage_folder.lock

    def serves(self, status: slurm_record.SubmissionStatus) -> bool:
        """Busy for a job of another lineage that ends before this lineage leaves the stage."""
        job = jobs.load(Attempt(self.folder / status.record.folder).job)
        if isinstance(job, jobs.TrainJob) and job.stop_at is not None and job.stop_at < self.stage.stop:
            raise Busy(
                f"{status.message}: it trains `{self.label}` to {job.stop_at:,} tokens only, and this needs "
                f"{self.stage.stop:,}",
                hint="run this again once it has ended",
            )
        return True

    def files(self, attempt: Attempt) -> list[Path]:
        return [self.stage_folder.plan, attempt.job, attempt.path / ALLOCATION]

    def write(self, attempt: Attempt) -> None:
        request = self.request
        parent = ready(request, self.compiled, self.stage)
        carry_losses(request, self.compiled, self.stage, self.texts)
        job = train_job(request, self.compiled, self.stage, self.texts, parent)
        jobs.save(replace(job, attempt_folder=str(attempt)), attempt.job)
        entry = request.machine_entry
        allocation = {
            "nodes": entry.nodes,
            "processes": trainers.started_processes(request),
            "threads": entry.threads,
            "address": entry.address,
            "join_limit": entry.join_limit,
        }
        fs.write_json(attempt.path / ALLOCATION, allocation)

    def batch_jobs(self, attempt: Attempt) -> Mapping[str, slurm.BatchJob]:
        entry = self.request.machine_entry
        batch_job = slurm.BatchJob(
            name=f"curriculum:{self.label}",
            command=(sys.executable, "-m", "curriculum.execution.slurm.batch_main", str(attempt)),
            log=attempt.path / "%j.log",
            nodes=entry.nodes,
            processes=trainers.started_processes(self.request),
            gpus_per_node=entry.gpus_per_node,
            threads=entry.threads,
        )
        return {SCRIPT: batch_job}
