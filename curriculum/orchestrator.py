"""Walks a lineage from its root: prepares what is missing, skips what is done, starts what is not, waits.

It decides nothing about training: it compiles plans, compares them with what has begun, writes job files and
hands them to the supervisor.
"""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from curriculum import checkpoints, corpora, durable, imports, measuring
from curriculum import job as jobs
from curriculum.attempts import Run, fresh_attempt, job_machine
from curriculum.begun import check_begun
from curriculum.errors import PlanError
from curriculum.launchers import local
from curriculum.plan import share_of_rank
from curriculum.planner import Compiled, CompiledStage, compile_curriculum, kept_positions
from curriculum.preparation import prepare
from curriculum.project import Project
from curriculum.runs import (
    LOCK,
    PLAN,
    SUPERVISED,
    branch_point,
    checkpoint_at,
    is_finished,
    is_reached,
    stage_folder,
)
from curriculum.supervisor import Launch, StopRequested, stop_on_signals, supervise


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended. `stopped` means saved, and the same command goes on.

    `unmeasured` says, a line each, which tasks of `every: {tasks: …}` were not measured and why.
    """

    compiled: Compiled
    stopped: bool
    trained: tuple[str, ...]
    unmeasured: tuple[str, ...] = ()


def run(request: Run) -> Result:
    """Bring every stage of the lineage to its end, each as a process of its own."""
    project = request.project
    # Faulty files, and a machine that does not fit them, are refused before any process starts.
    declared, _ = corpora.compile_with_texts(project, request.curriculum, request.size)
    processes = processes_for(request, declared)
    early = partial(check_begun, project, accept=request.accept_change, prepared=False)
    early(declared)
    with stop_on_signals() as stop:
        texts = prepare(request, stop, with_tokenizer=early)
        if texts is None:
            return Result(declared, True, ())
        compiled = compile_curriculum(
            project,
            request.curriculum,
            request.size,
            facts=texts.facts,
            begun=texts.begun,
            tokenizer=texts.tokenizer,
        )
        request.listener.compiled(compiled)
        check_begun(project, compiled, accept=request.accept_change)
        for stage in compiled.stages:
            branch_point(project, compiled, stage)  # refuses one that was passed and not kept
        trained: list[str] = []
        for stage in compiled.stages:
            folder = stage_folder(project, compiled, stage)
            if is_finished(folder, stage):
                request.listener.skipped(stage)
                continue
            durable.make_directory(folder)
            # The trainer has a lock of its own, and waits a while for one that was killed or orphaned to let go
            # of it; whoever finds a living `run` at work is told so soon.
            lock = durable.Lock(folder / SUPERVISED, f"`{stage.name}`")
            lock.acquire(wait_seconds=1.0)  # one that was killed may take a moment to be gone
            with lock:
                outcome = _train(request, compiled, stage, texts, processes, stop)
            request.listener.ended(stage, outcome)
            trained.append(stage.name)
            if outcome["outcome"] == jobs.STOPPED and not is_reached(folder, stage):
                return Result(compiled, True, tuple(trained))
        # After the last step, so that no measuring makes training wait, and no harness that is missing stops it.
        caught_up = measuring.catch_up(request, compiled, stop)
        return Result(compiled, caught_up.stopped, tuple(trained), caught_up.left)


def processes_for(request: Run, compiled: Compiled) -> int:
    """How many processes train each stage; PlanError when a batch still to be trained cannot be dealt to them."""
    project, machine = request.project, request.machine_entry
    document = project.machines_document
    if machine.launcher == "slurm":
        raise PlanError(
            f"machine `{request.machine}` is started by Slurm, which `curriculum run` cannot do",
            place=document.place((request.machine, "launcher")),
            hint="`curriculum plan --machine` shows what it would take; `launcher: torchrun` runs on one machine",
        )
    for number, name in enumerate(machine.trackers):
        if importlib.util.find_spec(name) is None:
            raise PlanError(
                f"the tracker `{name}` is not installed",
                place=document.place((request.machine, "trackers", number)),
                hint=f"`pip install 'curriculum[{name}]'`, or leave it out",
            )
    processes = request.processes or machine.processes
    for stage in compiled.stages:
        if is_reached(stage_folder(project, compiled, stage), stage):
            continue
        try:
            share_of_rank(stage.plan.batch_sequences, processes, machine.micro_batch)
        except PlanError as error:
            stated = [
                key
                for key in ("micro_batch", "processes", "gpus_per_node")
                if (request.machine, key) in document
            ]
            asked = request.processes is not None and stage.plan.batch_sequences % processes
            place = document.place((request.machine, stated[0])) if stated and not asked else None
            raise PlanError(f"stage `{stage.name}`: {error.what}", place=place, hint=error.hint) from None
    return processes


def _train(
    request: Run,
    compiled: Compiled,
    stage: CompiledStage,
    texts: corpora.Texts,
    processes: int,
    stop: StopRequested,
) -> Mapping[str, Any]:
    project = request.project
    folder = stage_folder(project, compiled, stage)
    if (folder / PLAN).exists():
        durable.settle(folder / PLAN)
    else:
        stage.plan.save(folder / PLAN)
    parent = None
    if stage.parent is not None:
        parent_folder = stage_folder(project, compiled, stage.parent)
        parent = checkpoint_at(parent_folder, stage.parent.stop)
        assert parent is not None, "the lineage is walked from its root"
        if stage.parent.stop < stage.parent.plan.end:
            checkpoints.pin(parent_folder, stage.parent.stop, stage.setting.curriculum)
    parent_checkpoint = parent.path if parent else None
    if parent is None and stage.plan.parent is not None:
        parent_checkpoint = imports.checkpoint(project, stage.plan.parent.fingerprint)
    machine = request.machine_entry
    threads = local.default_threads(machine.model_dump(), processes)

    def launch() -> Launch:
        attempt = fresh_attempt(folder / "attempts")
        job = jobs.TrainJob(
            plan=str(folder / PLAN),
            stage_folder=str(folder),
            attempt_folder=str(attempt),
            data={name: str(texts.folder(source.dataset)) for name, source in stage.plan.sources.items()},
            held_out={
                name: jobs.HeldOut(folder=str(texts.folder(choice.dataset)), windows=texts.held_out_windows)
                for name, choice in compiled.sources.items()
            },
            parent_checkpoint=str(parent_checkpoint) if parent_checkpoint else None,
            generation=0,
            checkpoint_every=stage.checkpoint_every,
            evaluate_every=stage.evaluate_every,
            keep=kept_positions(project, stage, compiled.scale),
            machine=job_machine(machine, threads, request.profile),
            stop_at=stage.stop if stage.stop < stage.plan.end else None,
            lineage=tuple(s.name for s in compiled.stages[: compiled.stages.index(stage) + 1]),
        )
        jobs.save(job, attempt / "job.json")
        process = local.start(
            attempt / "job.json", processes=processes, threads=threads, log=attempt / "rank0.log"
        )
        return Launch(process, attempt)

    def reached() -> int:
        last = checkpoints.latest(folder / "checkpoints")
        return last.position if last else stage.plan.start

    request.listener.begun(stage, folder, reached())
    return supervise(
        launch,
        stop=stop,
        ask_to_stop=local.stop,
        kill=local.kill,
        progress=reached,
        tick=request.listener.tick,
    )


def outline(request: Run, compiled: Compiled) -> list[str]:
    """What `run` would do now, a line a job, without doing it."""
    lines = []
    processes = processes_for(request, compiled)
    for stage in compiled.stages:
        folder = stage_folder(request.project, compiled, stage)
        if is_reached(folder, stage):
            lines.append(f"{stage.name}: done at {stage.stop:,} tokens")
            continue
        last = checkpoints.latest(folder / "checkpoints")
        begin = last.position if last else stage.plan.start
        command = " ".join(local.command(folder / "attempts" / "NEXT" / "job.json", processes))
        lines.append(f"{stage.name}: {begin:,} -> {stage.stop:,} tokens\n  {command}")
    return lines


def stop(project: Project, name: str, size: str) -> str | None:
    """Ask the process that trains a stage of `name`'s lineage to save and end; which stage, or None."""
    compiled = compile_curriculum(project, name, size)
    for stage in compiled.stages:
        holder = durable.holder_of(stage_folder(project, compiled, stage) / LOCK)
        if holder is not None:
            os.kill(int(holder["pid"]), signal.SIGTERM)
            return stage.name
    return None
