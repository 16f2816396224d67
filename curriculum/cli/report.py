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
        list[str], typer.Argument(help="a study, or curricula to see side by side", autocompletion=completion.curricula)
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
    if (study := addresses.study_in(project, names)) is not None:
        html = write.render_study(project, study, size)
    else:
        shown, of = project, list(names)
        if len(set(names)) == 1:
            shown, curriculum = addresses.arm_or_curriculum(project, names[0], size)
            of = [curriculum]
        html = write.render(shown, of, size)
    names = [name.replace("/", "-") for name in names]
    path = to or write.default_path(project, names, size)
    write.write(path, html, make_folder=to is None)
    print(f"the report: {os.path.relpath(path)}  ({show_bytes(len(html.encode()))}, for any browser, no network)")
