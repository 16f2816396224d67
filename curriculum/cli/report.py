"""The verb `report`: write one HTML file on curricula."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from curriculum.cli import addresses, completion
from curriculum.cli.options import Size, open_project


def report(
    names: Annotated[
        list[str],
        typer.Argument(
            help="a study; or curricula, and arms of studies, to see side by side", autocompletion=completion.variants
        ),
    ],
    size: Size = "",
    to: Annotated[
        Path | None, typer.Option("--to", help="the HTML file; without it, next to the runs of that size")
    ] = None,
) -> None:
    """Write one HTML file on curricula or a study.

    The plan as a picture, the losses, the mixture as trained, the lineage. Of a study: its arms, laws and verdicts.
    """
    from curriculum.report.html import write
    from curriculum.units import show_bytes

    project = open_project()
    study = addresses.study_alone(project, names)
    html = write.render(project, names, size) if study is None else write.render_study(project, study, size)
    names = [name.replace("/", "-") for name in names]
    path = to or write.default_path(project, names, size)
    write.write(path, html, make_folder=to is None)
    print(f"the report: {os.path.relpath(path)}  ({show_bytes(len(html.encode()))}, for any browser, no network)")
