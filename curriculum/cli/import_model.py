"""The verb `import`: write a curriculum that starts from a Hugging Face directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from curriculum.cli import completion
from curriculum.cli.options import AsJson, open_console, open_project, print_json


def import_(
    directory: Annotated[Path, typer.Argument(help="a model as transformers saves it, with safetensors")],
    name: Annotated[str, typer.Argument(help="the new curriculum's name")],
    mixture: Annotated[
        str | None, typer.Option(help="a file of mixtures/ that it trains on", autocompletion=completion.mixtures)
    ] = None,
    tokens: Annotated[str, typer.Option(help="how long it trains, as in 10B")] = "10B",
    as_json: AsJson = False,
) -> None:
    """Write a curriculum that starts from Hugging Face weights.

    The file is for you to edit.
    """
    from curriculum.cli.view.import_export import model_view
    from curriculum.execution import import_model

    project = open_project()
    draft = import_model.draft(project, directory, name, mixture, tokens)
    path = import_model.write(project, draft)
    if as_json:
        print_json({**import_model.summary(draft), "written": os.path.relpath(path)})
        return
    console = open_console()
    console.print(model_view(import_model.summary(draft)))
    for line in draft.directory.unread:
        console.print(f"note: {line}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"wrote {os.path.relpath(path)}: rate, batch, lengths and mixture are yours to edit")
    console.print(f"next: curriculum plan {name}{project.options('full')}")
