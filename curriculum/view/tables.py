"""Tables, bars and shares as every view draws them; nothing is decided here."""

from __future__ import annotations

from rich.table import Table

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
