"""How far everything is and what came out."""

from __future__ import annotations

from typing import Annotated

import typer

from curriculum.cli.words import AsJson, Size, open_console, open_project, print_json


def status(
    name: Annotated[str | None, typer.Argument(help="one curriculum; all of them without")] = None,
    size: Size = "rehearsal",
    as_json: AsJson = False,
) -> None:
    """Show every stage of the project: planned, how far, or done."""
    from curriculum import runs
    from curriculum.view.runs import status_view

    rows = runs.status(open_project(), size, name)
    if as_json:
        print_json(rows)
    else:
        open_console().print(status_view(rows, size))
