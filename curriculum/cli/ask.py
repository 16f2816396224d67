"""Questions that the plan answers, before or after anything ran."""

from __future__ import annotations

from typing import Annotated

import typer

from curriculum.cli.words import (
    AsJson,
    Name,
    Size,
    compiled_with_texts,
    open_console,
    open_project,
    print_json,
)


def batch(
    name: Name,
    step: Annotated[int, typer.Option(min=0, help="an optimizer update, counted from the root, from 0")],
    size: Size = "rehearsal",
    rank: Annotated[int | None, typer.Option(min=0, help="only this rank's slots")] = None,
    of: Annotated[int | None, typer.Option(min=1, help="how many ranks there are")] = None,
    text: Annotated[bool, typer.Option("--text", help="show the beginning of each window's text")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the sources, windows and documents of any step, before or after it ran."""
    from curriculum import trace
    from curriculum.errors import PlanError
    from curriculum.view.questions import batch_view

    if (rank is None) != (of is None):
        raise PlanError("`--rank` and `--of` go together", hint="as in `--rank 0 --of 2`")
    project = open_project()
    compiled, texts = compiled_with_texts(project, name, size)
    listing = trace.batch(compiled, texts, step, rank=rank, ranks=of, text=text)
    if as_json:
        print_json(listing)
    else:
        open_console().print(batch_view(listing))


def diff(
    old: Name, new: Annotated[str, typer.Argument(help="another curriculum")], size: Size = "rehearsal"
) -> None:
    """Show the first step at which two curricula part, and what differs there."""
    from curriculum.diff import first_parting
    from curriculum.view.questions import parting_view

    project = open_project()
    mine, _ = compiled_with_texts(project, old, size)
    theirs, _ = compiled_with_texts(project, new, size)
    open_console().print(parting_view(first_parting(mine.stages, theirs.stages), old, new))
