"""What keeps a project sound."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from curriculum.cli import completion
from curriculum.cli.words import (
    AsJson,
    MachineName,
    Name,
    NameOrAll,
    Size,
    compiled_with_texts,
    open_console,
    open_project,
    print_json,
)


def verify(name: Name, size: Size = "") -> None:
    """Check all that a curriculum has on disk against its digests.

    Checkpoints, prepared text and ledger are read back.
    """
    from curriculum.runs import verify as runs_verify

    project = open_project()
    compiled, texts = compiled_with_texts(project, name, size)
    findings = runs_verify.verify(project, compiled, texts)
    for line in findings.checked:
        print(f"ok  {line}")
    for error in findings.wrong:
        print(error.render(), file=sys.stderr)
    if findings.wrong:
        raise typer.Exit(2)


def prune(
    name: NameOrAll = None,
    size: Size = "",
    keep_last: Annotated[int, typer.Option(min=1, help="newest checkpoints to keep of every stage")] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="show what would be deleted, and delete nothing")
    ] = False,
    unpin: Annotated[
        str | None,
        typer.Option(help="only release what this name pins, of which neither stage file nor run is left"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Delete checkpoints that nothing goes on from.

    What somebody branches from always stays.
    """
    from curriculum.runs import retention
    from curriculum.view.runs import pruned_view, unpinned_lines

    if unpin is not None:
        released = retention.release(open_project(), size, unpin)
        if as_json:
            print_json({"released": released})
        else:
            print("\n".join(unpinned_lines(released)))
        return
    verdicts = retention.survey(open_project(), size, keep_last=keep_last, only=name)
    deleted = [verdict for verdict in verdicts if not verdict.kept_by]
    if not dry_run:
        deleted = retention.prune(verdicts)
    if as_json:
        print_json(
            [
                {
                    "stage": verdict.stage,
                    "checkpoint": verdict.checkpoint.name,
                    "position": verdict.checkpoint.position,
                    "bytes": verdict.bytes,
                    "kept_by": list(verdict.kept_by),
                    "deleted": verdict in deleted and not dry_run,
                }
                for verdict in verdicts
            ]
        )
    else:
        open_console().print(pruned_view(verdicts, deleted, dry_run=dry_run))


def doctor(machine: MachineName = "local", as_json: AsJson = False) -> None:
    """Show what this machine has, and which runs it can serve.

    What is asked of it is an entry of machines.yaml.
    """
    from curriculum.execution.doctor import examine
    from curriculum.view.doctor import doctor_lines

    report = examine(open_project(), machine)
    if as_json:
        print_json(report)
    else:
        for line in doctor_lines(report):
            print(line)
    if not report["served"]:
        raise typer.Exit(2)


def inspect(
    path: Annotated[Path, typer.Argument(help="a token file of any known format, or a folder of them")],
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="show pieces as text: a name in sources.yaml, a tokenizer.json, or its folder",
            autocompletion=completion.tokenizers,
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, max=50, help="pieces to show")] = 3,
    as_json: AsJson = False,
) -> None:
    """Say what a token file is: format, width, tokens, documents.

    With a tokenizer, also what stands in it.
    """
    from curriculum.compiler.tokenizers import named_tokenizer
    from curriculum.data.inspect import inspect as look_into
    from curriculum.view.inspection import inspection_lines

    found = look_into(path, named_tokenizer(tokenizer) if tokenizer else None, samples)
    if as_json:
        print_json(found)
    else:
        for line in inspection_lines(found):
            print(line)
