"""Tables, bars and shares as every view draws them; nothing is decided here."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

MANY_ROWS = 100
"""Rows from which on a table is laid out by `aligned`: rich takes a second for a thousand."""

_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: list[float]) -> str:
    """One character a value, from the lowest to the highest of them."""
    if not values:
        return ""
    low, high = min(values), max(values)
    if high == low:
        return _BARS[0] * len(values)
    return "".join(_BARS[min(7, int((value - low) / (high - low) * 8))] for value in values)


def share(value: float) -> str:
    return f"{value * 100:.4g}%"


def table(*columns: tuple[str, str]) -> Table:
    """A table without lines; each column a (heading, justification)."""
    drawn = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name, justify in columns:
        drawn.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    return drawn


def aligned(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> Text:
    """What `table` would show of rows of plain words, as one text; what a terminal has no room for is cut."""
    lines = [tuple(name for name, _ in columns), *rows]
    wide = [max(len(line[at]) for line in lines if len(line) > at) for at in range(len(columns))]
    shown = [
        "  ".join(
            cell.rjust(width) if justify == "right" else cell.ljust(width)
            for cell, width, (_, justify) in zip(line, wide, columns, strict=False)
        ).rstrip()
        for line in lines
    ]
    return Text("\n".join(shown), no_wrap=True, overflow="ellipsis")
