"""How far everything is and what came out."""

from __future__ import annotations

from typing import Annotated

import typer

from curriculum.cli.words import AsJson, Size, open_console, open_project, print_json


def status(
    name: Annotated[str | None, typer.Argument(help="one curriculum; all of them without")] = None,
    size: Size = "rehearsal",
    follow: Annotated[
        bool, typer.Option("--follow", help="watch it run, from any terminal; Ctrl-C leaves it running")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the project's curricula as a tree: planned, how far, or done; or watch one of them run."""
    from dataclasses import asdict

    from curriculum.errors import PlanError

    project = open_project()
    if follow:
        from curriculum.watch import Watch

        if name is None or as_json:
            raise PlanError(
                "`--follow` watches one curriculum, as lines or as a panel",
                hint="as in `curriculum status v1.1 --follow`; `--json` shows how things are now",
            )
        try:
            Watch(project, name, size, open_console()).follow()
        except KeyboardInterrupt:
            print("left; what runs goes on")
        return
    from curriculum.standing import standing
    from curriculum.view.status import standing_view

    now = standing(project, size, name)
    if as_json:
        print_json(asdict(now))
    else:
        open_console().print(standing_view(now))
