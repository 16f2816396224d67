"""Everything `curriculum plan` tells, as plain values: what will happen, what it costs, on which assumptions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from curriculum import config, imports
from curriculum.cadence import task_positions
from curriculum.errors import PlanError
from curriculum.plan import lookup
from curriculum.plan.ranks import share_of_rank
from curriculum.planner import Compiled, CompiledStage
from curriculum.stock import SourceChoice
from curriculum.units import show_count

FORMAT = 1
KEPT_BY_CADENCE = (
    2  # checkpoints of the cadence that are kept beside every stage's end; the job's `keep_last`
)


def parameters(model: Mapping[str, Any]) -> int:
    """Parameters of a Llama-architecture model, from its numbers (Hugging Face key names)."""
    hidden, heads = model["hidden_size"], model["num_attention_heads"]
    head = model.get("head_dim") or hidden // heads
    attention = hidden * head * (2 * heads + 2 * model["num_key_value_heads"])
    feed_forward = 3 * hidden * model["intermediate_size"]
    layers = model["num_hidden_layers"] * (attention + feed_forward + 2 * hidden)
    embeddings = model["vocab_size"] * hidden * (1 if model.get("tie_word_embeddings") else 2)
    return int(layers + embeddings + hidden)


def summarise(compiled: Compiled, machine_name: str, machine: config.MachineEntry) -> dict[str, Any]:
    """The whole plan as JSON values; positions and lengths in tokens at this size. Documented in docs/plan-json.md."""
    stages = [stage_summary(stage) for stage in compiled.stages]
    for stage, told in zip(compiled.stages, stages, strict=True):
        told["notes"] += _undealt(stage, machine_name, machine)
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
                "prepared": choice.digest is not None,
            }
            for name, choice in compiled.sources.items()
        },
        "curve": curve(compiled.stages),
        "cost": cost(compiled, machine_name, machine),
    }


def _undealt(stage: CompiledStage, name: str, machine: config.MachineEntry) -> list[str]:
    """Why the machine's processes could not take a step of the stage between them."""
    try:
        share_of_rank(stage.plan.batch_sequences, machine.nodes * machine.processes, machine.micro_batch)
    except PlanError as error:
        return [f"not on machine `{name}`: {error.what}; {error.hint}"]
    return []


def imported(compiled: Compiled) -> dict[str, Any] | None:
    """The directory that the lineage starts from and its digest (None: not imported yet); None for other roots."""
    first = compiled.stages[0]
    if first.setting.imported is None or first.plan.parent is None:
        return None
    known = first.plan.parent.fingerprint != imports.OPEN
    return {"from": first.setting.tokenizer, "digest": first.plan.parent.fingerprint if known else None}


def stage_summary(stage: CompiledStage) -> dict[str, Any]:
    """One stage of the plan, as far as the lineage goes through it."""
    plan = stage.plan
    read = plan.windows_read(stage.stop)
    sequences = stage.steps_run * plan.batch_sequences
    used_before, used_after = plan.items(0), plan.items((stage.stop - plan.start) // plan.sequence_length)
    sources = {}
    for name in sorted(set(stage.shares) | {n for n in used_after if used_after[n] > used_before.get(n, 0)}):
        windows = read.get(name, 0) - plan.read_before.get(name, 0)
        source = plan.sources[name]
        known = source.windows > 0
        sources[name] = {
            "asked": float(stage.shares.get(name, Fraction(0))),
            "got": windows / sequences if sequences else 0.0,
            "tokens": windows * plan.sequence_length,
            "passes_before": source.passes(used_before.get(name, 0)) if known else None,
            "passes_after": source.passes(used_after.get(name, 0)) if known else None,
            "first_repeat": _first_repeat(stage, name, used_before.get(name, 0)) if known else None,
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
        "batch_tokens": plan.batch_tokens,
        "starts_at": plan.start,
        "ends_at": stage.stop,
        "tokens": stage.stop - plan.start,
        "declared_end_full_size": stage.setting.until,
        "lr_first": plan.lr(plan.first_step),
        "lr_last": plan.lr(last),
        "ramp": {
            "sequences": stage.ramp_sequences,
            "tokens": stage.ramp_sequences * plan.sequence_length,
            "steps": -(-stage.ramp_sequences // plan.batch_sequences),
        }
        if stage.ramp_sequences
        else None,
        "checkpoint_every": stage.checkpoint_every,
        "evaluate_every": stage.evaluate_every,
        "tasks": {
            task: {
                "every": stage.task_every[task],
                "times": len([at for at in positions if at <= stage.stop]),
            }
            for task, positions in task_positions(stage.plan, stage.task_every).items()
        },
        "sources": sources,
        "skip": list(plan.labels["skip"]),
        "leave_out": list(plan.labels["leave_out"]),
        "events": list(stage.events),
        "fingerprint": plan.fingerprint,
        "notes": list(stage.notes),
    }


def _first_repeat(stage: CompiledStage, name: str, used: int) -> dict[str, int] | None:
    """The step of this stage that first reads a window of `name`, of which `used` came before, a second time."""
    plan = stage.plan
    begin = plan.sources[name].begin_of_pass(1)
    end = stage.steps_run * plan.batch_sequences
    if begin is None or used > begin:
        return None
    sequence = lookup.sequence_of(plan, name, begin, stop=end)
    if sequence is None:
        return None
    step = plan.first_step + sequence // plan.batch_sequences
    return {"step": step, "position": plan.position_after(step) - plan.batch_tokens}


def curve(stages: Sequence[CompiledStage], points: int = 160) -> list[dict[str, Any]]:
    """Learning rate and batch along a lineage: at every stage's edges, and evenly between."""
    last = stages[-1].stop
    rows = []
    for stage in stages:
        plan = stage.plan
        share = max(2, round(points * stage.steps_run * plan.batch_tokens / last))
        steps = {plan.first_step + stage.steps_run * n // share for n in range(share)}
        warm = plan.learning_rate.warmup
        if plan.start < warm < stage.stop:
            steps.add(plan.first_step + -(-(warm - plan.start) // plan.batch_tokens) - 1)
        steps.add(plan.first_step + stage.steps_run - 1)
        rows += [
            {"position": plan.position_after(step), "lr": plan.lr(step), "batch_tokens": plan.batch_tokens}
            for step in sorted(steps)
        ]
    return rows


def summarise_tree(
    lineages: Sequence[Compiled], machine_name: str, machine: config.MachineEntry
) -> dict[str, Any]:
    """Several lineages as one tree: every stage once, as far as any of them goes, and what sharing saves.

    `curricula` holds each lineage's `summarise`. Documented in docs/plan-json.md.
    """
    each = {lineage.curriculum: summarise(lineage, machine_name, machine) for lineage in lineages}
    nodes: dict[str, dict[str, Any]] = {}
    furthest: dict[str, CompiledStage] = {}
    for lineage in lineages:
        for stage in lineage.stages:
            node = nodes.setdefault(
                stage.name,
                {
                    "curriculum": stage.setting.curriculum,
                    "stage": stage.setting.stage,
                    "parent": stage.parent.name if stage.parent else None,
                    "starts_at": stage.plan.start,
                    "ends_at": stage.stop,
                    "lineages": {},
                },
            )
            node["lineages"][lineage.curriculum] = stage.stop
            if stage.name not in furthest or stage.stop > furthest[stage.name].stop:
                furthest[stage.name] = stage
                node.update(ends_at=stage.stop, steps=stage.steps_run, tokens=stage.stop - stage.plan.start)
    together = _cost(
        list(furthest.values()),
        {(c.dataset, c.windows): c for lineage in lineages for c in lineage.sources.values()}.values(),
        len(lineages),
        machine_name,
        machine,
    )
    apart = [entry["cost"] for entry in each.values()]
    saved = {}
    for key in ("updates", "tokens", "gpu_hours", "usd", "storage_bytes", "token_bytes"):
        saved[key] = None if together[key] is None else sum(one[key] for one in apart) - together[key]
    return {
        "format": FORMAT,
        "size": lineages[0].size_name,
        "scale": float(lineages[0].scale),
        "tree": list(nodes.values()),
        "cost": together,
        "saved": saved,
        "curricula": each,
    }


def cost(compiled: Compiled, machine_name: str, machine: config.MachineEntry) -> dict[str, Any]:
    """Updates, tokens, GPU-hours, money and storage, each with the assumption it rests on."""
    return _cost(compiled.stages, compiled.sources.values(), 1, machine_name, machine)


def _cost(
    stages: Sequence[CompiledStage],
    choices: Iterable[SourceChoice],
    ends: int,
    machine_name: str,
    machine: config.MachineEntry,
) -> dict[str, Any]:
    tokens = sum(stage.stop - stage.plan.start for stage in stages)
    model = stages[-1].plan.model
    count = parameters(model)
    checkpoint_bytes = count * 12
    measured = sum(
        len(
            {
                at
                for found in task_positions(stage.plan, stage.task_every).values()
                for at in found
                if at < stage.stop
            }
        )
        for stage in stages
    )
    kept = len(stages) + measured + KEPT_BY_CADENCE * ends
    wide = 2 if model["vocab_size"] <= 1 << 16 else 4
    windows = [choice.windows for choice in choices]
    text = sum(windows) * stages[-1].plan.sequence_length * wide if all(windows) else None
    gpus = machine.nodes * machine.gpus_per_node
    hours: float | None = None
    money: float | None = None
    assumptions = [
        f"a checkpoint holds 12 bytes for each of {count:,} parameters: fp32 weights and both Adam moments",
        f"{kept} checkpoints kept: every stage's end and the last {KEPT_BY_CADENCE} of the cadence"
        + (" of each curriculum" if ends > 1 else "")
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
            assumptions.append(
                f"{float(machine.price):g} USD a GPU-hour, as machine `{machine_name}` declares"
            )
    else:
        assumptions.append(
            f"machine `{machine_name}` declares no throughput: no hours and no money are estimated"
        )
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
