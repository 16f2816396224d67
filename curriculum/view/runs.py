"""What was prepared, how far everything is, and what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from curriculum.units import show_exact
from curriculum.view.tables import table


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


def prepared_view(rows: list[dict[str, Any]]) -> RenderableType:
    """What `curriculum prepare` made."""
    drawn = table(
        ("text", "left"),
        ("split", "left"),
        ("documents", "right"),
        ("tokens", "right"),
        ("bytes/token", "right"),
        ("windows", "right"),
        ("unread tail", "right"),
        ("from", "left"),
    )
    for row in rows:
        drawn.add_row(
            row["dataset"],
            row["split"],
            show_exact(row["documents"]),
            show_exact(row["tokens"]),
            f"{row['bytes_per_token']:.2f}",
            show_exact(row["windows"]),
            show_exact(row["tail"]),
            row["from"],
        )
    return drawn


def status_view(rows: list[dict[str, Any]], size: str) -> RenderableType:
    """Every stage of the project and how far it is."""
    drawn = table(
        ("stage", "left"),
        ("from", "left"),
        ("state", "left"),
        ("at", "right"),
        ("of", "right"),
        ("checkpoints", "right"),
    )
    for row in rows:
        if row["state"] == "refused":
            drawn.add_row(row["stage"], "", "refused", "", "", row["why"])
            continue
        drawn.add_row(
            row["stage"],
            row["from"] or "",
            row["state"],
            show_exact(row["position"]),
            show_exact(row["ends_at"]),
            str(len(row["checkpoints"])),
        )
    return Group(Text(f"size {size}; positions in tokens from the root", style="dim"), drawn)
