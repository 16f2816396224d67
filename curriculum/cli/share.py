"""What goes in and out: a model from elsewhere to begin with, and trained weights for others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from curriculum.cli import completion
from curriculum.cli.words import AsJson, Size, open_console, open_project, print_json, stopped


def export(
    address: Annotated[
        str,
        typer.Argument(
            help="what to export: NAME[/STAGE][@TOKENS], as in v1.1-math-code or v1.1@1.5T",
            autocompletion=completion.addresses,
        ),
    ],
    to: Annotated[Path, typer.Option(help="the directory to write, which must not exist")],
    size: Size = "rehearsal",
    dtype: Annotated[
        Literal["source", "fp32", "bf16"],
        typer.Option(help="of the weights; source: as trained, fp32, or as the imported directory"),
    ] = "source",
) -> None:
    """Write a checkpoint as a Hugging Face directory: weights, tokenizer and a model card."""
    from curriculum import attempts, exports, live, supervisor
    from curriculum.lineage import parse_address
    from curriculum.view.exchange import written_view

    project = open_project()
    console = open_console()
    exports.check_free(to)
    found = exports.find(project, parse_address(address), size)
    request = attempts.Run(
        project=project, curriculum=found.address.curriculum, size=size, listener=live.Progress(console)
    )
    with supervisor.stop_on_signals() as stop:
        done = exports.export(request, found, to, dtype, stop)
    if done is None:
        raise stopped(f"curriculum export {address} --size {size} --to {to}")
    console.print(written_view(to, exports.written(found.address), done))


def import_(
    directory: Annotated[
        Path, typer.Argument(help="a Llama model as transformers saves it, with safetensors")
    ],
    name: Annotated[str, typer.Argument(help="the new curriculum's name")],
    mixture: Annotated[
        str | None,
        typer.Option(help="a file of mixtures/ that it trains on", autocompletion=completion.mixtures),
    ] = None,
    tokens: Annotated[str, typer.Option(help="how long it trains, as in 10B")] = "10B",
    as_json: AsJson = False,
) -> None:
    """Write a curriculum that starts from a Hugging Face directory, for you to edit."""
    from curriculum import importing
    from curriculum.view.exchange import found_view

    project = open_project()
    made = importing.draft(project, directory, name, mixture, tokens)
    path = importing.write(project, made)
    if as_json:
        print_json({**importing.found(made), "written": os.path.relpath(path)})
        return
    console = open_console()
    console.print(found_view(importing.found(made)))
    console.print(f"wrote {os.path.relpath(path)}: rate, batch, lengths and mixture are yours to edit")
    console.print(f"next: curriculum plan {name} --size full")
