"""The verb `status`: show how far every curriculum is, or watch one run."""

from __future__ import annotations

from typing import Annotated

import typer

from curriculum.cli.options import AsJson, NameOrAll, Size, open_console, open_project, print_json


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
    if follow:
        from curriculum.cli.follow import Watch

        if name is None or as_json:
            raise PlanError(
                "`--follow` watches one curriculum, as lines or as a panel",
                hint=f"as in `curriculum status {next(iter(project.names('stages')), 'NAME')} --follow`; `--json` "
                "shows how things are now",
            )
        try:
            Watch(project, name, size, open_console()).follow()
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
