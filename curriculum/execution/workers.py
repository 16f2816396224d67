"""The workers of a machine: how many trainings it runs beside each other, with which threads and GPUs each."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from curriculum import config, fs
from curriculum.errors import PlanError
from curriculum.execution import trainers
from curriculum.execution.request import RunRequest

GPUS = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True, slots=True)
class Worker:
    """The threads of each process of a training, and the GPUs that they see: None where no GPU is counted on."""

    threads: int
    devices: str | None = None


def workers(request: RunRequest) -> tuple[Worker, ...]:
    """The workers of the request's machine, at least one: as many as it states, else one a GPU, or one a core.

    With more workers than GPUs they share them. PlanError for a machine of several nodes without Slurm.
    """
    entry = request.machine_entry
    if entry.nodes > 1:
        raise PlanError(
            f"machine `{request.machine}` is {entry.nodes} nodes, which train one curriculum at a time",
            place=request.project.machines_document.place((request.machine, "nodes")),
            hint="name one curriculum; or take a machine of one node, or one with `launcher: slurm`",
        )
    processes = trainers.started_processes(request)
    gpus = visible_gpus(entry)
    each = [",".join(gpus[at : at + processes]) for at in range(0, len(gpus) - processes + 1, processes)]
    count = entry.workers or len(each) or max(1, fs.processors() // processes)
    threads = request.threads or entry.threads or max(1, fs.processors() // (count * processes))
    return tuple(Worker(threads, each[at % len(each)] if each else None) for at in range(count))


def visible_gpus(entry: config.MachineEntry) -> list[str]:
    """The GPUs that a machine's processes may use, as CUDA_VISIBLE_DEVICES names them."""
    if entry.device == "cpu":
        return []
    stated = os.environ.get("CUDA_VISIBLE_DEVICES")
    here = [name for name in stated.split(",") if name.strip()] if stated is not None else []
    if stated is None:
        count = entry.gpus_per_node or (len(list(GPUS.iterdir())) if GPUS.is_dir() else 0)
        here = [str(number) for number in range(count)]
    return here[: entry.gpus_per_node or None]
