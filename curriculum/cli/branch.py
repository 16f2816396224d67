"""The verb `branch`: write a variant that leaves a curriculum at a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from curriculum.cli import completion
from curriculum.cli.options import AsJson, MachineName, Size, open_console, open_project, print_json

if TYPE_CHECKING:
    from curriculum.config.project import Project
    from curriculum.runs.branch import Branch, Change


def branch(
    point: Annotated[
        str,
        typer.Argument(
            help="NAME[/STAGE][@TOKENS] that it leaves, or a study's arm", autocompletion=completion.addresses
        ),
    ],
    name: Annotated[str, typer.Argument(help="the new curriculum's name")],
    mixture: Annotated[
        str | None,
        typer.Option(help="a file of mixtures/ that it trains on from there", autocompletion=completion.mixtures),
    ] = None,
    ramp: Annotated[str | None, typer.Option(help="over how long shares move to it, as in 6B")] = None,
    until: Annotated[str | None, typer.Option(help="where it ends, counted from the root, as in 2T")] = None,
    batch: Annotated[str | None, typer.Option(help="another batch, as in '1792 sequences'")] = None,
    decay: Annotated[str | None, typer.Option(help="one stage in which the rate falls, as in 100B")] = None,
    to: Annotated[str | None, typer.Option(help="with --decay: the last rate; 0 unless given")] = None,
    shape: Annotated[
        str | None, typer.Option(help="with --decay: linear, sqrt, cosine or exponential", metavar="SHAPE")
    ] = None,
    reset_optimizer: Annotated[
        bool, typer.Option("--reset-optimizer", help="start with fresh optimizer state")
    ] = False,
    size: Size = "",
    machine: MachineName = "local",
    as_json: AsJson = False,
) -> None:
    """Write a variant that leaves a curriculum at a checkpoint.

    The checkpoint is pinned, and the plan of the variant is shown.
    """
    from curriculum.cli.view.diff import comparison_json, comparison_view
    from curriculum.cli.view.plan import plan_view
    from curriculum.cli.view.runs import branched_view
    from curriculum.compiler.compile import spans
    from curriculum.compiler.lineage import parse_address
    from curriculum.compiler.summary import summarise
    from curriculum.plan.diff.compare import compare
    from curriculum.runs import branch as runs_branch

    project = open_project()
    change = runs_branch.Change(
        mixture=mixture,
        ramp=ramp,
        until=until,
        batch=batch,
        reset_optimizer=reset_optimizer,
        decay=decay,
        to=to,
        shape=shape,
    )
    if project.is_arm(point):
        made = _branch_arm(project, point, name, change, size)
    else:
        made = runs_branch.branch(project, parse_address(point), name, change, size)
    summary = summarise(project, made.compiled, machine, project.machine(machine))
    compared = compare(spans(made.parent.stages), spans(made.compiled.stages))
    other = f"{made.parent.curriculum} from there on" if made.leaves else made.parent.curriculum
    if as_json:
        print_json(
            {
                "file": f"stages/{name}.yaml",
                "text": made.text,
                "mixtures": {f"mixtures/{mixture}.yaml": text for mixture, text in made.mixtures.items()},
                "leaves": {"stage": made.leaves.name, "position": made.leaves.stop} if made.leaves else None,
                "checkpoint": made.checkpoint.name if made.checkpoint else None,
                "comparison": comparison_json(compared, other, name, size),
                "departed": made.departed,
                "plan": {**summary, "provenance": made.provenance},
            }
        )
        return
    console = open_console()
    console.print(plan_view(summary, made.compiled, made.provenance))
    console.print()
    console.print(comparison_view(compared, other, name, size))
    for line in made.departed:
        console.print(f"note: {line}")
    console.print(branched_view(made, project.options(size, machine)))


def _branch_arm(project: Project, point: str, name: str, change: Change, size: str) -> Branch:
    from curriculum.errors import PlanError
    from curriculum.runs.branch import Change
    from curriculum.studies.arms import compile_study
    from curriculum.studies.branch import branch_arm

    if change != Change():
        raise PlanError(
            f"`{point}` is an arm of a study, which is written as it is",
            hint="leave the other options out, and edit the files that are written",
        )
    study, _, arm = point.partition("/")
    compiled = compile_study(project, study, size)
    return branch_arm(compiled.study, compiled.arm(arm), name)
