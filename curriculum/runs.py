"""What lies in the folders of runs: how far each stage is, and its checkpoints. Nothing is changed here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from curriculum import checkpoints, corpora, durable
from curriculum.errors import CheckpointError, CurriculumError
from curriculum.planner import Compiled, CompiledStage
from curriculum.project import Project
from curriculum.units import Length

PLAN = "plan.json"
DONE = "DONE"
LOCK = "lock"


def stage_folder(project: Project, compiled: Compiled, stage: CompiledStage) -> Path:
    return project.stage_folder(compiled.size_name, stage.setting.curriculum, stage.setting.stage)


def is_reached(folder: Path, stage: CompiledStage) -> bool:
    """Whether the stage's checkpoint at the position where this lineage leaves it is there."""
    return any(c.position == stage.stop for c in checkpoints.found(folder / "checkpoints"))


def checkpoint_at(folder: Path, position: int) -> checkpoints.Checkpoint | None:
    """The checkpoint at exactly `position`, of the newest generation that has one."""
    exact = [c for c in checkpoints.found(folder / "checkpoints") if c.position == position]
    return exact[-1] if exact else None


def branch_point(project: Project, compiled: Compiled, stage: CompiledStage) -> checkpoints.Checkpoint | None:
    """The checkpoint at which this lineage leaves `stage`; None while the stage has not come so far.

    CheckpointError naming the nearest before and after when the stage went past it without keeping one.
    """
    folder = stage_folder(project, compiled, stage)
    there = checkpoint_at(folder, stage.stop)
    if there is not None:
        return there
    kept = sorted({c.position for c in checkpoints.found(folder / "checkpoints")})
    if not kept or kept[-1] < stage.stop:
        return None
    before = [position for position in kept if position < stage.stop]
    start = stage.parent.stop if stage.parent else None
    nearest = [
        *([f"{before[-1]:,} before"] if before else [f"{start:,} before, its start"] if start else []),
        f"{min(position for position in kept if position > stage.stop):,} after",
    ]
    scale = f", in tokens of size `{compiled.size_name}`" if compiled.scaled else ""
    raise CheckpointError(
        f"`{stage.name}` was trained past {stage.stop:,} tokens and kept no checkpoint there; "
        f"the nearest: {' and '.join(nearest)}{scale}",
        hint="branch at one of these, as in "
        f"`{stage.setting.curriculum}@{_full_size(nearest_position(kept, stage.stop), compiled)}`; "
        "`every: {checkpoint: …}` in the stage file says how often one is taken",
    )


def nearest_position(kept: list[int], position: int) -> int:
    return min(kept, key=lambda other: (abs(other - position), other))


def _full_size(position: int, compiled: Compiled) -> str:
    """A position at this size as one writes it in `from:`: the full-size one whose step boundary it is."""
    return str(Length(int(position / compiled.scale), "tokens"))


def status(project: Project, size: str, name: str | None = None) -> list[dict[str, Any]]:
    """Every stage of the project's curricula (or of one lineage) at a size: planned, how far, running or done."""
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    for curriculum in [name] if name else project.names("stages"):
        try:
            compiled, _ = corpora.compile_with_texts(project, curriculum, size)
        except CurriculumError as error:
            if name:
                raise
            rows.append({"stage": curriculum, "state": "refused", "why": error.what})
            continue
        for stage in compiled.stages:
            if stage.name in seen:
                continue
            seen.add(stage.name)
            folder = stage_folder(project, compiled, stage)
            found = checkpoints.found(folder / "checkpoints")
            position = found[-1].position if found else stage.plan.start
            running = durable.holder_of(folder / LOCK) is not None
            done = (folder / DONE).exists()
            rows.append(
                {
                    "stage": stage.name,
                    "from": stage.parent.name if stage.parent else None,
                    "state": "running" if running else "done" if done else "begun" if found else "planned",
                    "starts_at": stage.plan.start,
                    "position": position,
                    "ends_at": stage.plan.end,
                    "checkpoints": [checkpoint.name for checkpoint in found],
                }
            )
    return rows
