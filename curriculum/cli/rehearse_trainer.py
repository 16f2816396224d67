"""The verb `rehearse-trainer`: show whether a trainer resumes to the same bits and reads what it is offered."""

from __future__ import annotations

from typing import Annotated

import typer

from curriculum.cli.options import open_project


def rehearse_trainer(
    machine: Annotated[str, typer.Argument(help="an entry of machines.yaml with `trainer:`", show_default=False)],
) -> None:
    """Prove or refute that a trainer resumes to the same bits.

    And that it reads what it is offered: it trains two short stages of generated text, and again with each killed
    once. Exit code 1 unless both are shown.
    """
    from curriculum.execution.rehearse_trainer import NAME, SIZE, rehearse
    from curriculum.execution.request import RunRequest

    seen = rehearse(RunRequest(project=open_project(), curriculum=NAME, size=SIZE, machine=machine))
    print(
        "reads what it is offered: every step's witness is the plan's"
        if seen.witnessed
        else "reads what it is offered: not shown, it reports no witness (`stage.took(witness=…)`)"
    )
    if seen.resumes_bitwise:
        print(f"resumes to the same bits: {seen.files} files of two ends are equal after {seen.kills} kills")
        return
    if seen.different_step is not None:
        print(f"does not resume to the same bits: the loss of step {seen.different_step:,} is another after a kill")
    for file in seen.different_files:
        print(f"does not resume to the same bits: another file at the end of {file}")
    if not seen.different_files and seen.different_step is None:
        print(f"resumes to the same bits: not shown, it was killed {seen.kills} times of 2 before it ended")
    raise typer.Exit(1)
