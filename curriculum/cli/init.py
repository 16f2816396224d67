"""The verb `init`: write a new project that you own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def init(
    folder: Annotated[Path, typer.Argument(help="the folder to write the project into")],
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text",
            metavar="FOLDER",
            help="instead a small project for your own text, in this folder; repeat it for each of several",
        ),
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="of an existing project, write only the schemas that editors use")
    ] = False,
) -> None:
    """Write a new project that you own.

    It holds stages, mixtures, sources, sizes and machines: those of TinyLlama v1.1 or, with `--text`, small ones
    that train on your text as they are. No existing file is changed; a .gitignore gets the lines that it lacks.
    """
    from curriculum.config import init as config_init, layout, starter
    from curriculum.errors import ConfigError
    from curriculum.units import show_bytes, show_count

    if schema:
        if text:
            raise ConfigError("`--schema` writes into an existing project, `--text` a new one", hint="give one of them")
        written = config_init.write_schemas(folder)
        print(f"{len(written)} schemas in {written[0].parent}; a YAML file names its own in its first line, as in")
        print("  # yaml-language-server: $schema=../.schema/stages.json")
        return
    outer = layout.root_around(folder.resolve().parent)
    if text:
        written, sources = config_init.init_for(folder, text)
        for source in sources:
            print(f"{source.name}: {show_bytes(source.bytes)} of text, about {show_count(source.tokens)} tokens")
            if source.held_out_note is not None:
                print(f"{source.name}: by estimate {source.held_out_note}; more documents, or shorter ones, help")
        first = starter.CURRICULUM
    else:
        written, first = config_init.init(folder), "v1.1-math-code"
    print(f"{len(written)} files in {folder}: start with stages/{first}.yaml, then `curriculum plan {first}`")
    if outer is not None:
        print(f"{folder} is inside the project {outer}: commands given in it use the new one")
