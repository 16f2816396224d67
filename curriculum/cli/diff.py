"""The verb `diff`: show in what two curricula differ, and from which step on."""

from __future__ import annotations

from typing import Annotated

import typer

from curriculum.cli import completion
from curriculum.cli.addresses import arm_or_address, arm_or_curriculum
from curriculum.cli.options import AsJson, Size, open_console, open_project, print_json


def diff(
    old: Annotated[
        str,
        typer.Argument(
            help="a curriculum, NAME[/STAGE][@TOKENS], a stage file, or a plan.json",
            autocompletion=completion.addresses,
        ),
    ],
    new: Annotated[
        str | None,
        typer.Argument(
            help="another of these; without it: the plans that ran under the first's name",
            autocompletion=completion.addresses,
        ),
    ] = None,
    size: Size = "",
    as_json: AsJson = False,
) -> None:
    """Show in what two curricula differ, and from which step on.

    Also how many tokens are moved after it.
    """
    from curriculum.analysis import diff_sides
    from curriculum.cli.view.diff import FORMAT, comparison_json, comparison_view
    from curriculum.plan.diff.compare import compare

    project = open_project()
    ran: tuple[diff_sides.SavedStage, ...] = ()
    if new is None:
        project, curriculum = arm_or_curriculum(project, old, size)
        sides = diff_sides.against_what_ran(project, curriculum, size)
        if sides is None:
            if as_json:
                print_json({"format": FORMAT, "old": old, "size": size, "started": False})
            else:
                print(f"no stage of `{old}` has started at size {size}: its files may be edited freely")
            return
        first, second, ran = sides
    else:
        first, second = (diff_sides.side(*arm_or_address(project, name, size), size) for name in (old, new))
    compared = compare(first.lineage, second.lineage)
    if as_json:
        print_json(comparison_json(compared, first.label, second.label, size, ran))
    else:
        open_console().print(comparison_view(compared, first.label, second.label, size, ran))
