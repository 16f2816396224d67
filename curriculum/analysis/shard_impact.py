"""The impact of a bad shard: the steps that read it, the checkpoints it is in, the tokens to redo, the edit for it."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from curriculum import config
from curriculum.analysis import shard_fix
from curriculum.analysis.trace import (
    FORMAT,
    Location,
    SharedStage,
    shared_stages,
    sources_of,
    tokens_of_shards,
    windows_of,
)
from curriculum.artifacts import checkpoints
from curriculum.compiler.compile import Compiled
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.project import Project
from curriculum.errors import NotFound, PlanError
from curriculum.plan import lookup
from curriculum.runs import folders


def shard_impact(
    project: Project,
    compiled: Sequence[Compiled],
    texts: PreparedText,
    source: str,
    number: int,
    machine: config.MachineEntry,
    *,
    exact: bool = False,
) -> dict[str, Any]:
    """The impact of shard `number` of `source` on all stages of the lineages, as JSON values (docs/trace-json.md).

    `exact` counts every window; without it counts of very many windows may be expectations.
    """
    stages = shared_stages(project, compiled)
    manifest = texts.manifest(sources_of(stages, source)[source].sources[source].dataset)
    if manifest is None:
        raise PlanError(
            f"`{source}` is not prepared yet, so it has no shards",
            hint=f"`curriculum prepare {compiled[0].curriculum}` makes them; "
            f"`curriculum trace {compiled[0].curriculum} --source {source} --range 0:100` answers for windows already",
        )
    names = [shard.file for shard in manifest.splits["train"].shards]
    if not 0 <= number < len(names):
        raise NotFound(
            f"`{source}` has no shard {number}", hint=f"it has {len(names)}, counted from 0; the first is {names[0]}"
        )
    rows: dict[str, dict[str, Any]] = {}
    for shared in stages:
        parent = shared.stage.parent
        since = rows[parent.name]["contaminated_from"] if parent is not None else None
        # a stage that continues from contaminated weights is contaminated itself
        contaminated = since is not None and since < shared.stage.plan.start
        rows[shared.stage.name] = _stage(project, compiled[0], shared, texts, source, number, exact, contaminated)
    redo = sum(row["redo_tokens"] for row in rows.values())
    gpus = machine.nodes * machine.gpus_per_node
    hours = float(Fraction(redo) / machine.throughput / 3600) if machine.throughput and gpus else None
    return {
        "format": FORMAT,
        "source": source,
        "shard": number,
        "file": names[number],
        "size": compiled[0].size_name,
        "stages": list(rows.values()),
        "exact": all(row["exact"] for row in rows.values()),
        "tokens_read": sum(row["tokens_read"] for row in rows.values()),
        "checkpoints_touched": [name for row in rows.values() for name in row["checkpoints_touched"]],
        "redo_tokens": redo,
        "redo_gpu_hours": hours,
        "edits": [
            {"curriculum": lineage.curriculum, **edit}
            for lineage in compiled
            if (edit := _edit(project, lineage, rows, texts, source, number)) is not None
        ],
    }


def _edit(
    project: Project, lineage: Compiled, rows: dict[str, dict[str, Any]], texts: PreparedText, source: str, number: int
) -> dict[str, Any] | None:
    """The edit for one lineage; None when it never reads the shard."""
    for stage in lineage.stages:
        row = rows[stage.name]
        if row["first"] is not None and row["first"] < stage.stop:
            started = any(rows[s.name]["reached"] > s.plan.start for s in lineage.stages)
            shards = tokens_of_shards(texts, stage.plan, source)
            place = Location(source, number, 0, shards[number])
            windows = windows_of(place, shards, stage.plan.sequence_length)
            clean = min(row["last_clean"], row["first"])
            return shard_fix.exclusion_edit(
                project, lineage, stage, clean, windows, source, number, started=started, alone=len(shards) == 1
            )
    return None


def _stage(
    project: Project,
    compiled: Compiled,
    shared: SharedStage,
    texts: PreparedText,
    source: str,
    number: int,
    exact: bool,
    inherited: bool,
) -> dict[str, Any]:
    plan, setting = shared.stage.plan, shared.stage.setting
    counted = done = lookup.Count(0, 0)
    first = last = None
    windows = range(0)
    if source in plan.sources:
        shards = tokens_of_shards(texts, plan, source)
        windows = windows_of(Location(source, number, 0, shards[number]), shards, plan.sequence_length)
        budget = None if exact else lookup.BUDGET
        counted = lookup.count(plan, source, windows, stop=shared.sequences, budget=budget)
        done = lookup.count(plan, source, windows, stop=shared.sequences_read, budget=budget)
        first = lookup.edge(plan, source, windows, stop=shared.sequences)
        last = lookup.edge(plan, source, windows, stop=shared.sequences, last=True)

    first_position = None if first is None else shared.position_of(first)
    contaminated_from = plan.start - 1 if inherited else first_position
    saved = checkpoints.list_checkpoints(folders.stage_folder(project, compiled, shared.stage))
    touched = [c for c in saved if contaminated_from is not None and c.position > contaminated_from]
    clean = [c for c in saved if c not in touched]
    last_clean = clean[-1].position if clean else plan.start
    contaminated = contaminated_from is not None and shared.reached > max(contaminated_from, plan.start)
    return {
        "curriculum": setting.curriculum,
        "stage": setting.stage,
        "lineages": list(shared.stops),
        "reached": shared.reached,
        "windows": len(windows),
        "readings": counted.readings,
        "readings_done": done.readings,
        "within": max(counted.margin, done.margin),
        "exact": counted.margin == done.margin == 0,
        "tokens_read": done.readings * plan.sequence_length,
        "first_step": None if first is None else plan.first_step + plan.clock.step_of_sequence(first),
        "first": first_position,
        "last_step": None if last is None else plan.first_step + plan.clock.step_of_sequence(last),
        "last": None if last is None else shared.position_of(last),
        "contaminated_from": contaminated_from,
        "checkpoints_touched": [f"{shared.stage.name} {c.name}" for c in touched],
        "last_clean": None if inherited else last_clean,
        "last_clean_checkpoint": clean[-1].name if clean else None,
        "redo_tokens": shared.reached - last_clean if contaminated else 0,
    }
