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
    old: Annotated[
        str, typer.Argument(help="a curriculum, NAME[/STAGE][@TOKENS], a stage file, or a plan.json")
    ],
    new: Annotated[
        str | None, typer.Argument(help="another of these; without it: what ran under the first's name")
    ] = None,
    size: Size = "rehearsal",
    as_json: AsJson = False,
) -> None:
    """Show the first step at which two curricula part, in what, and the tokens moved after it."""
    from curriculum.diff import compare, sides
    from curriculum.view.diff import comparison_json, comparison_view

    project = open_project()
    ran: tuple[sides.Ran, ...] = ()
    if new is None:
        beside = sides.against_what_ran(project, old, size)
        if beside is None:
            if as_json:
                print_json({"old": old, "size": size, "begun": False})
            else:
                print(f"nothing of `{old}` has begun at size {size}: its files may be edited freely")
            return
        mine, theirs, ran = beside
    else:
        mine, theirs = (sides.side(project, asked, size) for asked in (old, new))
    compared = compare(mine.lineage, theirs.lineage)
    if as_json:
        print_json(comparison_json(compared, mine.label, theirs.label, size, ran))
    else:
        open_console().print(comparison_view(compared, mine.label, theirs.label, size, ran))
