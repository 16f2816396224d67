"""The verb `compare`: show held-out losses of variants side by side."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curriculum.cli import addresses, completion
from curriculum.cli.options import AsJson, MachineName, Size, open_console, open_project, print_json, stopped

if TYPE_CHECKING:
    from curriculum.config.project import Project


def compare(
    names: Annotated[
        list[str],
        typer.Argument(
            help="a study; or two curricula or arms of studies, the first is compared against",
            autocompletion=completion.variants,
        ),
    ],
    size: Size = "",
    machine: MachineName = "local",
    against: Annotated[
        str | None,
        typer.Option(help="the one whose losses are subtracted from the others'", autocompletion=completion.curricula),
    ] = None,
    fill: Annotated[
        bool, typer.Option("--fill/--no-fill", help="measure kept checkpoints where a source was not measured")
    ] = True,
    svg: Annotated[
        Path | None, typer.Option(help="where the picture goes; runs/SIZE/compare-NAMES.svg without")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="exit with 1 unless every required recipe check is shown")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show held-out losses of variants side by side.

    From their shared trunk on, with the standard error of each difference. Of a study: all arms that ended, less a
    control, with the noise of runs.
    """
    from curriculum import fs
    from curriculum.analysis.claims import all_hold
    from curriculum.cli import progress
    from curriculum.cli.view.benchmarks import tasks_view
    from curriculum.cli.view.compare import compare_view
    from curriculum.execution.compare import compare_variants
    from curriculum.execution.request import RunRequest
    from curriculum.report.svg import variants

    project = open_project()
    console = open_console()
    if (study := addresses.study_alone(project, names)) is not None:
        arms = project.study(study)[0].arms
        if arms is None:
            _compare_study(project, study, size, against, picture=svg is not None, check=check, as_json=as_json)
            return
        names = list(arms)
    request = RunRequest(
        project=project,
        curriculum=names[0],
        size=size,
        machine=machine,
        listener=progress.RunDisplay(open_console(stderr=True) if as_json else console),
    )
    result = compare_variants(request, names, against, fill=fill)
    if result is None:
        raise stopped(f"curriculum compare {' '.join(names)}{project.options(size, machine)}")
    path = svg or project.output_path(size, "compare", [name.replace("/", "-") for name in names], ".svg")
    fs.make_directory(path.parent)
    picture = variants.overlay(result.losses, f"{', '.join(names)}: size {size}")
    fs.write_bytes(path, picture.encode(), replace=True)
    if as_json:
        print_json({**result.to_json(), "svg": str(path)})
    else:
        tasks = tasks_view(result.tasks, console.width)
        console.print(compare_view(result.losses, result.claims, result.notes, console.width, tasks))
        console.print(f"\nthe curves: {os.path.relpath(path)}")
    if check and not all_hold(result.claims):
        raise typer.Exit(1)


def _compare_study(
    project: Project, name: str, size: str, against: str | None, *, picture: bool, check: bool, as_json: bool
) -> None:
    """Show the arms of a study."""
    from curriculum.cli.view.study_compare import study_comparison_view
    from curriculum.errors import PlanError
    from curriculum.studies.compare import compare_study

    if picture or check:
        file, document = project.study(name)
        raise PlanError(
            f"`{'--svg' if picture else '--check'}` is of curricula, and `{name}` is a study",
            place=document.place((file.subject,)),
            hint=f"name two of its arms, as in `curriculum compare {name}/kept {name}/ARM`; or leave it out",
        )
    comparison = compare_study(project, name, size, against)
    if as_json:
        print_json(comparison.to_json())
        return
    console = open_console()
    console.print(study_comparison_view(comparison, console.width))
