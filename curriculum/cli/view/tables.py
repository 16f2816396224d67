"""Tables, shares and notes as every view shows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

MANY_ROWS = 100
"""Rows from which on a table is laid out by `aligned`: rich takes a second for a thousand."""


def share(value: float) -> str:
    return f"{value * 100:.4g}%"


def table(*columns: str, rows: Iterable[Iterable[RenderableType]] = ()) -> Table:
    """A table without lines; a column whose name begins with `#` is aligned to the right."""
    drawn = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in columns:
        drawn.add_column(name.removeprefix("#"), justify="right" if name.startswith("#") else "left", no_wrap=True)
    for row in rows:
        drawn.add_row(*row)
    return drawn


def aligned(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table of plain text."""
    lines = [tuple(name.removeprefix("#") for name in columns), *rows]
    widths = [max(len(line[at]) for line in lines if len(line) > at) for at in range(len(columns))]
    return [
        "  ".join(
            cell.rjust(width) if name.startswith("#") else cell.ljust(width)
            for cell, width, name in zip(line, widths, columns, strict=False)
        ).rstrip()
        for line in lines
    ]


def notes(lines: Iterable[str]) -> list[RenderableType]:
    """Lines under a heading; nothing without lines."""
    shown: list[RenderableType] = [Text(f"  {line}") for line in lines]
    return [Text("\nnotes", style="bold"), *shown] if shown else []
