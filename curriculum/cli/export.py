"""The verb `export`: write a checkpoint as a Hugging Face directory."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from curriculum.cli import completion
from curriculum.cli.options import Size, open_console, open_project, stopped


def export(
    address: Annotated[
        str,
        typer.Argument(
            help="what to export: NAME[/STAGE][@TOKENS], as in v1.1-math-code or v1.1@1.5T, or a study's arm",
            autocompletion=completion.addresses,
        ),
    ],
    to: Annotated[Path, typer.Option(help="the directory to write, which must not exist")],
    size: Size = "",
    dtype: Annotated[
        Literal["source", "fp32", "bf16"],
        typer.Option(help="of the weights; source: as trained, fp32, or as the imported directory"),
    ] = "source",
) -> None:
    """Write a checkpoint as a Hugging Face directory.

    It holds weights, tokenizer and a model card.
    """
    from curriculum.artifacts.job_process import stop_on_signals
    from curriculum.cli import progress
    from curriculum.cli.addresses import arm_or_address
    from curriculum.cli.view.import_export import written_view
    from curriculum.compiler.lineage import parse_address
    from curriculum.execution import export as execution_export
    from curriculum.execution.request import RunRequest

    project, named = arm_or_address(open_project(), address, size)
    console = open_console()
    execution_export.check_free(to)
    source = execution_export.find(project, parse_address(named), size)
    request = RunRequest(
        project=project, curriculum=source.address.curriculum, size=size, listener=progress.RunDisplay(console)
    )
    with stop_on_signals() as stop:
        written = execution_export.export(request, source, to, dtype, stop)
    if written is None:
        raise stopped(f"curriculum export {address}{project.options(size)} --to {shlex.quote(str(to))}")
    console.print(written_view(to, str(source.address), written))
