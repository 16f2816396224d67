"""The verb `status`: show how far every curriculum is, or watch one run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from curriculum.cli import addresses
from curriculum.cli.options import AsJson, NameOrAll, Size, open_console, open_project, print_json

if TYPE_CHECKING:
    from curriculum.config.project import Project


def status(
    name: NameOrAll = None,
    size: Size = "",
    follow: Annotated[
        bool, typer.Option("--follow", help="watch it run, from any terminal; Ctrl-C leaves it running")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show how far every curriculum is, or watch one run.

    A tree of the project's curricula: planned, how far, or done.
    """
    from dataclasses import asdict

    from curriculum.errors import PlanError

    project = open_project()
    if name is not None and (study := addresses.study_in(project, [name])) is not None:
        _study(project, study, size, follow=follow, as_json=as_json)
        return
    called = name
    if name is not None:
        project, name = addresses.arm_or_curriculum(project, name, size)
    if follow:
        from curriculum.cli.follow import Watch

        if name is None or as_json:
            raise PlanError(
                "`--follow` watches one curriculum, as lines or as a panel",
                hint=f"as in `curriculum status {next(iter(project.names('stages')), 'NAME')} --follow`; `--json` "
                "shows how things are now",
            )
        try:
            Watch(project, name, size, open_console(), called).follow()
        except KeyboardInterrupt:
            print("detached; the run continues")
        return
    from curriculum.cli.view.status import status_view
    from curriculum.runs.status import FORMAT, project_status

    now = project_status(project, size, name)
    if as_json:
        print_json({"format": FORMAT, **asdict(now)})
    else:
        open_console().print(status_view(now))


def _study(project: Project, name: str, size: str, *, follow: bool, as_json: bool) -> None:
    """The arms of a study as a table or as rows; with `follow` again and again until all are done."""
    from dataclasses import asdict

    from curriculum.cli.follow_study import follow_study
    from curriculum.cli.view.arms import arms_view
    from curriculum.execution.study import following_job
    from curriculum.studies.arms import compile_study
    from curriculum.studies.status import FORMAT, arm_statuses, changed_arms, changed_line

    study = compile_study(project, name, size)
    if as_json:
        arms = list(map(asdict, arm_statuses(study)))
        found = {"arms": arms, "changed": changed_arms(study), "follows": following_job(study)}
        print_json({"format": FORMAT, "study": name, "size": size, **found})
    elif follow:
        try:
            follow_study(study, open_console())
        except KeyboardInterrupt:
            print("detached; the run continues")
    else:
        changed = changed_arms(study)
        line = changed_line(name, changed, len(study.arms), project.options(size)) if changed else None
        open_console().print(arms_view(name, arm_statuses(study), following_job(study), line))
