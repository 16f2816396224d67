"""Questions that the plan answers, before or after anything ran."""

from __future__ import annotations

import shutil
import sys
from typing import Annotated

import typer

from curriculum.cli import completion
from curriculum.cli.words import (
    AsJson,
    MachineName,
    Name,
    Names,
    Size,
    open_console,
    open_project,
    print_json,
    trained_with_texts,
)


def batch(
    name: Name,
    step: Annotated[int, typer.Option(min=0, help="an optimizer update, counted from the root, from 0")],
    size: Size = "",
    rank: Annotated[int | None, typer.Option(min=0, help="only this rank's slots")] = None,
    of: Annotated[int | None, typer.Option(min=1, help="how many ranks there are")] = None,
    text: Annotated[bool, typer.Option("--text", help="show the beginning of each window's text")] = False,
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
    listing = analysis_batch.batch(compiled, texts, step, rank=rank, ranks=of, text=text)
    if as_json:
        print_json(listing)
    else:
        from curriculum.view.questions import TEXT_WIDTH, batch_lines

        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else TEXT_WIDTH
        print("\n".join(batch_lines(listing, width)))


def trace(
    names: Names,
    document: Annotated[str | None, typer.Option(help="a document's id, as `batch` shows it")] = None,
    source: Annotated[str | None, typer.Option(help="a source; with --range or --shard")] = None,
    span: Annotated[
        str | None, typer.Option("--range", help="FIRST:END, in windows, or in quotes with `tokens`")
    ] = None,
    shard: Annotated[int | None, typer.Option(min=0, help="a shard of the source's prepared text")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="count a shard's readings to the last one")] = False,
    size: Size = "",
    machine: MachineName = "local",
    as_json: AsJson = False,
) -> None:
    """Show every step, past or future, that reads a given text.

    The text is a document, a stretch of a source, or a bad shard.
    """
    from curriculum.analysis import shard_impact
    from curriculum.analysis import trace as analysis_trace
    from curriculum.errors import PlanError

    asked = [
        key for key, value in (("document", document), ("range", span), ("shard", shard)) if value is not None
    ]
    if len(asked) != 1 or (asked != ["document"] and source is None):
        raise PlanError(
            "`trace` answers for one thing: a document, a range of a source, or a shard of a source",
            hint="`--document ID`, `--source S --range 0:100` or `--source S --shard 3`",
        )
    project = open_project()
    both = [trained_with_texts(project, name, size) for name in dict.fromkeys(names)]
    compiled, texts = [each for each, _ in both], both[0][1]
    if shard is not None and source is not None:
        found = shard_impact.shard_impact(
            project, compiled, texts, source, shard, project.machine(machine), exact=exact
        )
    else:
        found = analysis_trace.trace(project, compiled, texts, document=document, source=source, span=span)
    if as_json:
        print_json(found)
    else:
        from curriculum.view.readings import shard_view, trace_view

        open_console().print((trace_view if shard is None else shard_view)(found))


def diff(
    old: Annotated[
        str,
        typer.Argument(
            help="a curriculum, NAME[/STAGE][@TOKENS], a stage file, or a plan.json",
            autocompletion=completion.addresses,
        ),
    ],
    new: Annotated[
        str | None,
        typer.Argument(
            help="another of these; without it: what ran under the first's name",
            autocompletion=completion.addresses,
        ),
    ] = None,
    size: Size = "",
    as_json: AsJson = False,
) -> None:
    """Show the first step at which two curricula part, and in what.

    Also how many tokens are moved after it.
    """
    from curriculum.analysis import diff_sides
    from curriculum.plan.diff.compare import compare
    from curriculum.view.diff import comparison_json, comparison_view

    project = open_project()
    ran: tuple[diff_sides.RanStage, ...] = ()
    if new is None:
        beside = diff_sides.against_what_ran(project, old, size)
        if beside is None:
            if as_json:
                print_json({"old": old, "size": size, "begun": False})
            else:
                print(f"nothing of `{old}` has begun at size {size}: its files may be edited freely")
            return
        mine, theirs, ran = beside
    else:
        mine, theirs = (diff_sides.side(project, asked, size) for asked in (old, new))
    compared = compare(mine.lineage, theirs.lineage)
    if as_json:
        print_json(comparison_json(compared, mine.label, theirs.label, size, ran))
    else:
        open_console().print(comparison_view(compared, mine.label, theirs.label, size, ran))
