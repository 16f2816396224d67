"""Everything `curriculum plan` tells, as plain values: what will happen, what it costs, on which assumptions."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from curriculum import imports, schema
from curriculum.planner import Compiled, CompiledStage
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


def summarise(compiled: Compiled, machine_name: str, machine: schema.MachineEntry) -> dict[str, Any]:
    """The whole plan as JSON values; positions and lengths in tokens at this size. Documented in docs/plan-json.md."""
    stages = [stage_summary(stage) for stage in compiled.stages]
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
        "cost": cost(compiled, machine_name, machine),
    }


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
            "first_repeat": _first_repeat(stage, name) if known else None,
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
        "sources": sources,
        "fingerprint": plan.fingerprint,
        "notes": list(stage.notes),
    }


def _first_repeat(stage: CompiledStage, name: str) -> dict[str, int] | None:
    """The step of this stage that first reads a window of `name` a second time, found by bisection."""
    plan = stage.plan
    end = stage.steps_run * plan.batch_sequences
    windows = plan.sources[name].segments[0].windows
    if plan.items(0).get(name, 0) > windows or plan.items(end).get(name, 0) <= windows:
        return None
    low, high = 0, end  # items(low) <= windows < items(high)
    while high - low > 1:
        middle = (low + high) // 2
        if plan.items(middle).get(name, 0) > windows:
            high = middle
        else:
            low = middle
    step = plan.first_step + low // plan.batch_sequences
    return {"step": step, "position": plan.position_after(step) - plan.batch_tokens}


def cost(compiled: Compiled, machine_name: str, machine: schema.MachineEntry) -> dict[str, Any]:
    """Updates, tokens, GPU-hours, money and storage, each with the assumption it rests on."""
    stages = compiled.stages
    tokens = sum(stage.stop - stage.plan.start for stage in stages)
    model = stages[-1].plan.model
    count = parameters(model)
    checkpoint_bytes = count * 12
    kept = len(stages) + KEPT_BY_CADENCE
    wide = 2 if model["vocab_size"] <= 1 << 16 else 4
    text = sum(choice.windows for choice in compiled.sources.values()) * stages[0].plan.sequence_length * wide
    gpus = machine.nodes * machine.gpus_per_node
    hours: float | None = None
    money: float | None = None
    assumptions = [
        f"a checkpoint holds 12 bytes for each of {count:,} parameters: fp32 weights and both Adam moments",
        f"{kept} checkpoints kept: every stage's end and the last {KEPT_BY_CADENCE} of the cadence",
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
