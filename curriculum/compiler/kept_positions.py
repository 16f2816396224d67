"""The checkpoints of a stage that stay on disk: those that its file keeps, branch points and benchmarks."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from fractions import Fraction

from curriculum.compiler.cadence import boundary, task_positions
from curriculum.compiler.compile import CompiledStage
from curriculum.compiler.lineage import parse_address, stages_to
from curriculum.config.project import Project
from curriculum.errors import CurriculumError


def kept_positions(project: Project, compiled: CompiledStage, scale: Fraction) -> tuple[int, ...]:
    """Positions inside the stage, in tokens at this size, that its file keeps, where tasks are measured, or where a
    stage file or a study branches.

    `from: variant@P` keeps the checkpoint of the stage that P lies in, which may be one of the variant's ancestors.
    """
    plan, name = compiled.plan, compiled.name
    benchmarks = task_positions(plan, compiled.task_every).values()
    positions = {*compiled.keep, *(position for of_task in benchmarks for position in of_task)} - {plan.end}
    for point in branch_points(project):
        try:
            address = parse_address(point)
            if address.position is None:
                continue
            lineage = stages_to(project, address)
        except CurriculumError:  # an error in another stage file does not concern this run
            continue
        stage = next((stage for stage in lineage if stage.name == name), None)
        if stage is None or (stage.cut is not None and stage.cut < address.position):
            continue  # the lineage does not contain this stage, or leaves it before P
        # The step boundary at or past P may be the end of a stage whose declared end lies before P.
        position = boundary(plan, math.ceil(address.position * scale))
        if plan.start < position <= plan.end:
            positions.add(position)
    return tuple(sorted(positions))


def branch_points(project: Project) -> Iterator[str]:
    """What the stage files and studies of a project state as `from:`; files with an error are left out."""
    for folder, read in (("stages", project.curriculum), ("studies", project.study)):
        for name in project.names(folder):
            with contextlib.suppress(CurriculumError):  # an error in another file does not concern this run
                file, _ = read(name)
                if file.from_:
                    yield file.from_
