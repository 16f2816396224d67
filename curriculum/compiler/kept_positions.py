"""The checkpoints of a stage that stay on disk: those that its file keeps, branch points and benchmarks."""

from __future__ import annotations

import math
from fractions import Fraction

from curriculum import config
from curriculum.compiler.cadence import boundary, task_positions
from curriculum.compiler.compile import CompiledStage
from curriculum.compiler.lineage import AVERAGE, LineageStage, lineage, parse_address, stages_to
from curriculum.config.project import Project
from curriculum.errors import CurriculumError


def kept_positions(project: Project, compiled: CompiledStage, scale: Fraction) -> tuple[int, ...]:
    """Positions inside the stage, in tokens at this size, that its file keeps, where tasks are measured, or where a
    stage file branches.

    `from: variant@P` keeps the checkpoint of the stage that P lies in, which may be one of the variant's ancestors.
    """
    plan, name = compiled.plan, compiled.name
    benchmarks = task_positions(plan, compiled.task_every).values()
    positions = {*compiled.keep, *(position for of_task in benchmarks for position in of_task)} - {plan.end}
    for curriculum in project.names("stages"):
        try:
            file, _ = project.curriculum(curriculum)
            points = _branch_points(project, curriculum, file)
        except CurriculumError:  # an error in another stage file does not concern this run
            continue
        for branch_point, stages in points:
            stage = next((stage for stage in stages if stage.name == name), None)
            if stage is None or (stage.cut is not None and stage.cut < branch_point):
                continue  # the lineage does not contain this stage, or leaves it before P
            # The step boundary at or past P may be the end of a stage whose declared end lies before P.
            position = boundary(plan, math.ceil(branch_point * scale))
            if plan.start < position <= plan.end:
                positions.add(position)
    return tuple(sorted(positions))


def _branch_points(
    project: Project, name: str, file: config.CurriculumFile
) -> list[tuple[int, tuple[LineageStage, ...]]]:
    """The full-size positions that a file starts from, those of an average's checkpoints, with their lineages."""
    if file.from_ is None:
        return []
    if isinstance(file.from_, str):
        address = parse_address(file.from_)
        return [] if address.position is None else [(address.position, stages_to(project, address))]
    average = next(stage.setting.average for stage in lineage(project, name) if stage.name == f"{name}/{AVERAGE}")
    return [(m.address.position, m.stages) for m in average if m.address.position is not None]
