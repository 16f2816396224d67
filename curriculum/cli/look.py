"""How far everything is and what came out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from curriculum.cli import completion
from curriculum.cli.words import (
    AsJson,
    MachineName,
    NameOrAll,
    Size,
    compiled_with_texts,
    open_console,
    open_project,
    print_json,
    stopped,
)


def status(
    name: NameOrAll = None,
    size: Size = "",
    follow: Annotated[
        bool, typer.Option("--follow", help="watch it run, from any terminal; Ctrl-C leaves it running")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show how far every curriculum is, or watch one run.

    A tree of the project's curricula: planned, how far, or done.
    """
    from dataclasses import asdict

    from curriculum.errors import PlanError

    project = open_project()
    if follow:
        from curriculum.watch import Watch

        if name is None or as_json:
            raise PlanError(
                "`--follow` watches one curriculum, as lines or as a panel",
                hint="as in `curriculum status v1.1 --follow`; `--json` shows how things are now",
            )
        try:
            Watch(project, name, size, open_console()).follow()
        except KeyboardInterrupt:
            print("left; what runs goes on")
        return
    from curriculum.runs.status import project_status
    from curriculum.view.status import standing_view

    now = project_status(project, size, name)
    if as_json:
        print_json(asdict(now))
    else:
        open_console().print(standing_view(now))


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
    from curriculum import fs, live
    from curriculum.analysis import benchmarks, claims
    from curriculum.analysis.compare import compare as put_side_by_side
    from curriculum.analysis.compare import to_json
    from curriculum.execution import evaluate
    from curriculum.execution.request import RunRequest
    from curriculum.launchers import supervisor
    from curriculum.report.svg import variants
    from curriculum.view.benchmarks import tasks_view
    from curriculum.view.compare import compare_view, rows_apart

    project = open_project()
    console = open_console()
    lineages, texts = zip(*(compiled_with_texts(project, name, size) for name in names), strict=True)
    comparison = put_side_by_side(project, lineages, against)
    request = RunRequest(
        project=project,
        curriculum=names[0],
        size=size,
        machine=machine,
        listener=live.Progress(open_console(stderr=True) if as_json else console),
    )
    if fill:
        with supervisor.stop_on_signals() as stop:
            filled = evaluate.fill(request, comparison, texts, stop)
        if filled.stopped:
            raise stopped(f"curriculum compare {' '.join(names)}{project.options(size, machine)}")
        left = filled.left
        comparison = put_side_by_side(project, lineages, against)
    else:
        left = tuple(f"{gap}: not measured" for gap in evaluate.gaps(request, comparison))
    found = claims.check_claims(comparison)
    tasks = benchmarks.side_by_side(project, comparison)
    notes = [
        *rows_apart(comparison),
        *comparison.changed,
        *comparison.mismatches(),
        *tasks.mismatches(),
        *left,
    ]
    path = svg or project.file_about(size, "compare", names, ".svg")
    fs.make_directory(path.parent)
    title = f"{', '.join(names)}: size {size}"
    fs.write_bytes(path, variants.overlay(comparison, title).encode(), replace=True)
    if as_json:
        print_json(
            {
                **to_json(comparison),
                "tasks": benchmarks.to_json(tasks),
                "marks": claims.to_json(found),
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


def report(
    names: Annotated[
        list[str],
        typer.Argument(
            help="one curriculum, or several to see side by side", autocompletion=completion.curricula
        ),
    ],
    size: Size = "",
    to: Annotated[
        Path | None, typer.Option("--to", help="the HTML file; without it, beside the runs of that size")
    ] = None,
) -> None:
    """Write one HTML file on curricula.

    The plan as a picture, the losses, the mixture as trained, the lineage.
    """
    from curriculum.report.html import write
    from curriculum.units import show_bytes

    project = open_project()
    html = write.render(project, names, size)
    path = to or write.default_path(project, names, size)
    write.write(path, html, make_folder=to is None)
    print(
        f"the report: {os.path.relpath(path)}  ({show_bytes(len(html.encode()))}, for any browser, no network)"
    )
