"""Curves in a terminal: braille dots, two by four in a character, with the values of their scales."""

from __future__ import annotations

from collections.abc import Sequence

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


def curve(points: Sequence[tuple[float, float]], width: int, height: int, *, stairs: bool = False) -> list[str]:
    """The points (ascending in x, y from 0 up) as `height` lines of `width` characters.

    Joined by straight lines, or with `stairs` by steps: each value then holds up to the point it belongs to.
    """
    across, down = width * 2, height * 4
    last = max(x for x, _ in points) or 1.0
    most = max(y for _, y in points) or 1.0
    rows = [[0] * width for _ in range(height)]
    before: int | None = None
    at = 0
    for column in range(across):
        x = (column + 0.5) / across * last
        while at < len(points) - 1 and points[at][0] < x:
            at += 1
        (x1, y1), (x0, y0) = points[at], points[at - 1] if at else (0.0, 0.0)
        y = y1 if stairs or x1 == x0 else y0 + (y1 - y0) * min(1.0, max(0.0, (x - x0) / (x1 - x0)))
        dot = min(down - 1, max(0, round((1 - y / most) * (down - 1))))
        start = dot if before is None else before
        for line in range(min(start, dot), max(start, dot) + 1):
            rows[line // 4][column // 2] |= _DOTS[line % 4][column % 2]
        before = dot
    return ["".join(chr(0x2800 + cell) for cell in row) for row in rows]


def framed(lines: Sequence[str], top: str, bottom: str) -> list[str]:
    """`lines` with the value of the first and of the last at their left."""
    width = max(len(top), len(bottom))
    labels = [top, *[""] * (len(lines) - 2), bottom] if len(lines) > 1 else [top]
    return [f"{label:>{width}} {line}" for label, line in zip(labels, lines, strict=True)]
