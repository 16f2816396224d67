"""The verb `prune`: delete checkpoints that nothing continues from."""

from __future__ import annotations

from typing import Annotated

import typer

from curriculum.cli.options import AsJson, NameOrAll, Size, open_console, open_project, print_json


def prune(
    name: NameOrAll = None,
    size: Size = "",
    keep_last: Annotated[int, typer.Option(min=1, help="newest checkpoints to keep of every stage")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show what would be deleted, and delete nothing")] = False,
    unpin: Annotated[
        str | None,
        typer.Option(help="only release the pins of this name, which has neither a stage file nor a run any more"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Delete checkpoints that nothing continues from.

    A checkpoint that is branched from always stays.
    """
    from curriculum.cli.view.runs import pruned_view
    from curriculum.runs import retention
    from curriculum.units import show_exact

    if unpin is not None:
        released = retention.release(open_project(), size, unpin)
        if as_json:
            print_json({"released": released})
        else:
            for stage, positions in released.items():
                for position in positions:
                    print(f"released: {stage} at {show_exact(position)} tokens")
        return
    verdicts = retention.survey(open_project(), size, keep_last=keep_last, only=name)
    deleted = [v for v in verdicts if not v.kept_by] if dry_run else retention.prune(verdicts)
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
