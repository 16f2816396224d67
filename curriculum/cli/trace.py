"""The verb `trace`: show every step, past or future, that reads a given text."""

from __future__ import annotations

from typing import Annotated

import typer

from curriculum.cli.options import (
    AsJson,
    MachineName,
    Names,
    Size,
    open_console,
    open_project,
    print_json,
    trained_with_texts,
)


def trace(
    names: Names,
    document: Annotated[str | None, typer.Option(help="a document's id, as `batch` shows it")] = None,
    source: Annotated[str | None, typer.Option(help="a source; with --range or --shard")] = None,
    span: Annotated[
        str | None, typer.Option("--range", help="FIRST:END, in windows, or in quotes with `tokens`")
    ] = None,
    shard: Annotated[int | None, typer.Option(min=0, help="a shard of the source's prepared text")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="count the readings of a shard exactly")] = False,
    size: Size = "",
    machine: MachineName = "local",
    as_json: AsJson = False,
) -> None:
    """Show every step, past or future, that reads a given text.

    The text is a document, a range of a source, or a bad shard.
    """
    from curriculum.analysis import shard_impact, trace as analysis_trace
    from curriculum.errors import PlanError

    questions = [key for key, value in (("document", document), ("range", span), ("shard", shard)) if value is not None]
    if len(questions) != 1 or (questions != ["document"] and source is None):
        raise PlanError(
            "`trace` takes one text: a document, a range of a source, or a shard of a source",
            hint="`--document ID`, `--source S --range 0:100` or `--source S --shard 3`",
        )
    project = open_project()
    lineages = [trained_with_texts(project, name, size) for name in dict.fromkeys(names)]
    compiled, texts = [lineage for lineage, _ in lineages], lineages[0][1]
    if shard is not None and source is not None:
        result = shard_impact.shard_impact(
            project, compiled, texts, source, shard, project.machine(machine), exact=exact
        )
    else:
        result = analysis_trace.trace(project, compiled, texts, document=document, source=source, span=span)
    if as_json:
        print_json(result)
    else:
        from curriculum.cli.view.trace import shard_view, trace_view

        open_console().print((trace_view if shard is None else shard_view)(result))
