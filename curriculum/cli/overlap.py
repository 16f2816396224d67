"""The verb `overlap`: show which training documents share text with held-out sets, benchmark items or other sources."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from curriculum.cli.options import (
    AsJson,
    Names,
    Size,
    open_console,
    open_project,
    print_json,
    stopped,
    trained_with_texts,
)


def overlap(
    names: Names,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|SOURCE|TASK",
            help="a file of items or text, a source, or a benchmark task; else held-out text",
        ),
    ] = None,
    tasks_from: Annotated[
        Path | None,
        typer.Option(help="a folder of task files of your own (their Python runs); tasks/ is looked at anyway"),
    ] = None,
    ngram: Annotated[int, typer.Option(min=4, max=256, help="how many tokens in a row count as shared")] = 13,
    size: Size = "",
    as_json: AsJson = False,
) -> None:
    """Show text shared with held-out sets, items or sources.

    Documents that share a run of tokens are counted and listed, with the past and future steps that read them.
    """
    from curriculum.analysis.ngram_overlap import ngram_overlap
    from curriculum.analysis.ngram_references import names_task

    project = open_project()
    lineages = [trained_with_texts(project, name, size) for name in dict.fromkeys(names)]
    texts, items = lineages[0][1], None
    if against is not None and texts.manifests() and names_task(texts, against):
        from curriculum.artifacts.job_process import stop_on_signals
        from curriculum.cli import progress
        from curriculum.execution.overlap import task_items
        from curriculum.execution.request import RunRequest

        display = progress.RunDisplay(open_console(stderr=True))
        request = RunRequest(project=project, curriculum=names[0], size=size, listener=display)
        with stop_on_signals() as stop:
            items = task_items(request, against, tasks_from, stop)
        if items is None:
            raise stopped(f"curriculum overlap {' '.join(names)}{project.options(size)} --against {against}")
    result = ngram_overlap(
        project, [compiled for compiled, _ in lineages], texts, against=against, items=items, n=ngram
    )
    if as_json:
        print_json(result)
    else:
        from curriculum.cli.view.overlap import overlap_view

        open_console().print(overlap_view(result))
