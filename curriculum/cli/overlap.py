"""The verb `overlap`: show which training documents share text with held-out sets, benchmark items or other sources."""

from __future__ import annotations

from typing import Annotated

import typer

from curriculum.cli.options import AsJson, Names, Size, open_console, open_project, print_json, trained_with_texts


def overlap(
    names: Names,
    against: Annotated[
        str | None, typer.Option(metavar="FILE|SOURCE", help="a file of items or text, or a source; else held-out text")
    ] = None,
    ngram: Annotated[int, typer.Option(min=4, max=256, help="how many tokens in a row count as shared")] = 13,
    size: Size = "",
    as_json: AsJson = False,
) -> None:
    """Show text shared with held-out sets, items or sources.

    Documents that share a run of tokens are counted and listed, with the past and future steps that read them.
    """
    from curriculum.analysis.ngram_overlap import ngram_overlap

    project = open_project()
    lineages = [trained_with_texts(project, name, size) for name in dict.fromkeys(names)]
    result = ngram_overlap(project, [compiled for compiled, _ in lineages], lineages[0][1], against=against, n=ngram)
    if as_json:
        print_json(result)
    else:
        from curriculum.cli.view.overlap import overlap_view

        open_console().print(overlap_view(result))
