"""What changes something: a new project, prepared text, a trained curriculum."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from curriculum.cli import completion
from curriculum.cli.words import (
    AsJson,
    MachineName,
    Name,
    Names,
    Size,
    compiled_with_texts,
    open_console,
    open_project,
    print_json,
    stopped,
)


def init(
    folder: Annotated[Path, typer.Argument(help="the folder to write the project into")],
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text",
            metavar="FOLDER",
            help="instead a small project for your own text, in this folder; once for each of several",
        ),
    ] = None,
    schema: Annotated[
        bool,
        typer.Option("--schema", help="of a project that is there, write only the schemas that editors use"),
    ] = False,
) -> None:
    """Write a new project that you own.

    It holds stages, mixtures, sources, sizes and machines: those of TinyLlama v1.1 or, with `--text`, small ones
    that train on your text as they are. Nothing that is there is touched; a .gitignore is added to.
    """
    from curriculum.config import init as config_init
    from curriculum.config import layout, starter
    from curriculum.errors import ConfigError
    from curriculum.units import show_bytes, show_count

    if schema:
        if text:
            raise ConfigError(
                "`--schema` writes into a project that is there, `--text` a new one", hint="say one of them"
            )
        written = config_init.write_schemas(folder)
        print(
            f"{len(written)} schemas in {written[0].parent}; a YAML file names its own in its first line, as in"
        )
        print("  # yaml-language-server: $schema=../.schema/stages.json")
        return
    around = layout.root_around(folder.resolve().parent)
    if text:
        written, found = config_init.init_for(folder, text)
        for source in found:
            print(
                f"{source.name}: {show_bytes(source.bytes)} of text, about {show_count(source.tokens)} tokens"
            )
        begin = starter.CURRICULUM
    else:
        written, begin = config_init.init(folder), "v1.1-math-code"
    print(f"{len(written)} files in {folder}: begin with stages/{begin}.yaml, then `curriculum plan {begin}`")
    if around is not None:
        print(f"{folder} lies inside the project {around}: commands given in it mean the new one alone")


def plan(
    names: Names,
    size: Size = "",
    machine: MachineName = "local",
    svg: Annotated[Path | None, typer.Option("--svg", help="also write the plan as a picture")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what will happen, and what it costs, before it happens.

    In steps, tokens and passes over each source. Several curricula fold into a tree: what they share is counted once.
    """
    from curriculum.compiler import prepared_text
    from curriculum.compiler.summary import summarise, summarise_tree
    from curriculum.execution import lm_eval
    from curriculum.runs import folders
    from curriculum.runs.drift import with_notes
    from curriculum.view.plan import plan_view, tree_view

    project = open_project()
    read = [compiled_with_texts(project, name, size) for name in dict.fromkeys(names)]
    for _, texts in read:
        prepared_text.check_folders(texts, planned=True)
    both = [(with_notes(project, compiled), texts) for compiled, texts in read]
    compiled, texts = both[0]
    if svg is not None or len(both) > 1:
        tree = summarise_tree([compiled for compiled, _ in both], machine, project.machine(machine))
    if svg is not None:
        from curriculum import fs
        from curriculum.report.svg.plan import plan_picture

        title = f"{', '.join(tree['curricula'])}, size {size}"
        drawing = plan_picture(title, tree["curricula"], tree["tree"])
        fs.write_bytes(svg, drawing.encode(), replace=True)
    if len(both) > 1:
        if as_json:
            print_json(tree)
        else:
            open_console().print(tree_view(tree))
        return
    summary = summarise(compiled, machine, project.machine(machine))
    summary["harness_installed"] = lm_eval.installed()
    summary["cost"]["unsaved"] = folders.shortfall(project, compiled, project.machine(machine))
    origins = texts.provenance_lines()
    if as_json:
        print_json({**summary, "provenance": origins})
        return
    open_console().print(plan_view(summary, compiled, origins))


def prepare(
    name: Name,
    size: Size = "",
    machine: MachineName = "local",
    source: Annotated[
        str | None, typer.Option(help="only this source", autocompletion=completion.sources)
    ] = None,
    append: Annotated[
        bool, typer.Option("--append", help="add files that are new since as further shards")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Tokenise the text that a curriculum reads.

    What is prepared already is left as it is.
    """
    from curriculum import live
    from curriculum.execution import prepare as execution_prepare
    from curriculum.execution.request import RunRequest
    from curriculum.launchers import supervisor
    from curriculum.view.runs import prepared_view

    project = open_project()
    request = RunRequest(
        project=project,
        curriculum=name,
        size=size,
        machine=machine,
        listener=live.Progress(open_console(stderr=as_json)),
    )
    again = f"curriculum prepare {name}{project.options(size, machine)}"
    again += (f" --source {source}" if source else "") + (" --append" if append else "")
    handed: list[Any] = []
    elsewhere = None
    if request.machine_entry.launcher == "slurm":
        from curriculum.execution.slurm import prepare as slurm_prepare

        elsewhere = lambda asked: handed.append(slurm_prepare.submit(request, asked))  # noqa: E731
    with supervisor.stop_on_signals() as stop:
        texts = execution_prepare.prepare(request, stop, source, append=append, elsewhere=elsewhere)
    if texts is None:
        raise stopped(again)
    rows = texts.summaries()
    left = sorted(set(texts.datasets()) - {row["dataset"] for row in rows})
    if as_json:
        print_json({"texts": rows, "left": left, "jobs": [asdict(each) for each in handed]})
        return
    for each in handed:
        print(f"{each.dataset}  {each.words}" + ("" if each.fresh else ": left as it is"))
    if handed:
        print(f"they run without you: say `{again}` again to see what is done")
    open_console().print(prepared_view(rows, left))


def run(
    name: Name,
    size: Size = "",
    machine: MachineName = "local",
    nproc_per_node: Annotated[
        int | None,
        typer.Option(min=1, help="processes on each node; the tokens of each step stay the same"),
    ] = None,
    accept_change: Annotated[
        bool, typer.Option("--accept-change", help="go on with files changed ahead of the last checkpoint")
    ] = False,
    accept_environment: Annotated[
        bool,
        typer.Option(
            "--accept-environment", help="go on where torch, numpy, processor or training code are others"
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

    A run that was stopped goes on from its last checkpoint; what is done is left as it is.
    """
    from curriculum import fs, live
    from curriculum.compiler import prepared_text
    from curriculum.execution import run as execution_run
    from curriculum.execution.request import RunRequest
    from curriculum.report.svg import held_out as svg_held_out
    from curriculum.runs import held_out
    from curriculum.view.runs import result_view

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
        listener=live.Progress(console),
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
    folder = project.stage_folder(size, last.setting.curriculum, last.setting.stage)
    bands = [
        svg_held_out.Band(stage.setting.stage, stage.plan.start, stage.stop)
        for stage in outcome.compiled.stages
    ]
    drawing = svg_held_out.held_out(f"{name}, size {size}", bands, held_out.curves(project, outcome.compiled))
    fs.write_bytes(folder / "held-out.svg", drawing.encode(), replace=True)
    shown = os.path.relpath(folder)
    console.print(f"\nthe run: {shown}")
    console.print(f"the curves: {shown}/held-out.svg")
    console.print(
        f"what a step read: curriculum batch {name} --step {last.plan.last_step - 1}{project.options(size)}"
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


def stop(name: Name, size: Size = "") -> None:
    """Ask a running curriculum to save and end."""
    from curriculum.execution import run as execution_run

    said = execution_run.stop(open_project(), name, size)
    print("\n".join(said) or f"`{name}` is not running at size {size}")


def branch(
    point: Annotated[
        str,
        typer.Argument(
            help="where it leaves: NAME[/STAGE][@TOKENS], as in v1.1/basic or v1.1@1.2T",
            autocompletion=completion.addresses,
        ),
    ],
    name: Annotated[str, typer.Argument(help="the new curriculum's name")],
    mixture: Annotated[
        str | None,
        typer.Option(
            help="a file of mixtures/ that it trains on from there", autocompletion=completion.mixtures
        ),
    ] = None,
    ramp: Annotated[str | None, typer.Option(help="over how long shares move to it, as in 6B")] = None,
    until: Annotated[str | None, typer.Option(help="where it ends, counted from the root, as in 2T")] = None,
    batch: Annotated[str | None, typer.Option(help="another batch, as in '1792 sequences'")] = None,
    reset_optimizer: Annotated[
        bool, typer.Option("--reset-optimizer", help="begin with fresh optimizer state")
    ] = False,
    size: Size = "",
    machine: MachineName = "local",
    as_json: AsJson = False,
) -> None:
    """Write a variant that leaves a curriculum at a checkpoint.

    The checkpoint is kept for it, and its plan is shown.
    """
    from curriculum.compiler.compile import spans
    from curriculum.compiler.lineage import parse_address
    from curriculum.compiler.summary import summarise
    from curriculum.plan.diff.compare import compare
    from curriculum.runs import branch as runs_branch
    from curriculum.view.diff import comparison_json, comparison_view
    from curriculum.view.plan import plan_view
    from curriculum.view.runs import branched_view

    project = open_project()
    change = runs_branch.Change(
        mixture=mixture, ramp=ramp, until=until, batch=batch, reset_optimizer=reset_optimizer
    )
    made = runs_branch.branch(project, parse_address(point), name, change, size)
    summary = summarise(made.compiled, machine, project.machine(machine))
    compared = compare(spans(made.parent.stages), spans(made.compiled.stages))
    beside = f"{made.parent.curriculum} as it goes on"
    if as_json:
        print_json(
            {
                "file": f"stages/{name}.yaml",
                "text": made.text,
                "leaves": {"stage": made.leaves.name, "position": made.leaves.stop},
                "checkpoint": made.checkpoint.name if made.checkpoint else None,
                "comparison": comparison_json(compared, beside, name, size),
                "departed": made.departed,
                "plan": {**summary, "provenance": made.provenance},
            }
        )
        return
    console = open_console()
    console.print(plan_view(summary, made.compiled, made.provenance))
    console.print()
    console.print(comparison_view(compared, beside, name, size))
    for line in made.departed:
        console.print(f"note: {line}")
    console.print(branched_view(made, project.options(size, machine)))
