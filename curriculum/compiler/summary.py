"""The report of a plan as JSON values: stages, sources, learning-rate curve, cost and assumptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction
from typing import Any

from curriculum import config
from curriculum.compiler import memory
from curriculum.compiler.cadence import task_positions
from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.compiler.cost import cost, evaluation_positions
from curriculum.compiler.lineage_tree import stage_tree
from curriculum.compiler.size_differences import size_differences
from curriculum.config.project import Project
from curriculum.errors import PlanError
from curriculum.plan import lookup
from curriculum.plan.ranks import shares_of_rank
from curriculum.plan.stage import OPEN

FORMAT = 1


def summarise(project: Project, compiled: Compiled, machine_name: str, machine: config.MachineEntry) -> dict[str, Any]:
    """The plan as JSON values; positions and lengths in tokens at this size. Documented in docs/plan-json.md."""
    stages = [stage_summary(stage) for stage in compiled.stages]
    for stage, row in zip(compiled.stages, stages, strict=True):
        row["memory"] = memory.summary(stage.plan, machine)
        row["host_memory"] = memory.host_summary(stage.plan, machine)
        row["notes"] += _indivisible(stage, machine_name, machine)
    return {
        "format": FORMAT,
        "curriculum": compiled.curriculum,
        "size": compiled.size_name,
        "scale": float(compiled.scale),
        "tokenizer": compiled.tokenizer,
        "imported": imported(compiled),
        "stages": stages,
        "sources": {
            name: {
                "text": choice.dataset,
                "stand_in": choice.stand_in,
                "declared_tokens": choice.declared,
                "declared_from": choice.declared_from,
                "assumed": choice.assumed,
                "windows_a_pass": choice.windows,
                "probe": choice.probe,
                "prepared": choice.digest is not None,
            }
            for name, choice in compiled.sources.items()
        },
        "differs": [asdict(row) for row in size_differences(compiled)],
        "curve": curve(compiled.stages),
        "cost": cost(project, [compiled], machine_name, machine),
    }


def _indivisible(stage: CompiledStage, name: str, machine: config.MachineEntry) -> list[str]:
    """A note when the batch of the stage cannot be divided among the machine's processes."""
    try:
        shares_of_rank(stage.plan.batches, machine.nodes * machine.processes, machine.micro_batch)
    except PlanError as error:
        return [f"not on machine `{name}`: {error.what}; {error.hint}"]
    return []


def imported(compiled: Compiled) -> dict[str, Any] | None:
    """The directory that the lineage starts from and its digest (None: not imported yet); None for other roots."""
    first = compiled.stages[0]
    if first.setting.imported is None or first.plan.parent is None:
        return None
    digest = first.plan.parent.fingerprint
    return {"from": first.setting.tokenizer, "digest": None if digest == OPEN else digest}


def stage_summary(stage: CompiledStage) -> dict[str, Any]:
    """One stage of the plan, as far as the lineage goes through it."""
    plan = stage.plan
    read = plan.windows_read(stage.stop)
    sequences = plan.clock.sequences_before(stage.steps_run)
    used_before, used_after = plan.items(0), plan.items((stage.stop - plan.start) // plan.sequence_length)
    sources = {}
    for name in sorted(set(stage.shares) | {n for n in used_after if used_after[n] > used_before.get(n, 0)}):
        windows = read.get(name, 0) - plan.read_before.get(name, 0)
        source = plan.sources[name]
        sized = source.windows > 0
        sources[name] = {
            "asked": float(stage.shares.get(name, Fraction(0))),
            "got": windows / sequences if sequences else 0.0,
            "tokens": windows * plan.sequence_length,
            "passes_before": source.epochs(used_before.get(name, 0)) if sized else None,
            "passes_after": source.epochs(used_after.get(name, 0)) if sized else None,
            "first_repeat": _first_repeat(stage, name, used_before.get(name, 0)) if sized else None,
            "passes_allowed": float(stage.limits[name]) if name in stage.limits else None,
        }
    last = plan.first_step + stage.steps_run - 1
    return {
        "curriculum": stage.setting.curriculum,
        "stage": stage.setting.stage,
        "mixture": stage.setting.mixture,
        "first_step": plan.first_step,
        "steps": stage.steps_run,
        "batch_sequences": plan.batch_sequences,
        "batch_tokens": plan.batch_sequences * plan.sequence_length,
        "batch_changes": batch_changes(stage),
        "starts_at": plan.start,
        "ends_at": stage.stop,
        "tokens": stage.stop - plan.start,
        "declared_end_full_size": stage.setting.until,
        "lr_first": plan.lr(plan.first_step) if stage.steps_run else None,
        "lr_last": plan.lr(last) if stage.steps_run else None,
        "ramp": {
            "sequences": stage.ramp_sequences,
            "tokens": stage.ramp_sequences * plan.sequence_length,
            "steps": plan.clock.step_of_sequence(stage.ramp_sequences - 1) + 1,
        }
        if stage.ramp_sequences
        else None,
        "checkpoint_every": stage.checkpoint_every,
        "evaluate_every": stage.evaluate_every,
        "evaluations": len(evaluation_positions(stage)),
        "held_out_windows": stage.held_out_windows,
        "tasks": {
            task: {"every": stage.task_every[task], "times": len([at for at in positions if at <= stage.stop])}
            for task, positions in task_positions(stage.plan, stage.task_every).items()
        },
        "sources": sources,
        "skip": list(plan.labels["skip"]),
        "leave_out": list(plan.labels["leave_out"]),
        "data_seed": stage.setting.data_seeds[-1] if stage.setting.data_seeds else None,
        "events": list(stage.events),
        "fingerprint": plan.fingerprint,
        "notes": list(stage.notes),
    }


def rates(stage: Mapping[str, Any], arrow: str = "->") -> str:
    """The learning rates of a stage's summary for people: those of its first and last step, if it has one."""
    return f"{stage['lr_first']:.3g} {arrow} {stage['lr_last']:.3g}" if stage["steps"] else "-"


def batch_changes(stage: CompiledStage) -> list[dict[str, int]]:
    """The changes of the batch inside the stage, as far as the lineage goes through it; steps count from the root."""
    plan = stage.plan
    return [
        {"step": plan.step_of(position), "position": position, "batch_sequences": sequences}
        for position, sequences in stage.batches[1:]
    ]


def _first_repeat(stage: CompiledStage, name: str, used: int) -> dict[str, int] | None:
    """The step of this stage that first reads a window of `name` a second time; `used` items came before the stage."""
    plan = stage.plan
    begin = plan.sources[name].epoch_start(1)
    end = plan.clock.sequences_before(stage.steps_run)
    if begin is None or used > begin:
        return None
    sequence = lookup.sequence_of(plan, name, begin, stop=end)
    if sequence is None:
        return None
    step = plan.first_step + plan.clock.step_of_sequence(sequence)
    return {"step": step, "position": plan.position_before(step)}


def curve(stages: Sequence[CompiledStage], points: int = 160) -> list[dict[str, Any]]:
    """Learning rate and batch along a lineage: at every stage's edges, and evenly between them.

    An average has no step and adds nothing.
    """
    last = stages[-1].stop
    rows = []
    for stage in (stage for stage in stages if stage.steps_run):
        plan = stage.plan
        share = max(2, round(points * (stage.stop - plan.start) / last))
        steps = {plan.first_step + stage.steps_run * n // share for n in range(share)}
        for corner in (plan.learning_rate.warmup, *(point.at for point in plan.learning_rate.points)):
            if plan.start < corner < stage.stop:
                steps.add(plan.first_step + plan.clock.step_from(corner) - 1)
        for position, _ in stage.batches[1:]:
            steps |= {plan.step_of(position) - 1, plan.step_of(position)}
        steps.add(plan.first_step + stage.steps_run - 1)
        rows += [
            {"position": plan.position_after(step), "lr": plan.lr(step), "batch_tokens": plan.tokens_of(step)}
            for step in sorted(steps)
        ]
    return rows


def summarise_tree(
    project: Project, lineages: Sequence[Compiled], machine_name: str, machine: config.MachineEntry
) -> dict[str, Any]:
    """Several lineages as one tree: every stage once, as far as any of them goes, and the cost that sharing saves.

    `curricula` holds each lineage's `summarise`. Documented in docs/plan-json.md.
    """
    summaries = {lineage.curriculum: summarise(project, lineage, machine_name, machine) for lineage in lineages}
    tree = [
        {
            "curriculum": stage.setting.curriculum,
            "stage": stage.setting.stage,
            "parent": stage.parent.name if stage.parent else None,
            "starts_at": stage.plan.start,
            "ends_at": stage.stop,
            "steps": stage.steps_run,
            "tokens": stage.stop - stage.plan.start,
            "lineages": dict(node.left_at),
        }
        for node in stage_tree(lineages).values()
        for stage in (node.stage,)
    ]
    together = cost(project, lineages, machine_name, machine)
    apart = [entry["cost"] for entry in summaries.values()]
    saved = {}
    for key in ("updates", "tokens", "gpu_hours", "usd", "storage_bytes", "token_bytes"):
        saved[key] = None if together[key] is None else sum(cost_alone[key] for cost_alone in apart) - together[key]
    return {
        "format": FORMAT,
        "size": lineages[0].size_name,
        "scale": float(lineages[0].scale),
        "tree": tree,
        "cost": together,
        "saved": saved,
        "curricula": summaries,
    }
