"""The verb `verify`: check all that a curriculum or a study has on disk against its digests."""

from __future__ import annotations

import sys

import typer

from curriculum.cli import addresses
from curriculum.cli.options import Name, Size, open_project


def verify(name: Name, size: Size = "") -> None:
    """Check a curriculum's files on disk against their digests.

    Tokenizer, prepared text, checkpoints and records are read back; every fault is listed, with a way out.
    """
    from curriculum.compiler.prepared_text import PreparedText
    from curriculum.runs import verify as runs_verify

    project = open_project()
    if (study := addresses.study_in(project, [name])) is not None:
        from curriculum.execution.study import verify_study

        findings = verify_study(project, study, size)
    else:
        project, name = addresses.arm_or_curriculum(project, name, size)
        texts = PreparedText.open(project, name, size, faults=[])
        findings = runs_verify.verify(project, texts.compiled, texts)
    for line in findings.checked:
        print(f"ok  {line}")
    for line in findings.absent:
        print(f"not here  {line}")
    for error in findings.wrong:
        print(error.render(), file=sys.stderr)
    if findings.wrong:
        raise typer.Exit(2)
