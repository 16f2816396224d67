"""The plan of a study as JSON values: its arms, passes, what they share, and what all runs cost together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from fractions import Fraction
from typing import Any, Final

from curriculum import config
from curriculum.artifacts.checkpoints import retained
from curriculum.artifacts.metrics import last_record
from curriculum.compiler.compile import CompiledStage
from curriculum.compiler.cost import cost, saved_positions, tokens_evaluated
from curriculum.compiler.idle_keys import IDLE_RAMP
from curriculum.compiler.lineage_tree import stage_tree
from curriculum.config.evaluation_budget import EVALUATED
from curriculum.errors import DataError, PlanError
from curriculum.runs.folders import is_finished, stage_folder
from curriculum.studies import contenders, record
from curriculum.studies.arm import Arm
from curriculum.studies.arm_evidence import measure
from curriculum.studies.arms import CompiledStudy
from curriculum.studies.question import question_of
from curriculum.studies.status import changed_arms
from curriculum.units import show_count

FORMAT = 1
HELD: Final = ("control", "proposal")
"""Roles whose weights stay once a decision is written."""


def summarise(
    compiled: CompiledStudy, machine_name: str, machine: config.MachineEntry, workers: int = 1
) -> dict[str, Any]:
    """The plan of a study; positions and lengths in tokens at its size. Documented in docs/plan-json.md.

    `workers` is how many arms the machine trains beside each other.
    """
    study, arms = compiled.study, compiled.arms
    rows = [arm_row(compiled, arm) for arm in arms]
    lineages = [arm.compiled for arm in arms]
    summary = {
        "format": FORMAT,
        "study": compiled.name,
        "about": study.file.about or "",
        "asks": study.asked.name if study.stage is not None else None,
        "branch_point": study.point,
        "size": study.size,
        "scale": float(lineages[0].scale),
        "seed": study.root.seed,
        "trunks": compiled.seeds,
        "replicates": compiled.replicates,
        "sources": list(compiled.sources),
        "goal": {
            "lower": {name: float(weight) for name, weight in study.file.goal.lower.items()},
            "keep": {name: str(limit) for name, limit in study.file.goal.keep.items()},
        },
        "arms": rows,
        "left_out": [{"name": entry.name, "reason": entry.reason} for entry in compiled.left_out],
        "proposal": _proposal(compiled),
        "changed": changed_arms(compiled),
        "drop": _drop(compiled),
        "caps": {
            source: {"share": float(cap), "passes": float(compiled.limits.allowed_passes(source))}
            for source, cap in compiled.limits.binding().items()
        },
        "noise": _noise(compiled),
        "trunk": _trunk(compiled),
        "cost": _cost(compiled, machine_name, machine, workers),
    }
    return summary


def arm_row(compiled: CompiledStudy, arm: Arm) -> dict[str, Any]:
    """One arm: what it reads and how often, and what was varied."""
    stage = arm.stage
    plan = stage.plan
    used = plan.items((stage.stop - plan.start) // plan.sequence_length)
    passes = {
        source: plan.sources[source].epochs(used[source])
        for source in arm.point.mixture.shares
        if plan.sources[source].windows and source in used
    }
    return {
        "name": arm.name,
        "address": arm.address,
        "point": arm.point.name,
        "role": arm.role,
        "replicate": arm.replicate,
        "trunk": arm.seed,
        "same_as": list(arm.point.same_as),
        "mixture": stage.setting.mixture,
        "shares": {source: float(share) for source, share in arm.point.mixture.shares.items()},
        "settings": _settings(arm),
        "tokens": stage.stop - arm.start,
        "tokens_full_size": arm.tokens,
        "steps": sum(own.steps_run for own in arm.own_stages),
        "batch_sequences": plan.batch_sequences,
        "lr_first": arm.first.plan.lr(arm.first.plan.first_step),
        "lr_last": plan.lr(plan.first_step + stage.steps_run - 1),
        "passes": passes,
        "passes_stood_for": _stood_for(compiled, arm),
        "take": {source: float(part) for source, part in _taken(arm).items()},
        "fingerprint": plan.fingerprint,
        # a control of the same mixture has the ramp of the other arms, to read as they do
        "notes": [note for note in stage.notes if note != IDLE_RAMP],
    }


def _settings(arm: Arm) -> dict[str, Any]:
    """What was varied but the mixture itself, as text or a number."""
    return {
        key: float(value) if isinstance(value, Fraction) else value if isinstance(value, bool) else str(value)
        for key, value in arm.point.settings.items()
        if key != "mixture"
    }


def _taken(arm: Arm) -> dict[str, Fraction]:
    """The part of each source's text that the arm reads, where it is less than all."""
    name = arm.first.setting.mixture
    file, _ = arm.project.mixture(name)
    return {source: part for source, part in file.take.items() if part < 1}


def _stood_for(compiled: CompiledStudy, arm: Arm) -> dict[str, float]:
    """The passes of each source at the end of the stage in question, if that read what the arm reads.

    Empty where the arm is as long as the stage.
    """
    limits, passes = compiled.limits, dict[str, float]()
    stage_tokens = compiled.study.stage_tokens or arm.tokens
    if arm.tokens == stage_tokens:
        return passes
    ramp, parent = limits.ramp_sequences if arm.first.ramp_sequences else 0, arm.first.parent
    if "ramp" in arm.point.settings:
        scaled = compiled.study.file.repetition == "matched"
        ramp = int(arm.first.ramp_sequences * (Fraction(stage_tokens, arm.tokens) if scaled else 1))
    for source, share in arm.point.mixture.shares.items():
        windows, before = limits.choices[source].windows, limits.items.get(source, 0)
        if not windows:
            continue
        earlier = parent.shares.get(source, Fraction(0)) if parent is not None else share
        items = before + int(share * limits.sequences + (earlier - share) * ramp / 2)
        passes[source] = limits.plan.sources[source].epochs(items) if before else items / windows
    return passes


def _proposal(compiled: CompiledStudy) -> dict[str, Any] | None:
    """The runs of a proposal that is not decided yet; None where none follows, or where it is among the arms."""
    if not compiled.has_proposal or compiled.of_role("proposal"):
        return None
    return {"runs": compiled.replicates, "after": len(compiled.arms)}


def _drop(compiled: CompiledStudy) -> dict[str, Any] | None:
    """Where arms end a first time, how many tokens their forks take, and which were dropped; None where all go on."""
    if compiled.study.file.drop is None:
        return None
    fork, dropped = compiled.forks[0], compiled.drops
    return {
        "at": float(compiled.study.file.drop),
        "forks": len(compiled.forks),
        "tokens": fork.stage.stop - fork.stage.plan.start,
        "dropped": None if dropped is None else list(dropped.dropped),
        "audited": None if dropped is None else list(dropped.audited),
    }


def _noise(compiled: CompiledStudy) -> list[dict[str, Any]]:
    """The smallest difference that the runs of an arm tell apart, by source of the goal, once noise was measured.

    It is that of the newest record, else of the controls that ran; empty before.
    """
    study = compiled.study
    try:
        kept = record.newest(study.project.runs / study.size / compiled.name)
        if kept is not None:
            rows = kept.content["decision"]["noise"]
        elif any(stage_folder(arm.project, arm.compiled, arm.stage).plan.exists() for arm in _repeated(compiled)):
            measured = contenders.noise(question_of(compiled), measure(compiled).evidence)
            rows = [asdict(one) for one in measured]
        else:
            rows = []
    except DataError:  # `verify` tells what is damaged
        rows = []
    telling = [{key: one[key] for key in ("source", "tells", "runs_each")} for one in rows]
    return [one for one in telling if one["tells"] is not None]


def _repeated(compiled: CompiledStudy) -> list[Arm]:
    return [arm for arm in compiled.of_role("control") if arm.replicate > 1]


def _trunk(compiled: CompiledStudy) -> dict[str, Any] | None:
    """How far the stages before the branch point are trained, on the first trunk."""
    arm = compiled.arms[0]
    before = arm.compiled.stages[: -len(arm.entries)]
    if not before:
        return None
    folder = stage_folder(arm.project, arm.compiled, before[-1])
    return {"stage": before[-1].name, "position": before[-1].stop, "trained": is_finished(folder, before[-1])}


def _cost(compiled: CompiledStudy, machine_name: str, machine: config.MachineEntry, workers: int) -> dict[str, Any]:
    """Of all runs, those of a proposal counted, and of the trunks that are trained for the study alone."""
    arms = compiled.arms
    lineages = [arm.compiled for arm in (*arms, *compiled.forks)]
    expected = compiled.replicates if _proposal(compiled) else 0
    # a proposal is as long as the longest arm, and its weights are kept as a control's are
    like = max(lineages, key=lambda lineage: lineage.stop - lineage.stages[-1].plan.start)
    longest = like.stages[-1]
    own = {node.stage.name: node for node in stage_tree(lineages).values() if _is_own(compiled, node.stage)}
    stages = [node.stage for node in own.values()] + [longest] * expected
    tokens = sum(stage.stop - stage.plan.start for stage in stages)
    evaluated = sum(tokens_evaluated(node.stage, node.lineage) for node in own.values())
    evaluated += expected * tokens_evaluated(longest, like)
    trunk = arms[0].start
    runs = len(arms) + expected
    full_cost = cost(compiled.study.project, lineages[:1], machine_name, machine)
    held = [arm for arm in arms if arm.role in HELD]
    kept = len(held) + expected + compiled.seeds
    on_disk = sum(_checkpoints(stage) for stage in stages)
    seconds, assumption = _seconds(compiled, machine_name, machine, tokens + int(evaluated * EVALUATED), workers)
    hours = full_cost["gpus"] * seconds / 3600 if seconds is not None and full_cost["gpus"] else None
    usd = hours * float(machine.price) if hours is not None and machine.price is not None else None
    _check_budget(compiled, hours, usd)
    return {
        "machine": machine_name,
        "runs": runs,
        "trunks": compiled.seeds - 1,
        "updates": sum(stage.steps_run for stage in stages),
        "tokens": tokens,
        "tokens_evaluated": evaluated,
        "saved_tokens": trunk * (runs - compiled.seeds),
        "gpu_hours": hours,
        "usd": usd,
        "seconds": seconds,
        "storage_bytes": full_cost["checkpoint_bytes"] * on_disk,
        "kept_bytes": full_cost["checkpoint_bytes"] * kept,
        "assumptions": [assumption],
    }


def _checkpoints(stage: CompiledStage) -> int:
    """How many a stage leaves on disk; a study's are not branched from by other files."""
    keep = {*stage.keep, stage.stop}
    return len(retained(saved_positions(stage, keep), stage.plan.end, keep))


def _is_own(compiled: CompiledStudy, stage: CompiledStage) -> bool:
    """Whether the stage is trained for the study alone: an arm, or a stage of another trunk."""
    return stage.setting.curriculum == compiled.name


def _seconds(
    compiled: CompiledStudy, machine_name: str, machine: config.MachineEntry, tokens: int, workers: int
) -> tuple[float | None, str]:
    """How long `tokens` take on all devices of the machine, and where that is from."""
    devices = machine.nodes * (machine.gpus_per_node or machine.processes)
    first = compiled.arms[0]
    if (rate := _measured_rate((arm, stage) for arm in compiled.arms for stage in arm.own_stages)) is not None:
        beside = f" on each of {workers} workers" if workers > 1 else ""
        return tokens / (rate * workers), f"{show_count(int(rate))} tokens/s{beside}, measured on arms that ran"
    before = first.compiled.stages[: -len(first.entries)]
    if (rate := _measured_rate((first, stage) for stage in before)) is not None:
        text = "measured on the stages that ran; one arm at a time"
        return tokens / rate, f"{show_count(int(rate))} tokens/s, {text}"
    if machine.throughput is not None:
        rate = float(machine.throughput) * devices
        what = "GPUs" if machine.gpus_per_node else "processes"
        declared = show_count(int(machine.throughput))
        return tokens / rate, f"{declared} tokens/s on each of {devices} {what}, as machine `{machine_name}` declares"
    return None, f"machine `{machine_name}` declares no throughput, and nothing ran yet: no time is estimated"


def _measured_rate(stages: Iterable[tuple[Arm, CompiledStage]]) -> float | None:
    """Tokens a second at the last step of the last of `stages` that ran."""
    rate = None
    for arm, stage in stages:
        record = last_record(stage_folder(arm.project, arm.compiled, stage).metrics)
        if record is not None and record.get("tokens_per_second"):
            rate = float(record["tokens_per_second"])
    return rate


def _check_budget(compiled: CompiledStudy, hours: float | None, usd: float | None) -> None:
    """PlanError when all runs take more GPU-hours or money than the study's budget."""
    budget = compiled.study.file.budget
    if budget is None or budget.unit == "tokens":
        return
    taken = hours if budget.unit == "gpu-hours" else usd
    if taken is None or taken <= budget.amount:
        return
    unit = "GPU-hours" if budget.unit == "gpu-hours" else "USD"
    raise PlanError(
        f"all runs take {taken:,.0f} {unit} at this size, {float(budget.amount):,.0f} allowed",
        place=compiled.study.place("budget"),
        hint="fewer `runs:`, a shorter `tokens:`, or a smaller `--size`",
    )
