"""The cost of a plan: updates, tokens, evaluations, time, money and storage."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from typing import Any

from curriculum import config
from curriculum.artifacts.checkpoints import KEEP_LAST, retained
from curriculum.compiler.cadence import boundaries
from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.compiler.kept_positions import kept_positions
from curriculum.compiler.lineage_tree import stage_tree
from curriculum.config.evaluation_budget import EVALUATED
from curriculum.config.project import Project
from curriculum.plan.memory import saved_bytes
from curriculum.plan.model import ModelConfig
from curriculum.units import show_count


def cost(
    project: Project, lineages: Sequence[Compiled], machine_name: str, machine: config.MachineEntry
) -> dict[str, Any]:
    """Updates, tokens, GPU-hours, money and storage of some curricula, each stage once, and the assumptions made."""
    tree = stage_tree(lineages).values()
    stages = [node.stage for node in tree]
    tokens = sum(stage.stop - stage.plan.start for stage in stages)
    model = stages[-1].plan.model
    network, optimizer = ModelConfig.from_json(model), stages[-1].plan.optimizer
    count, checkpoint_bytes = network.parameters, saved_bytes(network, optimizer)
    kept = sum(len(checkpoints_kept(project, node.stage, node.lineage.scale)) for node in tree)
    token_bytes = 2 if model["vocab_size"] <= 1 << 16 else 4
    choices = {(c.dataset, c.windows): c for lineage in lineages for c in lineage.sources.values()}.values()
    windows = [choice.windows for choice in choices if not choice.probe]
    text = sum(windows) * stages[-1].plan.sequence_length * token_bytes if all(windows) else None
    evaluations = sum(len(evaluation_positions(stage)) for stage in stages)
    evaluated = sum(tokens_evaluated(node.stage, node.lineage) for node in tree)
    compute = tokens + evaluated * EVALUATED
    gpus = machine.nodes * machine.gpus_per_node
    hours: float | None = None
    money: float | None = None
    assumptions = [
        f"a checkpoint holds {checkpoint_bytes / count:.3g} bytes for each of {count:,} parameters: fp32 weights and "
        + _state_of(optimizer),
        f"{kept} checkpoints kept: of every stage its end, the last {KEEP_LAST} of its cadence, and what is kept by "
        "name, branched from or measured; one more during a save",
        "evaluating a token takes a third of the compute of training on it"
        + (
            ""
            if all(choice.held_out is not None for choice in choices)
            else "; what is not prepared has enough windows"
        ),
    ]
    devices = gpus or machine.nodes * machine.processes
    if machine.throughput is not None:
        hours = float(compute / machine.throughput / 3600)
        assumptions.append(
            f"{show_count(int(machine.throughput))} tokens/s on each of {devices} {'GPUs' if gpus else 'processes'}, "
            f"as machine `{machine_name}` declares"
        )
        if machine.price is not None and gpus:
            money = hours * float(machine.price)
            assumptions.append(f"{float(machine.price):g} USD a GPU-hour, as machine `{machine_name}` declares")
    else:
        assumptions.append(f"machine `{machine_name}` declares no throughput: no hours and no money are estimated")
    share = float(evaluated * EVALUATED / compute)
    return {
        "machine": machine_name,
        "gpus": gpus,
        "parameters": count,
        "updates": sum(stage.steps_run for stage in stages),
        "tokens": tokens,
        "evaluations": evaluations,
        "tokens_evaluated": evaluated,
        "evaluation_share": share,
        "gpu_hours": hours if gpus else None,
        "evaluation_seconds": hours * share * 3600 / devices if hours is not None else None,
        "days": hours / devices / 24 if hours is not None else None,
        "usd": money,
        "checkpoint_bytes": checkpoint_bytes,
        "checkpoints_kept": kept,
        "storage_bytes": checkpoint_bytes * kept,
        "token_bytes": text,
        "tokens_at_risk": max(stage.checkpoint_every for stage in stages),
        "assumptions": assumptions,
    }


def _state_of(optimizer: Mapping[str, Any]) -> str:
    """What a checkpoint holds beside the weights, in words."""
    moments = "the moments of Adam and Muon" if optimizer.get("name") == "muon" else "both Adam moments"
    return f"{moments}, and a moving average of the weights" if optimizer.get("ema") is not None else moments


def checkpoints_kept(project: Project, stage: CompiledStage, scale: Fraction) -> list[int]:
    """The positions (tokens) at which the stage has a checkpoint on disk once the lineage has left it."""
    keep = {*kept_positions(project, stage, scale), stage.stop}
    return retained(saved_positions(stage, keep), stage.plan.end, keep)


def saved_positions(stage: CompiledStage, keep: Collection[int] = ()) -> list[int]:
    """Where a trainer saves: the stage's cadence, what its file or `keep` keeps, and where the lineage leaves it."""
    due = {*boundaries(stage.plan, stage.checkpoint_every), *stage.keep, *keep, stage.stop}
    return sorted(at for at in due if at <= stage.stop)


def evaluation_positions(stage: CompiledStage) -> list[int]:
    """Where a trainer measures the held-out losses: the stage's start, its cadence, and where the lineage leaves it."""
    due = {stage.plan.start, *boundaries(stage.plan, stage.evaluate_every), stage.stop}
    return sorted(at for at in due if at <= stage.stop)


def tokens_evaluated(stage: CompiledStage, lineage: Compiled) -> int:
    """Tokens of all evaluations of the stage; of a source without prepared text as many windows as are read at most."""
    length, longest = stage.plan.sequence_length, lineage.stages[-1].plan.sequence_length
    windows = (
        stage.held_out_windows if c.held_out is None else min(stage.held_out_windows, c.held_out * longest // length)
        for c in lineage.sources.values()
    )
    return sum(windows) * length * len(evaluation_positions(stage))
