"""The verb `report`: write one HTML file on curricula."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from curriculum.cli import completion
from curriculum.cli.options import Size, open_project


def report(
    names: Annotated[
        list[str],
        typer.Argument(help="one curriculum, or several to see side by side", autocompletion=completion.curricula),
    ],
    size: Size = "",
    to: Annotated[
        Path | None, typer.Option("--to", help="the HTML file; without it, next to the runs of that size")
    ] = None,
) -> None:
    """Write one HTML file on curricula.

    The plan as a picture, the losses, the mixture as trained, the lineage.
    """
    from curriculum.report.html import write
    from curriculum.units import show_bytes

    project = open_project()
    html = write.render(project, names, size)
    path = to or write.default_path(project, names, size)
    write.write(path, html, make_folder=to is None)
    print(f"the report: {os.path.relpath(path)}  ({show_bytes(len(html.encode()))}, for any browser, no network)")
