"""Held-out losses of one lineage over tokens, as one SVG file: stages as bands, a line per source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from curriculum.report.svg import shapes
from curriculum.report.svg.scale import Scale, ticks

WIDTH, HEIGHT = 860, 420
LEFT, RIGHT, TITLE, BOTTOM = 56, 200, 26, 60


def held_out(title: str, bands: Sequence[shapes.Band], series: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """The SVG text; `series` maps a source to its (position in tokens, loss in nats a token)."""
    lines = sorted(((name, line) for name, line in series.items() if line), key=lambda entry: -entry[1][-1][1])
    points = [point for _, line in lines for point in line]
    last = max([end for _, _, end in bands] + [position for position, _ in points] + [1])
    low = min((loss for _, loss in points), default=0.0)
    high = max((loss for _, loss in points), default=1.0)
    margin = 0.05 * (high - low or 1.0)
    x = Scale(0, last, LEFT, WIDTH - RIGHT)
    top, bottom = TITLE + shapes.band_height(bands, x), HEIGHT - BOTTOM
    y = Scale(low - margin, high + margin, bottom, top)
    parts = [*shapes.band_layer(bands, x, top, bottom), *shapes.band_names(bands, x, top)]
    parts += shapes.value_axis(y, x.start, x.end, ticks(y.low, y.high))
    parts += shapes.boundary_axis(x, bottom, [0, *(end for _, _, end in bands)])
    ends = []
    for number, (name, line) in enumerate(lines):
        style = number % shapes.LINE_STYLES
        placed = [(x(position), y(loss)) for position, loss in line]
        parts += shapes.measured_line(placed, style)
        ends.append((*placed[-1], f"{name} {line[-1][1]:.2f}", style))
    parts += shapes.end_labels(ends, x.end, top, bottom)
    parts.append(shapes.label(LEFT, HEIGHT - 8, "held-out loss in nats a token, by tokens from the root", "tick"))
    return shapes.picture(title, WIDTH, HEIGHT, parts)
