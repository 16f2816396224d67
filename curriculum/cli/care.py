"""What keeps a project sound."""

from __future__ import annotations

import sys

import typer

from curriculum.cli.words import Name, Size, compiled_with_texts, open_project


def verify(name: Name, size: Size = "rehearsal") -> None:
    """Read checkpoints, prepared text and ledger of a curriculum back and compare them with their digests."""
    from curriculum import verify as verification

    project = open_project()
    compiled, texts = compiled_with_texts(project, name, size)
    findings = verification.verify(project, compiled, texts)
    for line in findings.checked:
        print(f"ok  {line}")
    for error in findings.wrong:
        print(error.render(), file=sys.stderr)
    if findings.wrong:
        raise typer.Exit(2)
