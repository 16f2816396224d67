"""The checkpoints of a stage that stay on disk: those that its file keeps, branch points and benchmarks."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from fractions import Fraction

from curriculum.compiler.cadence import boundary, task_positions
from curriculum.compiler.compile import CompiledStage
from curriculum.compiler.lineage import AVERAGE, LineageStage, lineage, parse_address, stages_to
from curriculum.config.project import Project
from curriculum.errors import CurriculumError


def kept_positions(project: Project, compiled: CompiledStage, scale: Fraction) -> tuple[int, ...]:
    """Positions inside the stage, in tokens at this size, that its file keeps, where tasks are measured, or where a
    stage file or a study branches.

    `from: variant@P` keeps the checkpoint of the stage that contains P, which may be one of the variant's ancestors.
    """
    plan, name = compiled.plan, compiled.name
    benchmarks = task_positions(plan, compiled.task_every).values()
    positions = {*compiled.keep, *(position for of_task in benchmarks for position in of_task)} - {plan.end}
    for point, stages in branch_points(project):
        stage = next((stage for stage in stages if stage.name == name), None)
        if stage is None or (stage.cut is not None and stage.cut < point):
            continue  # the lineage does not contain this stage, or leaves it before P
        # The step boundary at or past P may be the end of a stage whose declared end is before P.
        position = boundary(plan, math.ceil(point * scale))
        if plan.start < position <= plan.end:
            positions.add(position)
    return tuple(sorted(positions))


def branch_points(project: Project) -> Iterator[tuple[int, tuple[LineageStage, ...]]]:
    """The full-size positions that the stage files and studies of a project start from, with their lineages.

    Those of an average's checkpoints are among them; files with an error are left out.
    """
    for name in project.names("stages"):
        with contextlib.suppress(CurriculumError):  # an error in another file does not concern this run
            file, _ = project.curriculum(name)
            if isinstance(file.from_, str):
                yield from _branch_point(project, file.from_)
            elif file.from_ is not None:
                stages = lineage(project, name)
                average = next(stage.setting.average for stage in stages if stage.name == f"{name}/{AVERAGE}")
                yield from ((m.address.position, m.stages) for m in average if m.address.position is not None)
    for name in project.names("studies"):
        with contextlib.suppress(CurriculumError):
            study, _ = project.study(name)
            if study.from_:
                yield from _branch_point(project, study.from_)


def _branch_point(project: Project, point: str) -> Iterator[tuple[int, tuple[LineageStage, ...]]]:
    address = parse_address(point)
    if address.position is not None:
        yield address.position, stages_to(project, address)
