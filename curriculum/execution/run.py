"""Runs a lineage from its root: prepares what is missing, skips stages that are done, trains the others in order.

It decides nothing about training: it compiles plans, compares them with those of started stages, writes job files
and supervises their processes, or submits them to Slurm.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from curriculum import fs
from curriculum.artifacts import jobs
from curriculum.artifacts.job_process import StopFlag, stop_on_signals
from curriculum.artifacts.stage_folder import StageFolder, next_attempt
from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.compiler.prepared_text import PreparedText
from curriculum.errors import CheckpointError, PlanError
from curriculum.execution import benchmark as execution_benchmark, join, kubernetes
from curriculum.execution.attempts import reached, run_training
from curriculum.execution.machine import check_machine, launcher_for
from curriculum.execution.prepare import prepare
from curriculum.execution.request import RunRequest
from curriculum.execution.restore import restore_records
from curriculum.execution.slurm import benchmark, train
from curriculum.execution.slurm.submission import QueuedJob, placed
from curriculum.execution.train_job import carry_losses, ready, train_job
from curriculum.launchers import slurm, slurm_record
from curriculum.runs.accept_change import check_started
from curriculum.runs.folders import branch_point, is_finished, is_reached, member_points, stage_folder
from curriculum.runs.tokenizer import check_tokenizer


@dataclass(frozen=True, slots=True)
class RunResult:
    """The end of a run. `stopped` means saved, and the same command resumes.

    `unmeasured` has a line for each task of `every: {tasks: …}` that is still missing, with the reason; `queued` are
    the jobs that Slurm runs.
    """

    compiled: Compiled
    stopped: bool = False
    unmeasured: tuple[str, ...] = ()
    queued: tuple[QueuedJob, ...] = ()


def run(request: RunRequest) -> RunResult:
    """Bring every stage of the lineage to its end, each as a process of its own."""
    # Faulty files, and a machine that does not fit them, are refused before any process starts.
    texts = checked(request)
    with stop_on_signals() as stop:
        if request.node_rank:
            done = join.join(request, texts.compiled, launcher_for(request), stop)
            return RunResult(texts.compiled, stopped=not done)
        with join.leading(request):
            return _run_first_node(request, texts, stop)


def checked(request: RunRequest) -> PreparedText:
    """The lineage of a request whose machine can train it; whatever the error, it starts no process."""
    texts = PreparedText.open(request.project, request.curriculum, request.size)
    _check_launcher(request)
    check_machine(request, texts.compiled)
    return texts


def _check_launcher(request: RunRequest) -> None:
    machine = request.machine_entry
    if request.is_rendered:
        raise kubernetes.not_started_here(request)
    if machine.launcher == "slurm":
        try:
            slurm.require(machine.slurm.partition if machine.slurm else None)
        except PlanError as error:
            raise placed(error, request) from None


def prepared(request: RunRequest, texts: PreparedText, stop: StopFlag) -> PreparedText | None:
    """Prepare what the lineage lacks, and refuse what does not fit a started stage; None when it was stopped."""
    check = partial(
        check_started, request.project, accept=request.accept_change, prepared=False, of_study=request.arm is not None
    )
    check_tokenizer(texts)
    check(texts.compiled)
    _check_points(request, texts.compiled)
    ready_texts = prepare(request, texts, stop, with_tokenizer=check)
    if ready_texts is not None:
        _check_prepared(request, ready_texts.compiled)
    return ready_texts


def _run_first_node(request: RunRequest, unprepared: PreparedText, stop: StopFlag) -> RunResult:
    texts = prepared(request, unprepared, stop)
    if texts is None:
        return RunResult(unprepared.compiled, stopped=True)
    compiled = texts.compiled
    if request.machine_entry.launcher == "slurm":
        if not prepare_members(request, compiled, stop):
            return RunResult(compiled, stopped=True)
        training = train.submit(request, compiled, texts)
        benchmarks, unmeasured = benchmark.submit(request, compiled, training)
        return RunResult(compiled, unmeasured=tuple(unmeasured), queued=training + benchmarks)
    for stage in compiled.stages:
        finished = is_finished(stage_folder(request.project, compiled, stage), stage)
        if not finished and not train_members(request, stage, stop):
            return RunResult(compiled, stopped=True)
        if not run_stage(request, compiled, stage, texts, stop):
            return RunResult(compiled, stopped=True)
    # After the last step: training waits for no benchmark, and a missing harness stops no training.
    result = execution_benchmark.catch_up(request, compiled, stop)
    return RunResult(compiled, result.stopped, result.unmeasured)


def prepare_members(request: RunRequest, compiled: Compiled, stop: StopFlag) -> bool:
    """Prepare what the lineages lack whose checkpoints an average needs and Slurm is to train; false if stopped."""
    for stage in compiled.stages:
        for own, texts in train.members_to_queue(request, compiled, stage):
            ready_texts = prepared(own, texts, stop)
            if ready_texts is None or not prepare_members(own, ready_texts.compiled, stop):
                return False
    return True


def train_members(request: RunRequest, stage: CompiledStage, stop: StopFlag) -> bool:
    """Train the lineages of an average's checkpoints that are not here yet; false when it was stopped."""
    points = member_points(request.project, stage)
    for member, stated, point in zip(stage.members, stage.setting.average, points, strict=True):
        if point is not None:
            continue
        own = replace(request, curriculum=member.compiled.curriculum)
        texts = prepared(own, PreparedText.open(own.project, own.curriculum, own.size, stated.stages), stop)
        if texts is None or not all(run_stage(own, texts.compiled, s, texts, stop) for s in texts.compiled.stages):
            return False
    return True


def _check_prepared(request: RunRequest, compiled: Compiled) -> None:
    """Refuse a lineage, with all its text prepared, that a started stage or a branch point does not fit."""
    request.listener.plan_compiled(compiled)
    train.refuse_changed(request, compiled)
    check_started(request.project, compiled, accept=request.accept_change, of_study=request.arm is not None)
    _check_points(request, compiled)


def _check_points(request: RunRequest, compiled: Compiled) -> None:
    """CheckpointError when training passed a branch point, or a checkpoint of an average, and there is none."""
    for stage in compiled.stages:
        if not is_finished(stage_folder(request.project, compiled, stage), stage):
            member_points(request.project, stage)
    for stage, after in zip(compiled.stages, (*compiled.stages[1:], None), strict=True):
        try:
            branch_point(request.project, compiled, stage)
        except CheckpointError as error:
            document = after.setting.document if after else None
            place = document.place(("from",)) if document and ("from",) in document else None
            raise CheckpointError(error.what, place=place, hint=error.hint) from None


def run_stage(
    request: RunRequest, compiled: Compiled, stage: CompiledStage, texts: PreparedText, stop: StopFlag
) -> bool:
    """Train the stage to where the lineage leaves it; false when it was stopped before."""
    listener = request.listener
    folder = stage_folder(request.project, compiled, stage)
    if is_finished(folder, stage):
        restore_records(request.project, compiled, stage)
        listener.stage_skipped(stage)
        return True
    with supervising(folder, stage):
        job = prepared_job(request, compiled, stage, texts)
        listener.stage_started(stage, folder, reached(folder, stage.plan.start))
        try:
            outcome = run_training(job, launcher_for(request), stop, note=listener.note, tick=listener.tick)
            if outcome.get("unsaved"):
                listener.note(f"{stage.name}: not saved: {outcome['unsaved']}; it resumes from its last checkpoint")
        finally:
            listener.stage_ended(stage)
    return outcome["outcome"] != jobs.STOPPED or is_reached(folder, stage)


@contextlib.contextmanager
def supervising(folder: StageFolder, stage: CompiledStage) -> Iterator[None]:
    """Hold the stage while its trainer is supervised; Busy when another process does, or Slurm has it."""
    slurm_record.refuse_if_live(folder.path, stage.name)
    fs.make_directory(folder.path)
    # The trainer's own lock waits a while for a trainer that was killed or orphaned. This one reports another
    # running `run` soon.
    lock = fs.Lock(folder.supervised, f"`{stage.name}`")
    lock.acquire(wait_seconds=1.0)  # a killed process may take a moment to end
    with lock:
        yield


def prepared_job(request: RunRequest, compiled: Compiled, stage: CompiledStage, texts: PreparedText) -> jobs.TrainJob:
    """The job of a stage whose plan is written, its records whole and the checkpoint that it starts from pinned."""
    restore_records(request.project, compiled, stage)
    parent = ready(request, compiled, stage)
    carry_losses(request, compiled, stage, texts)
    return train_job(request, compiled, stage, texts, parent)


def outline(request: RunRequest, compiled: Compiled, texts: PreparedText) -> Iterator[str]:
    """What `run` would write and start now, stage by stage, as lines."""
    check_machine(request, compiled)
    check_tokenizer(texts)
    of_study = request.arm is not None
    check_started(request.project, compiled, accept=request.accept_change, prepared=False, of_study=of_study)
    folders = {stage.name: stage_folder(request.project, compiled, stage) for stage in compiled.stages}
    done = {stage.name for stage in compiled.stages if is_finished(folders[stage.name], stage)}
    if request.machine_entry.launcher == "slurm":
        yield from train.outline(request, compiled, texts)
        yield from benchmark.outline(request, compiled, done)
        return
    launcher = None if request.is_rendered else launcher_for(request)
    for stage in compiled.stages:
        folder = folders[stage.name]
        if stage.name in done:
            yield f"{stage.name}: done at {stage.stop:,} tokens"
            continue
        job = next_attempt(folder.attempts).job
        yield f"{stage.name}: {reached(folder, stage.plan.start):,} -> {stage.stop:,} tokens"
        if launcher is None:
            continue
        if not request.node_rank:
            yield f"  writes {folder.plan}\n  writes {job}"
        yield f"  {shlex.join(launcher.command(job))}"
    if launcher is None:
        yield from kubernetes.outline(request)
