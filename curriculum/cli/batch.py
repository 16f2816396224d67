"""The verb `batch`: show what any step reads, before or after it ran."""

from __future__ import annotations

import shutil
import sys
from typing import Annotated

import typer

from curriculum.cli.options import AsJson, Name, Size, open_project, print_json, trained_with_texts


def batch(
    name: Name,
    step: Annotated[int, typer.Option(min=0, help="an optimizer update, counted from the root, from 0")],
    size: Size = "",
    rank: Annotated[int | None, typer.Option(min=0, help="only this rank's slots")] = None,
    of: Annotated[int | None, typer.Option(min=1, help="how many ranks there are")] = None,
    text: Annotated[bool, typer.Option("--text", help="show the beginning of each window's text")] = False,
    full_text: Annotated[bool, typer.Option("--full-text", help="show all of each window's text")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what any step reads, before or after it ran.

    Its sources, windows and documents.
    """
    from curriculum.analysis import batch as analysis_batch
    from curriculum.errors import PlanError

    if (rank is None) != (of is None):
        raise PlanError("`--rank` and `--of` go together", hint="as in `--rank 0 --of 2`")
    project = open_project()
    compiled, texts = trained_with_texts(project, name, size)
    listing = analysis_batch.batch(compiled, texts, step, rank=rank, ranks=of, text=text, full_text=full_text)
    if as_json:
        print_json(listing)
    else:
        from curriculum.cli.view.batch import TEXT_WIDTH, batch_lines

        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else TEXT_WIDTH
        print("\n".join(batch_lines(listing, None if full_text else width)))
