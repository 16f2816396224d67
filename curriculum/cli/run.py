"""The verb `run`: train one curriculum, or several, to the end, from wherever they stand."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curriculum.cli import addresses
from curriculum.cli.options import MachineName, Names, Size, open_console, open_project, stopped

if TYPE_CHECKING:
    from rich.console import Console

    from curriculum.execution.pool import LineageResult
    from curriculum.execution.request import RunRequest
    from curriculum.execution.run import RunResult
    from curriculum.execution.slurm.submission import QueuedJob


def run(
    names: Names,
    size: Size = "",
    machine: MachineName = "local",
    nproc_per_node: Annotated[
        int | None, typer.Option(min=1, help="processes on each node; the tokens of each step stay the same")
    ] = None,
    accept_change: Annotated[
        bool, typer.Option("--accept-change", help="resume with files changed ahead of the last checkpoint")
    ] = False,
    accept_environment: Annotated[
        bool, typer.Option("--accept-environment", help="resume where torch, numpy, processor or training code differ")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show what would be done, and do nothing")] = False,
    node_rank: Annotated[
        int | None, typer.Option(min=0, help="with several nodes and no Slurm: which of them this is, counted from 0")
    ] = None,
    master_addr: Annotated[
        str | None, typer.Option(help="where node 0 is found: `HOST` or `HOST:PORT`; else `address:`")
    ] = None,
    render: Annotated[
        Path | None, typer.Option(metavar="FILE", help="with `launcher: kubernetes`: write the JobSet there, and end")
    ] = None,
    profile_steps: Annotated[
        str | None, typer.Option(help="trace these steps with torch's profiler, as in `20:23` (23 is not traced)")
    ] = None,
) -> None:
    """Train curricula to their ends, from wherever they stand.

    A stopped run resumes from its last checkpoint; what is done is left as it is. Of several, and of the arms of a
    study, the stages that they share are trained first, each once.
    """
    from curriculum.cli.progress import RunDisplay
    from curriculum.errors import PlanError
    from curriculum.execution import run as execution_run
    from curriculum.execution.request import RunRequest

    project, console = open_project(), open_console()
    name, *others = dict.fromkeys(names)
    request = RunRequest(
        project=project,
        curriculum=name,
        size=size,
        machine=machine,
        processes=nproc_per_node,
        node_rank=node_rank,
        address=master_addr,
        profile=_steps(profile_steps) if profile_steps else None,
        accept_change=accept_change,
        accept_environment=accept_environment,
        listener=RunDisplay(console),
    )
    study = addresses.study_in(project, names)
    if others or study:
        single = {
            "--node-rank": node_rank,
            "--master-addr": master_addr,
            "--render": render,
            "--profile-steps": profile_steps,
        }
        if options := [option for option, value in single.items() if value is not None]:
            raise PlanError(
                f"`{options[0]}` is of one curriculum, and {'several' if others else 'a study'} would be trained",
                hint=f"as in `curriculum run {name}{'/kept' if study else ''} {options[0]} …`",
            )
        if study is not None:
            _run_study(request, study, dry_run=dry_run)
        else:
            _run_many([request, *(replace(request, curriculum=other) for other in others)], dry_run=dry_run)
        return
    arm, (project, name) = name, addresses.arm_or_curriculum(project, name, size)
    request = replace(request, project=project, curriculum=name)
    if dry_run or render:
        _outline(request, render, dry_run=dry_run)
        return
    result = execution_run.run(request)
    if result.stopped:
        raise stopped(f"curriculum run {arm}{project.options(size, machine)}")
    if result.queued:
        _show_queued(result.queued, result.unmeasured, f"curriculum status {arm}{project.options(size)}")
    elif node_rank:
        print(f"node {node_rank}: every stage is done")
    else:
        _show_losses(request, result, console)


def _outline(request: RunRequest, render: Path | None, *, dry_run: bool) -> None:
    """Print what the run would do, or write its JobSet; whatever would be refused is refused."""
    from curriculum.compiler import overlap, prepared_text
    from curriculum.execution import kubernetes, run as execution_run

    if render:
        kubernetes.require_launcher(request)
    texts = prepared_text.PreparedText.open(request.project, request.curriculum, request.size)
    prepared_text.check_folders(texts, planned=True)
    prepared_text.check_special_tokens(texts)
    overlap.overlap_lines(texts)
    lines = list(execution_run.outline(request, texts.compiled, texts))
    if dry_run or not render:
        print("\n".join(lines))
    else:
        kubernetes.write(request, render)
        print(f"wrote {render}; start it with: kubectl apply -f {shlex.quote(str(render))}")


def _show_queued(queued: Iterable[QueuedJob], unmeasured: Iterable[str], status: str) -> None:
    for line in (*queued, *(f"not measured: {line}" for line in unmeasured)):
        print(line)
    print(f"they run in the background: `{status}` shows them")


def _run_many(requests: Sequence[RunRequest], *, dry_run: bool) -> None:
    """Train several curricula."""
    from curriculum.cli.pool_progress import PoolDisplay
    from curriculum.execution import pool

    display = PoolDisplay(open_console())
    requests = [replace(request, listener=display) for request in requests]
    named = " ".join(request.curriculum for request in requests)
    if dry_run:
        print("\n".join(pool.outline(requests)))
    elif requests[0].machine_entry.launcher == "slurm":
        _show_submitted(requests[0], named, pool.submit_many(requests))
    else:
        _show_results(requests[0], named, pool.run_many(requests))


def _run_study(request: RunRequest, name: str, *, dry_run: bool) -> None:
    """Train the arms of a study."""
    from curriculum.cli.pool_progress import PoolDisplay
    from curriculum.execution import study as execution_study
    from curriculum.execution.workers import workers
    from curriculum.studies.arms import compile_study
    from curriculum.units import show_seconds

    study = compile_study(request.project, name, request.size)
    request = replace(request, listener=PoolDisplay(open_console()))
    if dry_run:
        print("\n".join(execution_study.outline(request, study)))
    elif request.machine_entry.launcher == "slurm":
        _show_submitted(request, name, execution_study.submit_study(request, study))
    else:
        before, started = execution_study.training_seconds(study), time.monotonic()
        results = execution_study.run_study(request, study)
        count, seconds = len(workers(request)), time.monotonic() - started
        _show_results(request, name, results)
        shared, own = (now - then for now, then in zip(execution_study.training_seconds(study), before, strict=True))
        if trained := shared + own:
            # what all arms share is trained once and alone, by the whole machine
            overhead = seconds / (shared + own / count) - 1
            spent = f"{count} worker{'s' * (count > 1)} {show_seconds(seconds)}"
            print(f"steps of training took {show_seconds(trained)}, {spent}: overhead {overhead:.0%}")


def _show_submitted(
    request: RunRequest, named: str, submitted: tuple[Sequence[QueuedJob], Sequence[str]] | None
) -> None:
    project = request.project
    if submitted is None:
        raise stopped(f"curriculum run {named}{project.options(request.size, request.machine)}")
    queued, unmeasured = submitted
    if not queued:
        print(f"every stage of {', '.join(named.split())} is done")
    else:
        _show_queued(queued, unmeasured, f"curriculum status{project.options(request.size)}")


def _show_results(request: RunRequest, named: str, results: Sequence[LineageResult]) -> None:
    """A table of how each of several ended; typer.Exit with 1 where one was set aside, with 130 where one stopped."""
    from curriculum.cli.view.pool import pool_view
    from curriculum.errors import Drift
    from curriculum.execution import pool
    from curriculum.runs import held_out
    from curriculum.studies.status import changed_line

    project, console = request.project, open_console()
    losses = {
        result.name: {source: line[-1][1] for source, line in held_out.curves(project, result.compiled).items() if line}
        for result in results
    }
    sources = sorted({source for measured in losses.values() for source in measured})
    console.print("\nlast held-out loss (nats a token)", style="bold")
    console.print(pool_view(results, losses, sources))
    options = project.options(request.size, request.machine)
    command = f"curriculum run {named}{options}"
    changed = [result for result in results if isinstance(result.error, Drift)]  # of a study: others raise it
    for result in results:
        for line in result.unmeasured:
            console.print(f"{result.name}: not measured: {line}")
        if result.error is not None and (result not in changed or len(changed) == 1):
            print(f"\n{result.name} was set aside:\n{result.error.render()}", file=sys.stderr)
    if len(changed) > 1 and changed[0].error is not None:
        line = changed_line(named, [result.name for result in changed], len(results), options)
        print(f"\n{line}. The first:\n{changed[0].error.render()}", file=sys.stderr)
    if any(result.state == pool.STOPPED for result in results):
        raise stopped(command)
    if any(result.state == pool.FAILED for result in results):
        print(f"the others are done; once that is mended, the same command resumes: {command}")
        raise typer.Exit(1)


def _show_losses(request: RunRequest, result: RunResult, console: Console) -> None:
    """Print the held-out losses and where to look next; draw the loss curves into the last stage's folder."""
    from curriculum import fs
    from curriculum.cli.view.runs import result_view
    from curriculum.report.svg import held_out as svg_held_out
    from curriculum.runs import held_out
    from curriculum.runs.folders import stage_folder

    project, compiled, name = request.project, result.compiled, request.curriculum
    options = project.options(request.size)
    console.print("\nheld-out loss (nats a token)", style="bold")
    console.print(result_view(held_out.edges(project, compiled), sorted(compiled.sources)))
    bands = [(stage.setting.stage, stage.plan.start, stage.stop) for stage in compiled.stages]
    drawing = svg_held_out.held_out(f"{name}, size {request.size}", bands, held_out.curves(project, compiled))
    last = compiled.stages[-1]
    folder = stage_folder(project, compiled, last)
    fs.write_bytes(folder.held_out_picture, drawing.encode(), replace=True)
    relative = os.path.relpath(folder.path)
    console.print(f"\nthe run: {relative}")
    console.print(f"the curves: {relative}/held-out.svg")
    console.print(f"what a step read: curriculum batch {name} --step {last.plan.stop_step - 1}{options}")
    for line in result.unmeasured:
        console.print(f"not measured: {line}")
    if result.unmeasured:
        console.print(f"all is trained and saved; to measure the rest: curriculum eval {name}{options}")


def _steps(option: str) -> dict[str, int]:
    """`20:23` as the first step and the number of steps."""
    from curriculum.errors import PlanError

    first, _, end = option.partition(":")
    if not (first.isdecimal() and end.isdecimal() and int(first) < int(end)):
        raise PlanError(f"`--profile-steps {option}` names no steps", hint="as in `--profile-steps 20:23`")
    return {"from_step": int(first), "steps": int(end) - int(first)}
