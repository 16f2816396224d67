"""The verbs. Each reads its words, asks the floors below, and hands the answer to `view`; imports are lazy."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from curriculum.corpora import Texts
    from curriculum.planner import Compiled
    from curriculum.project import Project

app = typer.Typer(
    help="Run a language-model pretraining curriculum from YAML.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(help="a curriculum: the name of a file in stages/")]
Size = Annotated[str, typer.Option(help="what is scaled: a name in sizes.yaml")]
MachineName = Annotated[str, typer.Option("--machine", help="where and how it runs: a name in machines.yaml")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead of tables")]


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="the folder to write the project into")]) -> None:
    """Write a new project that you own: stages, mixtures, sources, sizes, machines."""
    from curriculum import scaffold

    written = scaffold.init(folder)
    print(
        f"{len(written)} files in {folder}: begin with stages/v1.1-math-code.yaml, "
        "then `curriculum plan v1.1-math-code`"
    )


@app.command()
def plan(
    name: Name, size: Size = "rehearsal", machine: MachineName = "local", as_json: AsJson = False
) -> None:
    """Show what will happen, in steps, tokens and passes, and what it costs, before it happens."""
    from curriculum.summary import summarise

    project = _project()
    compiled, texts = _compiled(project, name, size)
    summary = summarise(compiled, machine, project.machine(machine))
    origins = texts.provenance_lines()
    if as_json:
        _print_json({**summary, "provenance": origins})
        return
    from curriculum import view

    _console().print(view.plan_view(summary, compiled, origins))


@app.command()
def prepare(
    name: Name,
    size: Size = "rehearsal",
    machine: MachineName = "local",
    source: Annotated[str | None, typer.Option(help="only this source")] = None,
) -> None:
    """Tokenise the text that a curriculum reads; what is prepared already is left as it is."""
    from curriculum import live, orchestrator, supervisor, view

    request = orchestrator.Run(
        project=_project(), curriculum=name, size=size, machine=machine, listener=live.Progress(_console())
    )
    with supervisor.stop_on_signals() as stop:
        texts = orchestrator.prepare(request, stop, source)
    if texts is None:
        raise _stopped(f"curriculum prepare {name}")
    _console().print(view.prepared_view(texts.summaries()))


@app.command()
def run(
    name: Name,
    size: Size = "rehearsal",
    machine: MachineName = "local",
    nproc_per_node: Annotated[
        int | None,
        typer.Option(min=1, help="processes on this machine; the tokens of each step stay the same"),
    ] = None,
    accept_change: Annotated[
        bool, typer.Option("--accept-change", help="go on with files changed ahead of the last checkpoint")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="show what would be done, and do nothing")
    ] = False,
) -> None:
    """Train a curriculum to its end, starting or going on wherever it stands."""
    from curriculum import durable, live, orchestrator, picture, results, view

    project = _project()
    console = _console()
    request = orchestrator.Run(
        project=project,
        curriculum=name,
        size=size,
        machine=machine,
        processes=nproc_per_node,
        accept_change=accept_change,
        listener=live.Progress(console),
    )
    if dry_run:
        compiled, _ = _compiled(project, name, size)
        for line in orchestrator.outline(request, compiled):
            print(line)
        return
    outcome = orchestrator.run(request)
    if outcome.stopped:
        options = "".join(
            f" --{key} {value}"
            for key, value, default in (("size", size, "rehearsal"), ("machine", machine, "local"))
            if value != default
        )
        raise _stopped(f"curriculum run {name}{options}")
    rows = results.edges(project, outcome.compiled)
    console.print("\nheld-out loss (nats a token)", style="bold")
    console.print(view.result_view(rows, sorted(outcome.compiled.sources)))
    last = outcome.compiled.stages[-1]
    folder = project.stage_folder(size, last.setting.curriculum, last.setting.stage)
    bands = [
        picture.Band(stage.setting.stage, stage.plan.start, stage.stop) for stage in outcome.compiled.stages
    ]
    drawing = picture.held_out(f"{name}, size {size}", bands, results.curves(project, outcome.compiled))
    durable.write_bytes(folder / "held-out.svg", drawing.encode(), replace=True)
    shown = os.path.relpath(folder)
    console.print(f"\nthe run: {shown}")
    console.print(f"the curves: {shown}/held-out.svg")
    console.print(f"what a step read: curriculum batch {name} --step {last.plan.last_step - 1}")


@app.command()
def stop(name: Name, size: Size = "rehearsal") -> None:
    """Ask a running curriculum to save and end."""
    from curriculum import orchestrator

    stopped = orchestrator.stop(_project(), name, size)
    print(f"asked {stopped} to save and end" if stopped else f"`{name}` is not running at size {size}")


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(help="one curriculum; all of them without")] = None,
    size: Size = "rehearsal",
    as_json: AsJson = False,
) -> None:
    """Show every stage of the project: planned, how far, or done."""
    from curriculum import orchestrator, view

    rows = orchestrator.status(_project(), size, name)
    if as_json:
        _print_json(rows)
    else:
        _console().print(view.status_view(rows, size))


@app.command()
def batch(
    name: Name,
    step: Annotated[int, typer.Option(min=0, help="an optimizer update, counted from the root, from 0")],
    size: Size = "rehearsal",
    rank: Annotated[int | None, typer.Option(min=0, help="only this rank's slots")] = None,
    of: Annotated[int | None, typer.Option(min=1, help="how many ranks there are")] = None,
    text: Annotated[bool, typer.Option("--text", help="show the beginning of each window's text")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the sources, windows and documents of any step, before or after it ran."""
    from curriculum import trace, view
    from curriculum.errors import PlanError

    if (rank is None) != (of is None):
        raise PlanError("`--rank` and `--of` go together", hint="as in `--rank 0 --of 2`")
    project = _project()
    compiled, texts = _compiled(project, name, size)
    listing = trace.batch(compiled, texts, step, rank=rank, ranks=of, text=text)
    if as_json:
        _print_json(listing)
    else:
        _console().print(view.batch_view(listing))


@app.command()
def diff(
    old: Name, new: Annotated[str, typer.Argument(help="another curriculum")], size: Size = "rehearsal"
) -> None:
    """Show the first step at which two curricula part, and what differs there."""
    from curriculum import view
    from curriculum.diff import first_parting

    project = _project()
    mine, _ = _compiled(project, old, size)
    theirs, _ = _compiled(project, new, size)
    _console().print(view.parting_view(first_parting(mine.stages, theirs.stages), old, new))


@app.command()
def verify(name: Name, size: Size = "rehearsal") -> None:
    """Read checkpoints, prepared text and ledger of a curriculum back and compare them with their digests."""
    from curriculum import verify as verification

    project = _project()
    compiled, texts = _compiled(project, name, size)
    findings = verification.verify(project, compiled, texts)
    for line in findings.checked:
        print(f"ok  {line}")
    for error in findings.wrong:
        print(error.render(), file=sys.stderr)
    if findings.wrong:
        raise typer.Exit(2)


def _project() -> Project:
    from curriculum.project import Project

    return Project.find()


def _compiled(project: Project, name: str, size: str) -> tuple[Compiled, Texts]:
    """The curriculum compiled with whatever is prepared so far."""
    from curriculum.corpora import compile_with_texts

    return compile_with_texts(project, name, size)


def _console() -> Console:
    from rich.console import Console

    # Without a terminal nothing is cut to a width: what reads it can wrap.
    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=160)


def _print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    print()


def _stopped(command: str) -> typer.Exit:
    print(f"stopped and saved; go on with: {command}")
    return typer.Exit(130)
