"""What preparing text costs, before it is paid: lines of `curriculum plan` and the table of `prepare --sample`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType

from curriculum.cli.view.tables import table
from curriculum.units import show_bytes, show_count, show_seconds


def cost_line(row: Mapping[str, Any]) -> str:
    """What preparing one source takes, and by which measurement; where nothing is measured, what is missing."""
    if row["measured_on"] is None:
        return "preparing it: not measured"
    if row["tokens"] is None:
        return f"preparing it: {_rate(row)}; its size is not known, `tokens:` in sources.yaml declares it"
    return (
        f"preparing it: about {_hours(row)}, {show_bytes(row['disk_bytes'])} on disk; {_rate(row)}, measured on "
        f"{_measured(row)}"
    )


def sample_view(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """The costs of what is not prepared."""
    drawn = table("text", "#tokens", "#processors", "#disk", "#tokens/s a core", "measured on")
    for row in rows:
        measured = row["tokens"] is not None and row["core_hours"] is not None
        drawn.add_row(
            row["dataset"],
            "unknown" if row["tokens"] is None else f"{show_count(row['tokens'])}{' declared' * row['declared']}",
            _hours(row) if measured else "",
            show_bytes(row["disk_bytes"]) if measured else "",
            "" if row["tokens_a_core_second"] is None else show_count(int(row["tokens_a_core_second"])),
            "" if row["measured_on"] is None else _measured(row),
        )
    return drawn


def _hours(row: Mapping[str, Any]) -> str:
    hours = row["core_hours"]
    return f"{hours:,.1f} core-hours" if hours >= 0.1 else f"{show_seconds(hours * 3600)} of a core"


def _rate(row: Mapping[str, Any]) -> str:
    return f"{show_count(int(row['tokens_a_core_second'] or 0))} tokens/s a core"


def _measured(row: Mapping[str, Any]) -> str:
    kind = "all" if row["whole"] else "a sample"
    whose = "its" if row["measured_on"] == row["dataset"] else f"{row['measured_on']}'s"
    return f"{kind} of {whose} text, {show_count(row['measured_tokens'])} tokens, by {row['encoder']}"
