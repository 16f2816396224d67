"""The tables of `prepare`, `run`, `branch` and `prune`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from curriculum.cli.view.tables import table
from curriculum.runs.branch import Branch
from curriculum.runs.retention import Retention
from curriculum.units import show_bytes, show_exact


def result_view(rows: Sequence[Mapping[str, Any]], sources: list[str]) -> RenderableType:
    """Held-out loss per source at the root and where each stage ends or is left; `rows` from `held_out.edges`.

    `-` where nothing was measured: a stage that trained on past the position, for another curriculum.
    """
    cells = (
        (
            row["label"],
            show_exact(row["position"]),
            *(f"{row['loss'][name]:.3f}" if name in row["loss"] else "" if row["loss"] else "-" for name in sources),
        )
        for row in rows
    )
    return table("at", "#tokens", *(f"#{name}" for name in sources), rows=cells)


def prepared_view(
    rows: list[dict[str, Any]], missing: Sequence[str] = (), changed: Sequence[str] = ()
) -> RenderableType:
    """Prepared texts, the documents left out with the reasons, the texts that are `missing`, and what `changed`."""
    drawn = table("text", "split", "#documents", "#tokens", "#bytes/token", "#windows", "#tail", "#marks")
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
    lines += [f"still to be prepared: {', '.join(missing)}"] if missing else []
    return Group(drawn, *map(Text, [*lines, *changed]))


def branched_view(made: Branch, options: str) -> RenderableType:
    """The stage file and pin of a new branch, and the next command with `options`."""
    command = f"curriculum run {made.name}{options}"
    if made.leaves is None:
        kept = "a root of its own, under another seed: nothing is shared with what is trained already"
    else:
        point = f"{made.leaves.name} at {show_exact(made.leaves.stop)} tokens"
        reached = f"{point} is not reached yet: `{command}` trains to there first"
        kept = f"pinned checkpoint: {point}" if made.checkpoint else reached
    mixtures = [
        part
        for name, text in made.mixtures.items()
        for part in (Text(f"\nwritten: mixtures/{name}.yaml", style="bold"), Text(text.rstrip(), style="dim"))
    ]
    return Group(
        Text(f"\nwritten: stages/{made.name}.yaml", style="bold"),
        Text(made.text.rstrip(), style="dim"),
        *mixtures,
        Text(f"\n{kept}\nedit the file, or start it: {command}"),
    )


def pruned_view(verdicts: Sequence[Retention], deleted: Sequence[Retention], *, dry_run: bool) -> RenderableType:
    """Every checkpoint: deleted (or to be deleted), or the reasons to keep it."""
    drawn = table("stage", "#position", "#size", "")
    drawn.columns[-1].no_wrap = False  # reasons wrap, numbers do not
    for verdict in verdicts:
        action = "would be deleted" if dry_run else "deleted"
        drawn.add_row(
            verdict.stage,
            show_exact(verdict.checkpoint.position),
            show_bytes(verdict.bytes),
            Text(action, style="red") if verdict in deleted else "; ".join(verdict.kept_by) or "pinned meanwhile",
        )
    freed = sum(verdict.bytes for verdict in deleted)
    word = "would be freed" if dry_run else "freed"
    return Group(drawn, Text(f"{len(deleted)} of {len(verdicts)} checkpoints, {show_bytes(freed)} {word}"))
