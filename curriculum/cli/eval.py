"""The verb `eval`: measure a checkpoint on tasks of lm-evaluation-harness."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from curriculum.cli import completion
from curriculum.cli.options import AsJson, MachineName, Size, open_console, open_project, print_json, stopped


def eval_(
    address: Annotated[
        str,
        typer.Argument(
            help="which checkpoint: NAME[/STAGE][@TOKENS], as in v1.1@1.5T; without --tasks, a curriculum",
            autocompletion=completion.addresses,
        ),
    ],
    tasks: Annotated[
        list[str] | None,
        typer.Option(help="tasks or groups, divided by commas; without it, what `every: {tasks: …}` asks for"),
    ] = None,
    tasks_from: Annotated[
        Path | None,
        typer.Option(help="a folder of task files of your own (their Python runs); tasks/ is looked at anyway"),
    ] = None,
    num_fewshot: Annotated[
        int | None, typer.Option(min=0, help="worked examples before each question; unsaid, as the task says")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="only the first documents of each task, for a try")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="requests at a time")] = 8,
    again: Annotated[bool, typer.Option("--again", help="measure again what is measured already")] = False,
    confirm_run_unsafe_code: Annotated[
        bool, typer.Option("--confirm-run-unsafe-code", help="allow tasks that run code which the model wrote")
    ] = False,
    size: Size = "",
    machine: MachineName = "local",
    as_json: AsJson = False,
) -> None:
    """Measure a checkpoint on tasks of lm-evaluation-harness.

    The harness comes with the extra `eval`; the scores are kept with the checkpoint.
    """
    from curriculum.artifacts.benchmarks import plain
    from curriculum.artifacts.stage_folder import StageFolder
    from curriculum.cli import progress
    from curriculum.cli.view.benchmarks import scores_view
    from curriculum.compiler.lineage import parse_address
    from curriculum.execution.benchmark import BenchmarkRequest, names_of
    from curriculum.execution.eval import evaluate_tasks
    from curriculum.execution.request import RunRequest

    project = open_project()
    console = open_console(stderr=as_json)
    checkpoint = parse_address(address)
    request = RunRequest(
        project=project,
        curriculum=checkpoint.curriculum,
        size=size,
        machine=machine,
        listener=progress.RunDisplay(console),
    )
    names = names_of(tasks or ())
    tasks_request = BenchmarkRequest(
        tasks=names,
        tasks_from=tasks_from,
        num_fewshot=num_fewshot,
        limit=limit,
        batch_size=batch_size,
        confirm_run_unsafe_code=confirm_run_unsafe_code,
        again=again,
    )
    result = evaluate_tasks(request, checkpoint, tasks_request)
    if result is None:
        option = f" --tasks {','.join(names)}" if names else ""
        raise stopped(f"curriculum eval {address}{project.options(size, machine)}{option}")
    if as_json:
        rows = [
            {"stage": point.stage, "position": point.position, **plain(score)}
            for point, scores in result.scores
            for score in scores.values()
        ]
        print_json({"scores": rows, "left": list(result.missing)})
    else:
        console.print(scores_view(result.scores))
        for stage in dict.fromkeys(point.stage for point, _ in result.scores):
            folder = StageFolder.open(project.stage_folder(size, *stage.split("/"))).benchmarks
            console.print(f"kept in {os.path.relpath(folder)}")
        for line in result.missing:
            console.print(f"not measured: {line}")
    if result.missing:
        raise typer.Exit(1)
