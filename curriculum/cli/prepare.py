"""The verb `prepare`: tokenise the text that a curriculum reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curriculum.cli import addresses, completion
from curriculum.cli.options import AsJson, MachineName, Name, Size, open_console, open_project, print_json, stopped

if TYPE_CHECKING:
    from collections.abc import Callable

    from curriculum.data.requests import PrepareRequest
    from curriculum.execution.slurm.submission import QueuedJob


def prepare(
    name: Name,
    size: Size = "",
    machine: MachineName = "local",
    source: Annotated[str | None, typer.Option(help="only this source", autocompletion=completion.sources)] = None,
    append: Annotated[bool, typer.Option("--append", help="add files that are new since as further shards")] = False,
    sample: Annotated[
        bool, typer.Option("--sample", help="only measure what it takes, on a part of each text, for `plan`")
    ] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="compare the contents of files, not only sizes and times, with what was read"),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Tokenise the text that a curriculum, or a study, reads.

    What is prepared already is left as it is.
    """
    from curriculum.artifacts.job_process import stop_on_signals
    from curriculum.cli import progress
    from curriculum.cli.view.runs import prepared_view
    from curriculum.compiler import prepared_text
    from curriculum.compiler.compile import compile_resolved
    from curriculum.compiler.overlap import overlap_lines
    from curriculum.data.progress import read_progress
    from curriculum.execution import prepare as execution_prepare
    from curriculum.execution.request import RunRequest

    project = open_project()
    command = f"curriculum prepare {name}{project.options(size, machine)}"
    arm = addresses.arm_of(project, name, size or project.default_size)
    if arm is not None:
        project, name = arm.project, arm.study
    request = RunRequest(
        project=project,
        curriculum=name,
        size=size,
        machine=machine,
        arm=arm.address if arm is not None else None,
        listener=progress.RunDisplay(open_console(stderr=as_json)),
    )
    command += (f" --source {source}" if source else "") + (" --append" if append else "")
    queue: list[QueuedJob] = []
    submitted: list[PrepareRequest] = []
    submit: Callable[[PrepareRequest], None] | None = None
    if request.machine_entry.launcher == "slurm":
        from curriculum.execution.slurm.prepare import PrepareSubmission

        def submit_text(text: PrepareRequest) -> None:
            queue.append(PrepareSubmission(request=request, text=text).submit())
            submitted.append(text)

        submit = submit_text
    before = prepared_text.PreparedText.open(project, name, size)
    compile_resolved(before.curriculum)  # by declared sizes: text that is too small now may be appended to
    if sample:
        from curriculum.cli.view.preparation import sample_view
        from curriculum.compiler.preparation_cost import preparation_costs

        with stop_on_signals() as stop:
            sampled = execution_prepare.sample(request, before, stop, source)
        if sampled is None:
            raise stopped(f"{command} --sample")
        costs = preparation_costs(sampled)
        if as_json:
            print_json({"preparation": costs})
        else:
            open_console().print(sample_view(costs) if costs else "all of it is prepared")
        return
    with stop_on_signals() as stop:
        texts = execution_prepare.prepare(request, before, stop, source, append=append, submit=submit)
    if texts is None:
        raise stopped(command)
    rows = texts.summaries()
    missing = sorted(set(texts.datasets()) - {row["dataset"] for row in rows})
    overlaps = overlap_lines(texts)
    if as_json:
        queued = [{"dataset": job.label, "job": job.job, "words": job.message, "fresh": job.fresh} for job in queue]
        print_json(
            {
                "texts": rows,
                "left": missing,
                "jobs": queued,
                "texts_changed": texts.change_lines(contents=check),
                "held_out_notes": texts.held_out_lines(),
                "overlaps": overlaps,
            }
        )
        return
    for job in queue:
        print(job)
    for text in submitted:
        so_far = read_progress(Path(text.progress))
        if so_far.documents:
            print(f"{text.dataset}: {progress.counts(so_far)} so far")
    if queue:
        print(f"they run in the background: run `{command}` again to see what is done")
    lines = [*texts.held_out_lines(), *texts.change_lines(contents=check), *overlaps]
    open_console().print(prepared_view(rows, missing, lines))
