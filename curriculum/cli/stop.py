"""The verb `stop`: ask a running curriculum to save and end."""

from __future__ import annotations

from curriculum.cli import addresses
from curriculum.cli.options import Name, Size, open_project


def stop(name: Name, size: Size = "") -> None:
    """Ask a running curriculum or study to save and end."""
    project = open_project()
    if (study := addresses.study_in(project, [name])) is not None:
        from curriculum.execution.study import stop_study
        from curriculum.studies.arms import compile_study

        lines = stop_study(compile_study(project, study, size))
    elif project.is_arm(name):
        from curriculum.execution.stop import stop_lineage
        from curriculum.studies.arms import find_arm

        arm = find_arm(project, name, size)
        lines = stop_lineage(arm.project, arm.compiled)
    else:
        from curriculum.execution.stop import stop as stop_curriculum

        lines = stop_curriculum(project, name, size)
    print("\n".join(lines) or f"`{name}` is not running at size {size}")
