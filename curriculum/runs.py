"""What lies in the folders of runs: how far each stage is, and its checkpoints. Nothing is changed here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from curriculum import checkpoints, corpora, durable
from curriculum.errors import CurriculumError
from curriculum.planner import Compiled, CompiledStage
from curriculum.project import Project

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
