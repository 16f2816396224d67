"""The training curves of curricula that ran: losses of `metrics.jsonl`, and the rate of every step by the stored plans.

A curve goes as far as its lineage changes nothing but the rate: a larger batch or another mixture ends it. Steps that
two curricula share are counted once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from curriculum.artifacts.metrics import last_record, read_metrics
from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.config.project import Project
from curriculum.plan.stage import StagePlan
from curriculum.runs.drift import find_drift
from curriculum.runs.folders import stage_folder
from curriculum.studies.evidence import TrainingCurve
from curriculum.studies.laws.huber import Array
from curriculum.units import show_count

MOST_UNITS = 1 << 13
"""Of a curve: longer ones are taken by several steps at a time."""
MOST_POINTS = 192


@dataclass(frozen=True, kw_only=True)
class TrainedSchedule:
    """What one curriculum trained of a schedule: stages with the plans that trained them, and how far (tokens).

    `ends` says why no more of it counts, without its name, and `drift` which stage was trained by another plan; both
    are empty where all of it counts.
    """

    name: str
    stages: tuple[tuple[CompiledStage, StagePlan, Path], ...] = field(repr=False)
    seen: int
    ends: str
    drift: str


def training_of(project: Project, name: str, compiled: Compiled) -> TrainedSchedule:
    """How far the runs of a curriculum are evidence on schedules."""
    drifts = {drift.stage.name: drift.words() for drift in find_drift(project, compiled)}
    stages: list[tuple[CompiledStage, StagePlan, Path]] = []
    seen, ends, drift = 0, "", ""
    first = compiled.stages[0]
    for stage in compiled.stages:
        folder = stage_folder(project, compiled, stage)
        if not folder.plan.exists():
            break
        if stage.name in drifts:
            drift = f"`{stage.name}` {drifts[stage.name]}, and does not count"
            break
        plan = StagePlan.load(folder.plan)
        change = _change(first, stage, plan)
        if change is not None:
            ends = f"what comes before {show_count(plan.start)} tokens counts: there {change} changes"
            break
        stages.append((stage, plan, folder.metrics))
        seen = max(seen, _position(stage, folder.metrics))
    return TrainedSchedule(name=name, stages=tuple(stages), seen=seen, ends=ends, drift=drift)


def remarks(each: Sequence[TrainedSchedule]) -> tuple[str, ...]:
    """Why curves count no further, each reason once with all curricula that it holds for."""
    names: dict[str, list[str]] = {}
    for one in each:
        if one.ends:
            names.setdefault(one.ends, []).append(f"`{one.name}`")
    drifts = dict.fromkeys(one.drift for one in each if one.drift)
    return (*drifts, *(f"of {', '.join(named)} {ends}" for ends, named in names.items()))


def _position(stage: CompiledStage, metrics: Path) -> int:
    record = last_record(metrics)
    return 0 if record is None else min(int(record["position"]), stage.stop)


def _change(first: CompiledStage, stage: CompiledStage, plan: StagePlan) -> str | None:
    """What differs from the root, so that the rates alone do not predict a loss there."""
    root = first.plan
    if plan.average:
        return "weights are averaged: the loss"
    if plan.batch_tokens != root.batch_tokens or plan.batch_changes:
        return "the batch"
    if stage.shares != first.shares:
        return "the mixture"
    return None


def unit_steps(tokens: int, step_tokens: int) -> int:
    """How many steps are taken at a time for a longest schedule of `tokens`."""
    return max(1, -(-(tokens // step_tokens) // MOST_UNITS))


def training_curves(
    each: Sequence[TrainedSchedule], weights: Mapping[str, float], step_tokens: int, steps: int
) -> tuple[TrainingCurve, ...]:
    """A curve of each curriculum by units of `steps` steps; its losses are the mean of the sources of `weights`."""
    counted: dict[Path, int] = {}
    curves = []
    for one in each:
        unit = step_tokens * steps
        units = one.seen // unit
        if not units:
            continue
        warmup = -(-one.stages[0][1].learning_rate.warmup // unit)
        sums = np.zeros((len(weights), 2, units))
        for stage, _, path in one.stages:
            _add(sums, stage, path, list(weights), counted.get(path, -1), unit)
            counted[path] = max(counted.get(path, -1), min(stage.stop, one.seen))
        at, losses = _points(sums, np.array(list(weights.values())), warmup)
        rates = tuple(_rate(one, unit * number + (steps // 2 + 1) * step_tokens) for number in range(units))
        curves.append(TrainingCurve(one.name, units * unit, warmup, rates, at, losses))
    return tuple(curves)


def _rate(one: TrainedSchedule, position: int) -> float:
    """The rate of the step that ends at `position`."""
    plan = next((plan for stage, plan, _ in one.stages if position <= stage.stop), one.stages[-1][1])
    return plan.learning_rate.at(position) * plan.rate_factor(plan.first_step)


def _add(sums: Array, stage: CompiledStage, path: Path, sources: list[str], after: int, unit: int) -> None:
    """Add the losses of a stage's steps behind `after` to `sums`: of each source, losses times tokens, and tokens."""
    for record in read_metrics(path):
        position = int(record["position"])
        if not after < position <= stage.stop:
            continue
        number = (position - 1) // unit
        if number >= sums.shape[2]:
            break
        for row, source in enumerate(sources):
            measured = record.get("sources", {}).get(source)
            if measured is not None and isinstance(measured["loss"], int | float):
                sums[row, 0, number] += measured["loss"] * measured["tokens"]
                sums[row, 1, number] += measured["tokens"]


def _points(sums: Array, weights: Array, warmup: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """At most `MOST_POINTS` means of neighbouring units behind the warm-up, each at its middle."""
    read = np.flatnonzero(sums[:, 1].min(axis=0) > 0)
    read = read[read > warmup]
    groups = np.array_split(read, min(MOST_POINTS, len(read))) if len(read) else []
    at, losses = [], []
    for group in groups:
        total = sums[:, :, group].sum(axis=2)
        at.append(int(group[len(group) // 2]))
        losses.append(float(total[:, 0] / total[:, 1] @ weights / weights.sum()))
    return tuple(at), tuple(losses)
