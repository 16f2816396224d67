"""What was prepared, how far everything is, and what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from curriculum.cli.view.tables import table
from curriculum.runs.branch import Branch
from curriculum.runs.retention import Verdict
from curriculum.units import show_bytes, show_exact


def result_view(rows: Sequence[Mapping[str, Any]], sources: list[str]) -> RenderableType:
    """Held-out loss per source at each stage's edges; `rows` from `results.edges`."""
    drawn = table(("at", "left"), ("tokens", "right"), *((name, "right") for name in sources))
    for row in rows:
        drawn.add_row(
            row["label"],
            show_exact(row["position"]),
            *(f"{row['loss'][name]:.3f}" if name in row["loss"] else "" for name in sources),
        )
    return drawn


def prepared_view(rows: list[dict[str, Any]], left: Sequence[str] = ()) -> RenderableType:
    """What `curriculum prepare` made, what was left out and why, and which texts are still to be made."""
    drawn = table(
        ("text", "left"),
        ("split", "left"),
        ("documents", "right"),
        ("tokens", "right"),
        ("bytes/token", "right"),
        ("windows", "right"),
        ("tail", "right"),
        ("marks", "right"),
    )
    for row in rows:
        drawn.add_row(
            row["dataset"],
            row["split"],
            show_exact(row["documents"]),
            show_exact(row["tokens"]),
            "" if row["bytes_per_token"] is None else f"{row['bytes_per_token']:.2f}",
            show_exact(row["windows"]),
            show_exact(row["tail"]),
            show_exact(row["filler"]),
        )
    lines = list(dict.fromkeys(f"{row['dataset']} is from {row['from']}" for row in rows))
    for row in rows:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in row["dropped"].items())
        lines += [f"left out of {row['dataset']} ({row['split']}): {reasons}"] if reasons else []
    lines += [f"still to be prepared: {', '.join(left)}"] if left else []
    return Group(drawn, *map(Text, lines))


def branched_view(made: Branch, options: str) -> RenderableType:
    """What `curriculum branch` wrote and kept, and the command that comes next, with these `options`."""
    point = f"{made.leaves.name} at {show_exact(made.leaves.stop)} tokens"
    command = f"curriculum run {made.name}{options}"
    kept = (
        f"pinned checkpoint: {point}"
        if made.checkpoint
        else f"{point} is not reached yet: `{command}` trains to there first"
    )
    return Group(
        Text(f"\nwritten: stages/{made.name}.yaml", style="bold"),
        Text(made.text.rstrip(), style="dim"),
        Text(f"\n{kept}\nedit the file, or start it: {command}"),
    )


def pruned_view(verdicts: Sequence[Verdict], deleted: Sequence[Verdict], *, dry_run: bool) -> RenderableType:
    """Every checkpoint, which of them went (or would go), and what keeps the others."""
    drawn = table(("stage", "left"), ("position", "right"), ("size", "right"), ("", "left"))
    drawn.columns[-1].no_wrap = False  # reasons fold, so that the numbers stay whole
    for verdict in verdicts:
        gone = "would be deleted" if dry_run else "deleted"
        drawn.add_row(
            verdict.stage,
            show_exact(verdict.checkpoint.position),
            show_bytes(verdict.bytes),
            Text(gone, style="red")
            if verdict in deleted
            else "; ".join(verdict.kept_by) or "pinned meanwhile",
        )
    freed = sum(verdict.bytes for verdict in deleted)
    word = "would be freed" if dry_run else "freed"
    return Group(drawn, Text(f"{len(deleted)} of {len(verdicts)} checkpoints, {show_bytes(freed)} {word}"))


def unpinned_lines(released: Mapping[str, Sequence[int]]) -> list[str]:
    """What `curriculum prune --unpin` released."""
    return [
        f"released: {stage} at {show_exact(position)} tokens"
        for stage, positions in released.items()
        for position in positions
    ]
