"""Which benchmark tasks of a cadence are due at which kept checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from curriculum.artifacts import benchmarks
from curriculum.compiler.cadence import task_positions
from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.compiler.lineage import Address
from curriculum.config.project import Project
from curriculum.runs import folders as runs_folders


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """Tasks that a stage asks for at a kept checkpoint and that are not measured there."""

    stage: CompiledStage
    position: int
    tasks: tuple[str, ...]


def due(project: Project, compiled: Compiled, only: str | None = None) -> list[Due]:
    """What the cadences of the lineage, or of its stage `only`, ask for at checkpoints that are there, in order."""
    found = []
    for stage in compiled.stages:
        if only not in (None, stage.name):
            continue
        folder = runs_folders.stage_folder(project, compiled, stage)
        wanted: dict[int, list[str]] = {}
        for task, positions in task_positions(stage.plan, stage.task_every).items():
            for position in positions:
                kept = runs_folders.checkpoint_at(folder, position) if position <= stage.stop else None
                if kept is not None and not benchmarks.path_of(folder, kept.name, task).exists():
                    wanted.setdefault(position, []).append(task)
        found += [Due(stage=stage, position=at, tasks=tuple(tasks)) for at, tasks in sorted(wanted.items())]
    return found


def address_of(compiled: Compiled, one: Due) -> Address:
    """The address at which the checkpoint of a step boundary stands: positions in addresses are full-size."""
    setting = one.stage.setting
    if one.position == one.stage.plan.end:
        return Address(setting.curriculum, setting.stage)
    return Address(setting.curriculum, setting.stage, int(one.position / compiled.scale))
