"""The cost of a plan: updates, tokens, time, money and storage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

from curriculum import config
from curriculum.compiler.cadence import task_positions
from curriculum.compiler.compile import CompiledStage
from curriculum.compiler.sources import SourceChoice
from curriculum.plan.model import ModelConfig
from curriculum.units import show_count

KEPT_BY_CADENCE = 2
"""Checkpoints of the cadence that are kept next to every stage's end; the job's `keep_last`."""


def cost(
    stages: Sequence[CompiledStage],
    choices: Iterable[SourceChoice],
    curricula: int,
    machine_name: str,
    machine: config.MachineEntry,
) -> dict[str, Any]:
    """Updates, tokens, GPU-hours, money and storage of the stages of some curricula, and the assumptions made."""
    tokens = sum(stage.stop - stage.plan.start for stage in stages)
    model = stages[-1].plan.model
    count = ModelConfig.from_json(model).parameters
    checkpoint_bytes = count * 12
    measured = sum(
        len(
            {
                at
                for positions in task_positions(stage.plan, stage.task_every).values()
                for at in positions
                if at < stage.stop
            }
        )
        for stage in stages
    )
    kept = len(stages) + measured + KEPT_BY_CADENCE * curricula
    token_bytes = 2 if model["vocab_size"] <= 1 << 16 else 4
    windows = [choice.windows for choice in choices]
    text = sum(windows) * stages[-1].plan.sequence_length * token_bytes if all(windows) else None
    gpus = machine.nodes * machine.gpus_per_node
    hours: float | None = None
    money: float | None = None
    assumptions = [
        f"a checkpoint holds 12 bytes for each of {count:,} parameters: fp32 weights and both Adam moments",
        f"{kept} checkpoints kept: every stage's end and the last {KEPT_BY_CADENCE} of the cadence"
        + (" of each curriculum" if curricula > 1 else "")
        + (f", and {measured} at which tasks are measured" if measured else ""),
    ]
    if machine.throughput is not None and gpus:
        hours = float(Fraction(tokens) / machine.throughput / 3600)
        assumptions.append(
            f"{show_count(int(machine.throughput))} tokens/s on each of {gpus} GPUs, "
            f"as machine `{machine_name}` declares"
        )
        if machine.price is not None:
            money = hours * float(machine.price)
            assumptions.append(f"{float(machine.price):g} USD a GPU-hour, as machine `{machine_name}` declares")
    else:
        assumptions.append(f"machine `{machine_name}` declares no throughput: no hours and no money are estimated")
    return {
        "machine": machine_name,
        "gpus": gpus,
        "parameters": count,
        "updates": sum(stage.steps_run for stage in stages),
        "tokens": tokens,
        "gpu_hours": hours,
        "days": hours / gpus / 24 if hours is not None and gpus else None,
        "usd": money,
        "checkpoint_bytes": checkpoint_bytes,
        "checkpoints_kept": kept,
        "storage_bytes": checkpoint_bytes * kept,
        "token_bytes": text,
        "tokens_at_risk": max(stage.checkpoint_every for stage in stages),
        "assumptions": assumptions,
    }
