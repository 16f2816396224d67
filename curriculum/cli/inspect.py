"""The verb `inspect`: say what a token file is: format, width, tokens, documents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from curriculum.cli import completion
from curriculum.cli.options import AsJson, print_json


def inspect(
    path: Annotated[Path, typer.Argument(help="a token file of any known format, or a folder of them")],
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="show pieces as text: a name in sources.yaml, a tokenizer.json, or its folder",
            autocompletion=completion.tokenizers,
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, max=50, help="pieces to show")] = 3,
    as_json: AsJson = False,
) -> None:
    """Show a token file's format, width, tokens and documents.

    With a tokenizer, also some of its text.
    """
    from curriculum.cli.view.inspect import inspection_lines
    from curriculum.compiler.tokenizers import named_tokenizer
    from curriculum.data.inspect import inspect as inspect_tokens

    summary = inspect_tokens(path, named_tokenizer(tokenizer) if tokenizer else None, samples)
    if as_json:
        print_json(summary)
    else:
        for line in inspection_lines(summary):
            print(line)
