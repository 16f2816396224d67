"""The machine of a request: whether it can serve the plan, its launcher, and the part of it that the runner reads."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from curriculum import config
from curriculum.artifacts import jobs
from curriculum.compiler import machine_kernels, memory
from curriculum.compiler.compile import Compiled
from curriculum.config.project import Project
from curriculum.errors import PlanError
from curriculum.execution import trainers
from curriculum.execution.request import RunRequest
from curriculum.launchers.process import Launcher, ProcessLauncher, default_threads
from curriculum.launchers.torchrun import TorchrunLauncher
from curriculum.plan.ranks import shares_of_rank
from curriculum.runs.folders import is_reached, stage_folder


def check_devices(project: Project, compiled: Compiled, machine_name: str, processes: int | None = None) -> None:
    """PlanError when a stage still to be trained needs what the machine's devices have not: a kernel, or memory."""
    if project.machine(machine_name).trainer is not None:
        return  # kernels and memory are our own trainer's
    for stage in compiled.stages:
        if not is_reached(stage_folder(project, compiled, stage), stage):
            machine, document = project.machine(machine_name), project.machines_document
            machine_kernels.require_kernels(stage.name, stage.plan, machine_name, machine, document, processes)
            memory.require_room(stage.name, stage.plan, machine_name, machine, document, processes)


def check_machine(request: RunRequest, compiled: Compiled) -> None:
    """PlanError when a tracker is not installed, or a stage still to be trained does not fit the machine.

    Its batch may not be divided evenly among the ranks, or its devices have too little memory.
    """
    machine = request.machine_entry
    document = request.project.machines_document
    if machine.launcher != "slurm" and not request.is_rendered:
        launcher_for(request)
    for number, name in enumerate(() if request.is_rendered else machine.trackers):
        if importlib.util.find_spec(name) is None:
            raise PlanError(
                f"the tracker `{name}` is not installed",
                place=document.place((request.machine, "trackers", number)),
                hint=f"`pip install 'curriculum[{name}]'`, or leave it out",
            )
    for stage in compiled.stages:
        if is_reached(stage_folder(request.project, compiled, stage), stage):
            continue
        try:
            shares_of_rank(stage.plan.batches, request.world, machine.micro_batch)
        except PlanError as error:
            keys = ("micro_batch", "processes", "gpus_per_node", "nodes")
            paths = [(request.machine, key) for key in keys if (request.machine, key) in document]
            by_option = request.processes is not None and any(batch % request.world for batch in stage.plan.batches)
            place = document.place(paths[0]) if paths and not by_option else None
            raise PlanError(f"stage `{stage.name}`: {error.what}", place=place, hint=error.hint) from None
    check_devices(request.project, compiled, request.machine, request.processes)
    trainers.check(request, compiled)


def launcher_for(request: RunRequest) -> Launcher:
    """The launcher of jobs on this machine; PlanError when it is one of several nodes and its number is not given."""
    entry = request.machine_entry
    document = request.project.machines_document
    trainer = trainers.of(request)
    processes = trainers.started_processes(request)
    threads = default_threads(request.threads or entry.threads, processes)
    if entry.nodes == 1:
        if request.node_rank:
            raise PlanError(
                f"machine `{request.machine}` is one node, and `--node-rank` is {request.node_rank}",
                place=document.place((request.machine,)),
                hint="`nodes:` is the number of nodes",
            )
        return ProcessLauncher(processes, threads, trainer, request.devices)
    address = request.address or entry.address
    if request.node_rank is None or address is None:
        missing = "the number of this one" if request.node_rank is None else "the address of the first"
        raise PlanError(
            f"machine `{request.machine}` is {entry.nodes} nodes, and {missing} is not given",
            place=document.place((request.machine, "nodes")),
            hint="the same command on every node, each with its own number: `--node-rank 0` on the first, and its "
            "address on all: `--master-addr HOST[:PORT]` (or `address:` in machines.yaml)",
        )
    return TorchrunLauncher(
        nodes=entry.nodes,
        node_rank=request.node_rank,
        address=address,
        processes=processes,
        threads=threads,
        trainer=trainer,
        join_limit=entry.join_limit,
    )


def job_machine(
    entry: config.MachineEntry, threads: int | None, profile: Mapping[str, int] | None = None
) -> jobs.Machine:
    """The part of a machines.yaml entry that the runner reads; `profile` replaces the steps that it traces."""
    both = config.MachineEntry.model_fields.keys() & jobs.Machine.__dataclass_fields__.keys()
    values = {key: getattr(entry, key) for key in both} | {
        "threads": threads,
        "profile": profile or (entry.profile.model_dump() if entry.profile else None),
        "peak_flops": float(entry.peak) * 1e12 if entry.peak else None,
        "hang_limit": float(entry.hang_limit),
        "grace": float(entry.grace) if entry.grace is not None else None,
    }
    return jobs.Machine(**values)
