"""Names of studies and of their arms on the command line: the project and the curriculum that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from curriculum.config.project import Project
    from curriculum.studies.arm import Arm


def study_in(project: Project, names: Sequence[str]) -> str | None:
    """The study among `names`; None without one. PlanError for a study or an arm next to anything else."""
    studies = project.names("studies")
    matches = [name for name in names if name.partition("/")[0] in studies]
    if not matches:
        return None
    if len(set(names)) > 1:
        from curriculum.errors import PlanError

        raise PlanError(
            f"`{matches[0]}` is {'an arm of ' if '/' in matches[0] else ''}a study, which is named alone",
            hint="name curricula together, and a study or an arm by itself",
        )
    return matches[0] if "/" not in matches[0] else None


def study_alone(project: Project, names: Sequence[str]) -> str | None:
    """The study that is the only one of `names`; None without one. PlanError for a study, not an arm, among others."""
    studies = [name for name in names if name in project.names("studies")]
    if studies and len(set(names)) > 1:
        from curriculum.errors import PlanError

        file, document = project.study(studies[0])
        raise PlanError(
            f"`{studies[0]}` is a study of several arms, and is put beside nothing else",
            place=document.place((file.subject,)),
            hint=f"name its arms, as in `{studies[0]}/kept`, which are put beside curricula; or the study by itself",
        )
    return studies[0] if studies else None


def arm_or_curriculum(project: Project, name: str, size: str) -> tuple[Project, str]:
    """The project that has `name`, an arm's address or a curriculum, and the name of its curriculum there."""
    if not project.is_arm(name):
        return project, name
    from curriculum.studies.arms import find_arm

    arm = find_arm(project, name, size)
    return arm.project, arm.study


def arm_or_address(project: Project, name: str, size: str) -> tuple[Project, str]:
    """The project that has `name`, an arm's address or anything else, and the address of the stage there."""
    if not project.is_arm(name):
        return project, name
    from curriculum.studies.arms import find_arm

    arm = find_arm(project, name, size)
    return arm.project, arm.address


def arm_of(project: Project, name: str, size: str) -> Arm | None:
    """The arm `name`, and of a study its first, which has the text of all of them; None for a curriculum."""
    from curriculum.studies.arms import compile_study, find_arm

    if name in project.names("studies"):
        return compile_study(project, name, size).arms[0]
    return find_arm(project, name, size) if project.is_arm(name) else None
