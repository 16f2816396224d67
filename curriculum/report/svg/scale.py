"""Scales, round ticks and label positions of every picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CHARACTER = 0.56
"""Mean width of a character of a sans-serif face, in parts of its size; generous, since faces differ."""


@dataclass(frozen=True, slots=True)
class Scale:
    """A straight line from values `low … high` to picture units `start … end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        if self.high == self.low:
            return (self.start + self.end) / 2
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def step_of(span: float, most: int) -> float:
    """The smallest of 1, 2, 5 times a power of ten of which `span` holds at most `most`; 1 for no span."""
    if not (span > 0 and math.isfinite(span)):
        return 1.0
    power = 10.0 ** math.floor(math.log10(span / most))
    return next((f * power for f in (1, 2, 5) if span <= most * f * power * (1 + 1e-9)), 10 * power)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values from `low` to `high`, at most `most + 1` of them."""
    if not (math.isfinite(low) and math.isfinite(high)) or high < low:
        return []
    step = step_of(high - low, most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{n * step:.12g}") for n in range(first, last + 1)]


def text_width(text: str, size: float = 12) -> float:
    """About how wide `text` is at `size`, in picture units."""
    return CHARACTER * size * len(text)


def apart(targets: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places at least `gap` from each other, near `targets` and in their order, inside `low … high`.

    Where the range is too short for all, they are as far apart as it allows.
    """
    order = sorted(range(len(targets)), key=lambda i: (targets[i], i))
    if len(order) > 1:
        gap = min(gap, (high - low) / (len(order) - 1))
    places = [0.0] * len(targets)
    before = -math.inf
    for i in order:
        before = places[i] = max(targets[i], before + gap, low)
    after = math.inf
    for i in reversed(order):
        after = places[i] = min(places[i], after - gap, high)
    return places


def rows(labels: Sequence[tuple[float, float]], gap: float = 6) -> list[int]:
    """The first row, counted from 0, in which each (centre, width), taken in order, covers none before it."""
    ends: list[list[tuple[float, float]]] = []
    ranks = []
    for centre, width in labels:
        left, right = centre - width / 2 - gap, centre + width / 2 + gap
        row = next((n for n, extents in enumerate(ends) if all(right <= a or b <= left for a, b in extents)), len(ends))
        if row == len(ends):
            ends.append([])
        ends[row].append((left + gap, right - gap))
        ranks.append(row)
    return ranks
