"""The verb `eval`: measure a checkpoint on tasks of lm-evaluation-harness."""

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
        typer.Option(
            help="tasks or groups, divided by commas; without it, what `every: {tasks: …}` asks for"
        ),
    ] = None,
    tasks_from: Annotated[
        Path | None,
        typer.Option(
            help="a folder of task files of your own (their Python runs); tasks/ is looked at anyway"
        ),
    ] = None,
    num_fewshot: Annotated[
        int | None, typer.Option(min=0, help="worked examples before each question; unsaid, as the task says")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="only the first documents of each task, for a try")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="requests at a time")] = 8,
    again: Annotated[bool, typer.Option("--again", help="measure anew what is measured already")] = False,
    confirm_run_unsafe_code: Annotated[
        bool,
        typer.Option("--confirm-run-unsafe-code", help="allow tasks that run code which the model wrote"),
    ] = False,
    size: Size = "",
    machine: MachineName = "local",
    as_json: AsJson = False,
) -> None:
    """Measure a checkpoint on tasks of lm-evaluation-harness.

    The harness comes with the extra `eval`; the scores are kept beside the checkpoint.
    """
    from curriculum.artifacts import benchmarks
    from curriculum.artifacts.job_process import stop_on_signals
    from curriculum.artifacts.stage_folder import StageFolder
    from curriculum.cli import progress
    from curriculum.cli.view.benchmarks import scores_view
    from curriculum.compiler.lineage import parse_address
    from curriculum.errors import PlanError
    from curriculum.execution import benchmark, lm_eval
    from curriculum.execution import export as execution_export
    from curriculum.execution.request import RunRequest
    from curriculum.runs.measurements import by_point, due_benchmarks

    project = open_project()
    console = open_console(stderr=as_json)
    where = parse_address(address)
    request = RunRequest(
        project=project,
        curriculum=where.curriculum,
        size=size,
        machine=machine,
        listener=progress.RunDisplay(console),
    )
    names = benchmark.names_of(tasks or ())
    asked = benchmark.BenchmarkRequest(
        tasks=names,
        tasks_from=tasks_from,
        num_fewshot=num_fewshot,
        limit=limit,
        batch_size=batch_size,
        confirm_run_unsafe_code=confirm_run_unsafe_code,
        again=again,
    )
    left: tuple[str, ...] = ()
    only: str | None = None
    if names:
        found = execution_export.find(project, where, size, "eval {} --tasks …")
        with stop_on_signals() as stop:
            done = benchmark.measure(request, found, asked, stop)
        compiled = found.compiled
        only = f"{compiled.stages[-1].name}, {found.position:,} tokens"
    else:
        if str(where) != where.curriculum or num_fewshot is not None or limit is not None or again:
            raise PlanError(
                "without `--tasks`, what the stage file asks for is measured, at every kept checkpoint",
                hint=f"name the tasks, as in `curriculum eval {address} --tasks hellaswag,piqa`; or give the "
                "curriculum's name alone",
            )
        from curriculum.compiler.prepared_text import PreparedText

        compiled = PreparedText.open(project, where.curriculum, size).compiled
        if not any(stage.task_every for stage in compiled.stages):
            raise PlanError(
                f"no stage of `{where.curriculum}` asks for tasks",
                hint="name them, as in `--tasks hellaswag,piqa`; or in the stage file: `every: {tasks: {piqa: 100B}}`",
            )
        if due_benchmarks(project, compiled):
            lm_eval.check_installed()
        with stop_on_signals() as stop:
            filled = benchmark.catch_up(request, compiled, stop, asked)
        done, left = not filled.stopped, filled.unmeasured
    if not done:
        tried = f" --tasks {','.join(names)}" if names else ""
        raise stopped(f"curriculum eval {address}{project.options(size, machine)}{tried}")
    known = by_point(project, [compiled], benchmarks.read_scores)
    shown = [(point, scores) for point, scores in known.items() if only in (None, str(point))]
    if as_json:
        rows = [
            {"stage": point.stage, "position": point.position, **benchmarks.plain(score)}
            for point, scores in shown
            for score in scores.values()
        ]
        print_json({"scores": rows, "left": list(left)})
    else:
        console.print(scores_view(shown))
        for stage in dict.fromkeys(point.stage for point, _ in shown):
            folder = StageFolder.open(project.stage_folder(size, *stage.split("/"))).benchmarks
            console.print(f"kept in {os.path.relpath(folder)}")
        for line in left:
            console.print(f"not measured: {line}")
    if left:
        raise typer.Exit(1)
