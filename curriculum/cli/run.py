"""The verb `run`: train a curriculum to its end, from wherever it stands."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from curriculum.cli.options import (
    MachineName,
    Name,
    Size,
    compiled_with_texts,
    open_console,
    open_project,
    stopped,
)


def run(
    name: Name,
    size: Size = "",
    machine: MachineName = "local",
    nproc_per_node: Annotated[
        int | None,
        typer.Option(min=1, help="processes on each node; the tokens of each step stay the same"),
    ] = None,
    accept_change: Annotated[
        bool, typer.Option("--accept-change", help="resume with files changed ahead of the last checkpoint")
    ] = False,
    accept_environment: Annotated[
        bool,
        typer.Option(
            "--accept-environment", help="resume where torch, numpy, processor or training code differ"
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="show what would be done, and do nothing")
    ] = False,
    node_rank: Annotated[
        int | None,
        typer.Option(min=0, help="with several nodes and no Slurm: which of them this is, counted from 0"),
    ] = None,
    master_addr: Annotated[
        str | None, typer.Option(help="where node 0 is found: `HOST` or `HOST:PORT`; else `address:`")
    ] = None,
    profile_steps: Annotated[
        str | None,
        typer.Option(help="trace these steps with torch's profiler, as in `20:23` (23 is not traced)"),
    ] = None,
) -> None:
    """Train a curriculum to its end, from wherever it stands.

    A stopped run resumes from its last checkpoint; what is done is left as it is.
    """
    from curriculum import fs
    from curriculum.cli import progress
    from curriculum.cli.view.runs import result_view
    from curriculum.compiler import prepared_text
    from curriculum.execution import run as execution_run
    from curriculum.execution.request import RunRequest
    from curriculum.report.svg import held_out as svg_held_out
    from curriculum.runs import held_out
    from curriculum.runs.folders import stage_folder

    project = open_project()
    console = open_console()
    request = RunRequest(
        project=project,
        curriculum=name,
        size=size,
        machine=machine,
        processes=nproc_per_node,
        node_rank=node_rank,
        address=master_addr,
        profile=_stretch(profile_steps) if profile_steps else None,
        accept_change=accept_change,
        accept_environment=accept_environment,
        listener=progress.Progress(console),
    )
    if dry_run:
        compiled, texts = compiled_with_texts(project, name, size)
        prepared_text.check_folders(texts, planned=True)
        for line in execution_run.outline(request, compiled):
            print(line)
        return
    outcome = execution_run.run(request)
    if outcome.handed:
        for handed in outcome.handed:
            print(f"{handed.stage}  {handed.words}" + ("" if handed.fresh else ": left as it is"))
        for line in outcome.unmeasured:
            print(f"not measured: {line}")
        print(f"they run without you; ask with `curriculum status {name}{project.options(size)}`")
        return
    if node_rank and not outcome.stopped:
        print(f"node {node_rank}: every stage is done")
        return
    if outcome.stopped:
        raise stopped(f"curriculum run {name}{project.options(size, machine)}")
    rows = held_out.edges(project, outcome.compiled)
    console.print("\nheld-out loss (nats a token)", style="bold")
    console.print(result_view(rows, sorted(outcome.compiled.sources)))
    last = outcome.compiled.stages[-1]
    folder = stage_folder(project, outcome.compiled, last)
    bands = [(stage.setting.stage, stage.plan.start, stage.stop) for stage in outcome.compiled.stages]
    drawing = svg_held_out.held_out(f"{name}, size {size}", bands, held_out.curves(project, outcome.compiled))
    fs.write_bytes(folder.held_out_picture, drawing.encode(), replace=True)
    shown = os.path.relpath(folder.path)
    console.print(f"\nthe run: {shown}")
    console.print(f"the curves: {shown}/held-out.svg")
    console.print(
        f"what a step read: curriculum batch {name} --step {last.plan.stop_step - 1}{project.options(size)}"
    )
    for line in outcome.unmeasured:
        console.print(f"not measured: {line}")
    if outcome.unmeasured:
        console.print(
            f"all is trained and saved; what is left: curriculum eval {name}{project.options(size)}"
        )


def _stretch(words: str) -> dict[str, int]:
    """`20:23` as the steps from 20 on, three of them."""
    from curriculum.errors import PlanError

    first, _, last = words.partition(":")
    if not (first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise PlanError(f"`--profile-steps {words}` names no steps", hint="as in `--profile-steps 20:23`")
    return {"from_step": int(first), "steps": int(last) - int(first)}
