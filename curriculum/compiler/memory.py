"""The memory that a stage needs of each of a machine's GPUs, whether it fits there, and what would make it fit.

The numbers are `plan/memory.py`'s. They hold for training in bf16 with compiled blocks, which is what a GPU does unless
its machine says otherwise; of other training nothing is said, and nothing is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from curriculum import config
from curriculum.config.yaml import Document
from curriculum.errors import PlanError
from curriculum.plan import memory
from curriculum.plan.host_memory import host_need
from curriculum.plan.model import ModelConfig
from curriculum.plan.ranks import shares_of_rank
from curriculum.plan.stage import StagePlan
from curriculum.units import show_bytes

MARGIN: Final = (9, 10)
"""The part of a GPU's memory that a micro-batch which is not stated may fill: fragments and NCCL's buffers grow."""

_LESS_OF_MODEL: Final = {"exchange": "every-micro-batch", "reshard": "after-forward"}
CHANGES: Final[tuple[Mapping[str, str], ...]] = (
    {"sharding": "hybrid"},
    {"exchange": "every-micro-batch"},
    {"reshard": "after-forward"},
    {"activation_checkpointing": "selective"},
    {"activation_checkpointing": "selective"} | _LESS_OF_MODEL,
    {"activation_checkpointing": "full"},
    {"activation_checkpointing": "full"} | _LESS_OF_MODEL,
    {"sharding": "full"},
    {"sharding": "full", "activation_checkpointing": "full"} | _LESS_OF_MODEL,
)
"""What takes less memory, the cheapest in time first."""


@dataclass(frozen=True, slots=True)
class Need:
    """The peak of a stage on each GPU, in bytes by kind: a step is `micro_batches` of `micro_batch` sequences."""

    micro_batch: int
    micro_batches: int
    kinds: Mapping[str, int]

    @property
    def bytes(self) -> int:
        return sum(self.kinds.values())


def need(plan: StagePlan, machine: config.MachineEntry, processes: int | None = None) -> Need | None:
    """What the stage needs with the machine's micro-batch; `processes` replaces the machine's on each node.

    None where it is not known: on a CPU, with neither `micro_batch` nor `memory`, and where the batch does not divide.
    """
    size = machine.micro_batch or chosen_micro_batch(plan, machine, processes)
    if size is None or not _counted(plan, machine):
        return None
    try:
        shares_of_rank(plan.batches, machine.nodes * (processes or machine.processes), size)
    except PlanError:
        return None
    return _need(plan, machine, size, processes)


def chosen_micro_batch(plan: StagePlan, machine: config.MachineEntry, processes: int | None = None) -> int | None:
    """The largest micro-batch for which nine tenths of the machine's memory suffice, else the smallest there is.

    None where the machine states its own, or no memory.
    """
    if machine.micro_batch is not None or machine.memory is None or not _counted(plan, machine):
        return None
    try:
        usable = machine.memory * MARGIN[0] // MARGIN[1]
        return _largest(plan, machine, usable, processes) or 1
    except PlanError:
        return None


def require_room(
    stage: str,
    plan: StagePlan,
    machine_name: str,
    machine: config.MachineEntry,
    document: Document,
    processes: int | None,
) -> None:
    """PlanError when the stage needs more than the machine's memory, with the changes that fit."""
    needed = need(plan, machine, processes)
    if needed is None or machine.memory is None or needed.bytes <= machine.memory:
        return
    keys = ("micro_batch", "memory")
    place = next(document.place((machine_name, key)) for key in keys if (machine_name, key) in document)
    has = f"machine `{machine_name}` has {show_bytes(machine.memory)}"
    raise PlanError(
        f"stage `{stage}`: {memory.sentence(needed.micro_batch, needed.kinds)}; {has}",
        place=place,
        hint=_advice(plan, machine, needed, processes),
    )


def _advice(plan: StagePlan, machine: config.MachineEntry, needed: Need, processes: int | None) -> str:
    """The largest micro-batch that fits and the cheapest change with which the present one does; or one for any."""
    assert machine.memory is not None
    changes = [(_written(change), machine.model_copy(update=dict(change))) for change in CHANGES]
    if fitting := _largest(plan, machine, machine.memory, processes):
        smaller = f"`micro_batch: {fitting}` is the largest that fits"
        for change, entry in changes:
            if _need(plan, entry, needed.micro_batch, processes).bytes <= machine.memory:
                return f"{smaller}; or {change} makes room for {needed.micro_batch}"
        return smaller
    for change, entry in changes:
        if fitting := _largest(plan, entry, machine.memory, processes):
            return f"{change} makes room for a micro-batch of up to {fitting}"
    return "no micro-batch fits: share the model among more GPUs with `sharding: full`, or take a smaller one"


def _written(change: Mapping[str, str]) -> str:
    *others, last = (f"`{key}: {value}`" for key, value in change.items())
    return f"{', '.join(others)} and {last}" if others else last


def summary(plan: StagePlan, machine: config.MachineEntry) -> dict[str, Any] | None:
    """The need as JSON values; None where it is not known."""
    needed = need(plan, machine)
    if needed is None:
        return None
    return {
        "micro_batch": needed.micro_batch,
        "micro_batches": needed.micro_batches,
        "bytes": needed.bytes,
        "device_bytes": machine.memory,
        "kinds": {kind.replace(" ", "_"): amount for kind, amount in needed.kinds.items()},
    }


def host_summary(plan: StagePlan, machine: config.MachineEntry) -> dict[str, Any]:
    """What training and a save keep in the memory of each node, as JSON values."""
    model = ModelConfig.from_json(plan.model)
    needed = host_need(
        model.parameters,
        saved=memory.saved_bytes(model, plan.optimizer),
        ranks=machine.nodes * machine.processes,
        local_ranks=machine.processes,
        sharding=machine.sharding,
        on_cpu=not _on_gpu(machine),
    )
    return {
        "state_bytes": needed.state,
        "staging_bytes": needed.staging,
        "least_bytes": needed.node,
        "node_bytes": machine.host_memory,
        "copies": None if machine.host_memory is None else needed.copies(machine.host_memory),
    }


def _on_gpu(machine: config.MachineEntry) -> bool:
    return machine.memory is not None or machine.gpus_per_node > 0 or machine.device == "cuda"


def _counted(plan: StagePlan, machine: config.MachineEntry) -> bool:
    """Whether the formula holds for training the stage on the machine."""
    holds = memory.formula_holds(precision=machine.precision, compile=machine.compile, exactness=machine.exactness)
    dense_mask = plan.mask_documents and machine.attention == "sdpa"
    return _on_gpu(machine) and holds and not dense_mask


def _largest(plan: StagePlan, machine: config.MachineEntry, most: int, processes: int | None) -> int | None:
    return next(
        (n for n in _micro_batches(plan, machine, processes) if _need(plan, machine, n, processes).bytes <= most), None
    )


def _micro_batches(plan: StagePlan, machine: config.MachineEntry, processes: int | None) -> Iterator[int]:
    """The sizes that divide a process's share of the batch, largest first; PlanError where there is no such share."""
    share = shares_of_rank(plan.batches, machine.nodes * (processes or machine.processes))
    small = [n for n in range(1, math.isqrt(share) + 1) if share % n == 0]
    return iter(sorted({*small, *(share // n for n in small)}, reverse=True))


def _need(plan: StagePlan, machine: config.MachineEntry, micro_batch: int, processes: int | None) -> Need:
    local = processes or machine.processes
    step = memory.step_of(
        plan,
        micro_batch=micro_batch,
        ranks=machine.nodes * local,
        local_ranks=local,
        sharding=machine.sharding,
        checkpointing=machine.activation_checkpointing,
        reshard=machine.reshard,
        exchange=machine.exchange,
    )
    return Need(micro_batch, step.micro_batches, memory.peak(ModelConfig.from_json(plan.model), step, plan.optimizer))
