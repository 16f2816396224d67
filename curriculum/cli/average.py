"""The verb `average`: write a curriculum that is the average of checkpoints."""

from __future__ import annotations

from typing import Annotated

import typer

from curriculum.cli import completion
from curriculum.cli.options import AsJson, MachineName, Size, open_console, open_project, print_json


def average(
    name: Annotated[str, typer.Argument(help="the average's name")],
    members: Annotated[
        list[str], typer.Argument(help="its checkpoints: NAME[/STAGE][@TOKENS]", autocompletion=completion.addresses)
    ],
    weights: Annotated[str | None, typer.Option(help="how much each counts, as in 1,2; else the same")] = None,
    last: Annotated[int | None, typer.Option(min=2, help="of one: its last checkpoints, as in 5")] = None,
    ema: Annotated[bool, typer.Option("--ema", help="of one: the moving average that it keeps")] = False,
    size: Size = "",
    machine: MachineName = "local",
    as_json: AsJson = False,
) -> None:
    """Write the average of checkpoints, or one's moving average.

    The checkpoints are pinned, and `run` computes it.
    """
    from curriculum.cli.view.plan import plan_view
    from curriculum.compiler.prepared_text import PreparedText
    from curriculum.compiler.summary import summarise
    from curriculum.runs.average import average as write

    project = open_project()
    made = write(project, name, members, weights=weights, last=last, ema=ema, size=size)
    summary = summarise(project, made.compiled, machine, project.machine(machine))
    if as_json:
        print_json({"file": f"stages/{name}.yaml", "text": made.text, "untrained": made.untrained, "plan": summary})
        return
    console = open_console()
    texts = PreparedText.open(open_project(), name, size)
    console.print(plan_view(summary, made.compiled, texts.provenance_lines()))
    console.print(f"\nwritten: stages/{name}.yaml")
    for line in made.text.splitlines():
        console.print(line, markup=False, highlight=False)
    for point in made.untrained:
        console.print(f"not trained yet: {point} tokens")
    console.print(f"compute it: curriculum run {name}{project.options(size, machine)}")
