"""Held-out losses and benchmark scores along lineages: what is on record at a point, and what is due there.

A point is a stage and a position. A gap is a point at which held-out sets or tasks are requested and not on record;
`execution.fill` measures gaps of both kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from curriculum.artifacts import benchmarks
from curriculum.artifacts.checkpoints import Checkpoint
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.compiler.cadence import task_positions
from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.compiler.lineage import Address
from curriculum.config.project import Project
from curriculum.runs.folders import checkpoint_at, stage_folder

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """The weights of stage `stage` at `position` tokens; equal points are the same weights in every lineage."""

    stage: str
    position: int

    def __str__(self) -> str:
        return f"{self.stage}, {self.position:,} tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Held-out sets or tasks (`names`) that are requested at a point of a lineage and not on record there.

    `checkpoint` is None when none is kept at the point.
    """

    compiled: Compiled
    stage: CompiledStage
    position: int
    checkpoint: Checkpoint | None
    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"{', '.join(self.names)} at {Point(self.stage.name, self.position)}"

    @property
    def address(self) -> Address:
        """What a person writes for the point: positions in addresses are full-size."""
        setting = self.stage.setting
        at_end = self.position == self.stage.plan.end
        return Address(setting.curriculum, setting.stage, None if at_end else int(self.position / self.compiled.scale))


def due_benchmarks(project: Project, compiled: Compiled, only: str | None = None) -> list[Gap]:
    """Tasks that the cadences of a lineage, or of its stage `only`, request at kept checkpoints, in order."""
    gaps = []
    for stage in compiled.stages:
        if only not in (None, stage.name):
            continue
        folder = stage_folder(project, compiled, stage)
        requested = task_positions(stage.plan, stage.task_every)
        for position in sorted(set().union(*requested.values())):
            checkpoint = checkpoint_at(folder, position) if position <= stage.stop else None
            if checkpoint is None:
                continue
            tasks = (task for task, positions in requested.items() if position in positions)
            if names := tuple(t for t in tasks if not benchmarks.path_of(folder, checkpoint.name, t).exists()):
                gaps.append(Gap(compiled=compiled, stage=stage, position=position, checkpoint=checkpoint, names=names))
    return gaps


def by_point(
    project: Project, lineages: Sequence[Compiled], read: Callable[[StageFolder], Mapping[int, Mapping[str, Result]]]
) -> dict[Point, dict[str, Result]]:
    """The results of some lineages by point and name; `read` gives a stage's by position.

    What a stage measured where it starts counts for the end of the parent that it starts from.
    """
    results: dict[Point, dict[str, Result]] = {}
    for compiled in lineages:
        for stage in compiled.stages:
            for position, named in read(stage_folder(project, compiled, stage)).items():
                if position > stage.stop:
                    continue
                own = stage.parent is None or position > stage.plan.start or bool(stage.members)
                owner = stage.name if own or stage.parent is None else stage.parent.name
                here = results.setdefault(Point(owner, position), {})
                for name, result in named.items():
                    if own or name not in here:
                        here[name] = result
    return results
