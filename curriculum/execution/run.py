"""Walks a lineage from its root: prepares what is missing, skips what is done, starts what is not, waits.

It decides nothing about training: it compiles plans, compares them with what has begun, writes job files and
hands them to the supervisor.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import signal
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from curriculum import fs
from curriculum.artifacts import checkpoints, jobs
from curriculum.artifacts.job_process import StopFlag, stop_on_signals
from curriculum.artifacts.stage_folder import Attempt, new_attempt, next_attempt
from curriculum.compiler import prepared_text
from curriculum.compiler.compile import Compiled, CompiledStage, compile_curriculum
from curriculum.config.project import Project
from curriculum.errors import PlanError, RunFailed
from curriculum.execution import benchmark as execution_benchmark
from curriculum.execution import join
from curriculum.execution.notices import AttemptNotices
from curriculum.execution.prepare import prepare
from curriculum.execution.request import RunRequest, job_machine
from curriculum.execution.slurm import benchmark, train
from curriculum.execution.train_job import ready, train_job
from curriculum.launchers import process as subprocess_launcher
from curriculum.launchers import slurm, slurm_record, torchrun
from curriculum.launchers.base import Launcher
from curriculum.launchers.supervisor import Launch, silence, supervise
from curriculum.plan.ranks import share_of_rank
from curriculum.runs.accept_change import check_started
from curriculum.runs.folders import (
    branch_point,
    grace_of,
    is_finished,
    is_reached,
    stage_folder,
)


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended. `stopped` means saved, and the same command resumes.

    `unmeasured` says, a line each, which tasks of `every: {tasks: …}` were not measured and why.
    `handed` are the jobs that a cluster trains in its own time; the same command tells how they stand.
    """

    compiled: Compiled
    stopped: bool
    trained: tuple[str, ...]
    unmeasured: tuple[str, ...] = ()
    handed: tuple[train.SubmittedStage, ...] = ()


def run(request: RunRequest) -> Result:
    """Bring every stage of the lineage to its end, each as a process of its own."""
    project = request.project
    # Faulty files, and a machine that does not fit them, are refused before any process starts.
    texts = prepared_text.read_prepared_text(project, request.curriculum, request.size)
    check_machine(request, texts.compiled)
    if request.node_rank:
        with stop_on_signals() as stop:
            return Result(
                texts.compiled, not join.join(request, texts.compiled, launcher_for(request), stop), ()
            )
    early = partial(check_started, project, accept=request.accept_change, prepared=False)
    early(texts.compiled)
    with stop_on_signals() as stop, join.leading(request):
        prepared = prepare(request, texts, stop, with_tokenizer=early)
        if prepared is None:
            return Result(texts.compiled, True, ())
        texts, compiled = prepared, prepared.compiled
        request.listener.compiled(compiled)
        train.refuse_changed(request, compiled)
        check_started(project, compiled, accept=request.accept_change)
        for stage in compiled.stages:
            branch_point(project, compiled, stage)  # refuses one that was passed and not kept
        if request.machine_entry.launcher == "slurm":
            handed = train.submit(request, compiled, texts)
            measured, left = benchmark.submit(request, compiled, handed)
            return Result(compiled, False, (), tuple(left), handed + measured)
        trained: list[str] = []
        for stage in compiled.stages:
            folder = stage_folder(project, compiled, stage)
            if is_finished(folder, stage):
                request.listener.skipped(stage)
                continue
            slurm_record.refuse_if_live(folder.path, stage.name)
            fs.make_directory(folder.path)
            # The trainer has a lock of its own, and waits a while for one that was killed or orphaned to let go
            # of it; whoever finds a living `run` at work is told so soon.
            lock = fs.Lock(folder.supervised, f"`{stage.name}`")
            lock.acquire(wait_seconds=1.0)  # one that was killed may take a moment to be gone
            with lock:
                outcome = _train(request, compiled, stage, texts, stop)
            request.listener.ended(stage, outcome)
            trained.append(stage.name)
            if outcome["outcome"] == jobs.STOPPED and not is_reached(folder, stage):
                return Result(compiled, True, tuple(trained))
        # After the last step, so that no measuring makes training wait, and no harness that is missing stops it.
        caught_up = execution_benchmark.catch_up(request, compiled, stop)
        return Result(compiled, caught_up.stopped, tuple(trained), caught_up.unmeasured)


def check_machine(request: RunRequest, compiled: Compiled, *, only_shown: bool = False) -> None:
    """PlanError when the machine cannot serve the request, or a batch still to be trained cannot be dealt to it.

    What is `only_shown` needs no Slurm here.
    """
    project, machine = request.project, request.machine_entry
    document = project.machines_document
    if machine.launcher == "slurm" and not only_shown:
        try:
            slurm.require(machine.slurm.partition if machine.slurm else None)
        except PlanError as error:
            raise train.placed(error, request) from None
    elif machine.launcher != "slurm":
        launcher_for(request)
    for number, name in enumerate(machine.trackers):
        if importlib.util.find_spec(name) is None:
            raise PlanError(
                f"the tracker `{name}` is not installed",
                place=document.place((request.machine, "trackers", number)),
                hint=f"`pip install 'curriculum[{name}]'`, or leave it out",
            )
    for stage in compiled.stages:
        if is_reached(stage_folder(project, compiled, stage), stage):
            continue
        try:
            share_of_rank(stage.plan.batch_sequences, request.world, machine.micro_batch)
        except PlanError as error:
            stated = [
                key
                for key in ("micro_batch", "processes", "gpus_per_node", "nodes")
                if (request.machine, key) in document
            ]
            asked = request.processes is not None and stage.plan.batch_sequences % request.world
            place = document.place((request.machine, stated[0])) if stated and not asked else None
            raise PlanError(f"stage `{stage.name}`: {error.what}", place=place, hint=error.hint) from None


def launcher_for(request: RunRequest) -> Launcher:
    """What starts the processes of a job on this machine; PlanError when it is one of several and not which."""
    entry = request.machine_entry
    processes = request.processes or entry.processes
    threads = subprocess_launcher.default_threads(entry.model_dump(), processes)
    if entry.nodes == 1:
        if request.node_rank:
            raise PlanError(
                f"machine `{request.machine}` is one node, and this is said to be node {request.node_rank}",
                place=request.project.machines_document.place((request.machine,)),
                hint="`nodes:` says how many there are",
            )
        return subprocess_launcher.ProcessLauncher(processes, threads)
    address = request.address or entry.address
    if request.node_rank is None or address is None:
        lacking = "which of them this is" if request.node_rank is None else "where the first of them is"
        raise PlanError(
            f"machine `{request.machine}` is {entry.nodes} nodes, and nothing says {lacking}",
            place=request.project.machines_document.place((request.machine, "nodes")),
            hint="the same command on every node, each with its own number: `--node-rank 0` on the first, whose "
            "`--master-addr HOST[:PORT]` all are told (or `address:` in machines.yaml)",
        )
    return torchrun.TorchrunLauncher(
        nodes=entry.nodes,
        node_rank=request.node_rank,
        address=address,
        processes=processes,
        threads=threads,
        join_limit=entry.join_limit,
    )


def _train(
    request: RunRequest,
    compiled: Compiled,
    stage: CompiledStage,
    texts: prepared_text.PreparedText,
    stop: StopFlag,
) -> Mapping[str, Any]:
    folder = stage_folder(request.project, compiled, stage)
    parent = ready(request, compiled, stage)
    launcher = launcher_for(request)
    launched: list[tuple[Attempt, float]] = []
    machine = job_machine(request.machine_entry, None)
    teller = AttemptNotices(stage.name, folder, grace_of(request.machine_entry), request.listener.noted)

    def launch() -> Launch:
        attempt = new_attempt(folder.attempts)
        job = train_job(
            request,
            compiled,
            stage,
            texts,
            attempt=attempt,
            parent_checkpoint=parent,
            threads=launcher.threads,
        )
        jobs.save(job, attempt.job)
        launcher.announce(attempt)
        teller.begins(attempt)
        words = launcher.command(attempt.job)
        launched.append((attempt, time.monotonic()))
        return Launch(subprocess_launcher.begin(words, threads=launcher.threads, log=attempt.log), attempt)

    def reached() -> int:
        last = checkpoints.latest(folder)
        return last.position if last else stage.plan.start

    def tick() -> None:
        request.listener.tick()
        attempt, since = launched[-1]
        launcher.check(attempt, time.monotonic() - since)
        teller.look()

    request.listener.begun(stage, folder, reached())
    outcome = supervise(
        launch,
        stop=stop,
        ask_to_stop=lambda process: subprocess_launcher.stop(process, urgent=stop.urgent),
        kill=subprocess_launcher.kill,
        progress=reached,
        tick=tick,
        examine=subprocess_launcher.examine,
        silence=silence(machine),
    )
    if outcome.get("unsaved"):
        request.listener.noted(
            f"{stage.name}: not saved: {outcome['unsaved']}; it resumes from its last checkpoint"
        )
    return outcome


def outline(request: RunRequest, compiled: Compiled) -> list[str]:
    """What `run` would write and start now, stage by stage, without doing it."""
    check_machine(request, compiled, only_shown=True)
    check_started(request.project, compiled, accept=request.accept_change, prepared=False)
    if request.machine_entry.launcher == "slurm":
        trained = {
            s.name for s in compiled.stages if is_finished(stage_folder(request.project, compiled, s), s)
        }
        return [*train.outline(request, compiled), *benchmark.outline(request, compiled, trained)]
    launcher = launcher_for(request)
    lines = []
    for stage in compiled.stages:
        folder = stage_folder(request.project, compiled, stage)
        if is_finished(folder, stage):
            lines.append(f"{stage.name}: done at {stage.stop:,} tokens")
            continue
        begin = slurm_record.reached(folder, stage.plan.start)
        job = next_attempt(folder.attempts).job
        lines.append(f"{stage.name}: {begin:,} -> {stage.stop:,} tokens")
        if not request.node_rank:
            lines.append(f"  writes {folder.plan}\n  writes {job}")
        lines.append(f"  {shlex.join(launcher.command(job))}")
    return lines


def stop(project: Project, name: str, size: str) -> list[str]:
    """Ask whatever trains a stage of `name`'s lineage to save and end, wherever it runs; what was done, in words."""
    compiled = compile_curriculum(project, name, size)
    said = []
    for stage in reversed(compiled.stages):  # what waits goes first, so that nothing begins meanwhile
        folder = stage_folder(project, compiled, stage)
        if (words := train.stop(folder.measuring)) is not None:
            said.append(f"{benchmark.label(stage.name)}: {words}")
        if (words := train.stop(folder.path)) is not None:
            said.append(f"{stage.name}: {words}")
            continue
        holder = fs.lock_holder(folder.lock)
        if holder is None:
            continue
        if holder.get("host") not in (None, socket.gethostname()):
            raise RunFailed(
                f"`{stage.name}` runs on {holder['host']} (pid {holder.get('pid')}), which cannot be told from here",
                hint=f"say `curriculum stop {name}` there",
            )
        os.kill(int(holder["pid"]), signal.SIGUSR1)  # not SIGTERM: nothing ends it after a grace
        said.append(f"asked {stage.name} to save and end")
    return said
