"""The verb `compare`: show held-out losses of variants side by side."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from curriculum.cli import completion
from curriculum.cli.options import (
    AsJson,
    MachineName,
    Size,
    open_console,
    open_project,
    print_json,
    stopped,
)


def compare(
    names: Annotated[
        list[str],
        typer.Argument(
            help="two curricula or more; the first is compared against", autocompletion=completion.curricula
        ),
    ],
    size: Size = "",
    machine: MachineName = "local",
    against: Annotated[
        str | None,
        typer.Option(
            help="the one whose losses are taken away from the others'", autocompletion=completion.curricula
        ),
    ] = None,
    fill: Annotated[
        bool,
        typer.Option("--fill/--no-fill", help="measure kept checkpoints where a source was not measured"),
    ] = True,
    svg: Annotated[
        Path | None, typer.Option(help="where the picture goes; runs/SIZE/compare-NAMES.svg without")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="exit with 1 unless every mark that must show does")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show held-out losses of variants side by side.

    From their shared trunk on, with the noise of each difference.
    """
    from curriculum import fs
    from curriculum.analysis import benchmarks, claims
    from curriculum.analysis.compare import compare as put_side_by_side
    from curriculum.analysis.compare import missing_losses, to_json
    from curriculum.artifacts.job_process import stop_on_signals
    from curriculum.cli import progress
    from curriculum.cli.view.benchmarks import tasks_view
    from curriculum.cli.view.compare import compare_view, rows_apart
    from curriculum.compiler.prepared_text import PreparedText
    from curriculum.execution import evaluate
    from curriculum.execution.request import RunRequest
    from curriculum.report.svg import variants

    project = open_project()
    console = open_console()
    texts = [PreparedText.open(project, name, size) for name in names]
    lineages = [of_name.compiled for of_name in texts]
    comparison = put_side_by_side(project, lineages, against)
    request = RunRequest(
        project=project,
        curriculum=names[0],
        size=size,
        machine=machine,
        listener=progress.RunDisplay(open_console(stderr=True) if as_json else console),
    )
    if fill:
        with stop_on_signals() as stop:
            filled = evaluate.fill(request, comparison, texts, stop)
        if filled.stopped:
            raise stopped(f"curriculum compare {' '.join(names)}{project.options(size, machine)}")
        left = filled.unmeasured
        comparison = put_side_by_side(project, lineages, against)
    else:
        left = tuple(f"{gap}: not measured" for gap in missing_losses(project, comparison))
    found = claims.check_claims(comparison)
    tasks = benchmarks.side_by_side(project, comparison)
    notes = [
        *rows_apart(comparison),
        *comparison.changed,
        *comparison.mismatches(),
        *tasks.mismatches(),
        *left,
    ]
    path = svg or project.output_path(size, "compare", names, ".svg")
    fs.make_directory(path.parent)
    title = f"{', '.join(names)}: size {size}"
    fs.write_bytes(path, variants.overlay(comparison, title).encode(), replace=True)
    if as_json:
        print_json(
            {
                **to_json(comparison),
                "tasks": benchmarks.to_json(tasks),
                "claims": claims.to_json(found),
                "notes": notes,
                "svg": str(path),
            }
        )
    else:
        beside = tasks_view(tasks, console.width)
        console.print(compare_view(comparison, found, notes, console.width, beside))
        console.print(f"\nthe curves: {os.path.relpath(path)}")
    if check and not claims.all_hold(found):
        raise typer.Exit(1)
