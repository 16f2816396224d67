"""Charts of the training loss and of held-out losses, several variants from their shared trunk."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from curriculum.report.html.series import Point
from curriculum.report.svg import shapes
from curriculum.report.svg.scale import Scale, apart, text_width, ticks
from curriculum.units import show_count, show_exact

HEAD = 0.02
"""The first part of the axis, in which a loss may rise out of the picture: it falls from ln(vocabulary)."""
MOST_MARKERS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The losses of a stage, drawn in a style; `raw` faintly behind `points`."""

    name: str
    style: int
    points: tuple[Point, ...]
    raw: tuple[Point, ...] = ()
    ends: bool = False  # the last of its lineage: its last value is labelled


@dataclass(frozen=True, slots=True)
class Domain:
    """The losses a picture shows; `above` is the highest that rises out of it, near the start, or None."""

    low: float
    high: float
    above: Point | None


def domain(lines: Sequence[Line], stop: int) -> Domain:
    """From the lowest loss to the highest past the head of the axis, with a margin; to the highest if that leaves none.

    No loss is below the picture: on a source that is not trained on yet, a loss rises from its start.
    """
    every = [point for line in lines for point in (*line.points, *line.raw)]
    body = [point for point in every if point[0] > HEAD * stop] or every
    low = min((loss for _, loss in every), default=0.0)
    high = max((loss for _, loss in body), default=1.0)
    margin = 0.06 * (high - low) or 0.1
    low, high = max(0.0, low - margin), high + margin
    above = [point for point in every if point[1] > high]
    return Domain(low, high, max(above, key=lambda point: point[1]) if above else None)


def training_loss(
    lines: Sequence[Line],
    bands: Sequence[shapes.Band],
    batches: Sequence[tuple[int, int, int]],
    stop: int,
    width: int,
    key: str,
) -> str:
    """Training loss along the tokens: every measured value faintly, the smoothed line, batch steps marked."""
    narrow = width < 600
    left, right = (40, 12) if narrow else (64, 60)
    x = Scale(0, stop, left, width - right)
    top = shapes.band_height(bands, x) + 4
    bottom = top + (200 if narrow else 270)
    parts = [*shapes.band_layer(bands, x, top, bottom), *shapes.band_names(bands, x, top)]
    losses = domain(lines, stop)
    y = Scale(losses.low, losses.high, bottom, top)
    parts += shapes.value_axis(y, left, x.end, ticks(losses.low, losses.high, 6))
    raw = [shapes.polyline(_placed(line.raw, x, y), f"raw v{line.style}") for line in lines if line.raw]
    smooth = [shapes.polyline(_placed(line.points, x, y), f"line v{line.style}") for line in lines if line.points]
    parts.append(shapes.clipped(left, top, x.end - left, bottom - top, [*raw, *smooth]))
    parts += _batch_marks(batches, x, bottom, narrow)
    if not narrow:
        parts += [
            shapes.marker(x(line.points[-1][0]), y(line.points[-1][1]), line.style)
            for line in lines
            if line.ends and line.points
        ]
        parts += _end_values(lines, x, y, top, bottom)
        parts += _strips(lines, x, top, bottom, stop)
    axis = bottom + (22 if batches else 0)
    parts += shapes.token_axis(x, axis, 4 if narrow else 8)
    last = "; ".join(f"{line.name} {line.points[-1][1]:.3f}" for line in lines if line.ends and line.points)
    about = f"Loss in nats a token over {show_count(stop)} tokens. Last smoothed values: {last or 'none'}."
    return shapes.drawing(
        key, "Training loss by tokens", about, width, axis + 26, parts, "narrow" if narrow else "wide"
    )


def _batch_marks(batches: Sequence[tuple[int, int, int]], x: Scale, bottom: float, narrow: bool) -> list[str]:
    parts = []
    edge = x.start
    for position, before, after in batches:
        text = f"batch {show_exact(before)} → {show_exact(after)}" + ("" if narrow else " sequences")
        at, width = x(position), text_width(text, 11)
        corners = ((at, bottom + 2), (at + 4, bottom + 9), (at - 4, bottom + 9))
        parts.append(shapes.polygon(corners, "step"))
        if at - 8 - width > edge:
            parts.append(shapes.label(at - 8, bottom + 12, text, "tick", "end"))
            edge = at + 6
        elif at + 8 + width < x.end + 40 and at + 8 > edge:
            parts.append(shapes.label(at + 8, bottom + 12, text, "tick"))
            edge = at + 8 + width
    return parts


def _placed(points: Sequence[Point], x: Scale, y: Scale) -> list[tuple[float, float]]:
    return [(x(position), y(loss)) for position, loss in points]


def _end_values(lines: Sequence[Line], x: Scale, y: Scale, top: float, bottom: float) -> list[str]:
    """The last value of every line that ends a lineage, next to it."""
    ending = [(line, *line.points[-1]) for line in lines if line.ends and line.points]
    heights = apart([min(bottom, max(top, y(loss))) for _, _, loss in ending], 14, top + 4, bottom - 4)
    return [
        shapes.label(x(position) + 9, height + 4, f"{loss:.2f}", f"value ink v{line.style}")
        for (line, position, loss), height in zip(ending, heights, strict=True)
    ]


def _strips(lines: Sequence[Line], x: Scale, top: float, bottom: float, stop: int) -> list[str]:
    """Invisible columns whose tooltips are the smoothed losses there."""
    parts = []
    count = 80
    starts = [[position for position, _ in line.points] for line in lines]
    for n in range(count):
        low, high = stop * n // count, stop * (n + 1) // count
        values = []
        for line, positions in zip(lines, starts, strict=True):
            at = bisect.bisect_right(positions, high) - 1
            if at >= 0 and positions[at] > low:
                values.append(
                    f"{line.name} at {show_exact(positions[at])} tokens: {line.points[at][1]:.3f} nats a token"
                )
        if values:
            parts.append(shapes.rect(x(low), top, x(high) - x(low), bottom - top, "hit", "\n".join(values)))
    return parts


def held_out(
    source: str, lines: Sequence[Line], bands: Sequence[shapes.Band], stop: int, key: str, source_style: int
) -> str:
    """One source's held-out loss along the tokens; every evaluation is a marker while there are few enough."""
    width, top, bottom = 420, 40, 232
    x = Scale(0, stop, 40, width - 46)
    losses = domain(lines, stop)
    y = Scale(losses.low, losses.high, bottom, top)
    parts = shapes.band_layer(bands, x, top, bottom)
    parts.append(shapes.rect(x.start, 12, 10, 10, f"area solid s{source_style}"))
    parts.append(shapes.label(x.start + 16, 21, source, "name"))
    parts += shapes.value_axis(y, x.start, x.end, ticks(losses.low, losses.high, 5))
    inside = [shapes.polyline(_placed(line.points, x, y), f"line v{line.style}") for line in lines if line.points]
    parts.append(shapes.clipped(x.start, top, x.end - x.start + 1, bottom - top, inside))
    measured = sum(len(line.points) for line in lines)
    every = max(1, measured // MOST_MARKERS)
    for line in lines:
        for at, (position, loss) in enumerate(line.points):
            if loss <= losses.high and (at % every == 0 or at == len(line.points) - 1):
                tooltip = f"{line.name} at {show_exact(position)} tokens: {loss:.4f} nats a token"
                parts.append(shapes.marker(x(position), y(loss), line.style, 2.8, tooltip))
    parts += _end_values(lines, x, y, top, bottom)
    parts += shapes.token_axis(x, bottom, 4)
    last = "; ".join(f"{line.name} {line.points[-1][1]:.3f}" for line in lines if line.points)
    about = f"Held-out loss on {source} in nats a token; last values: {last}."
    return shapes.drawing(key, f"Held-out loss on {source}", about, width, bottom + 26, parts, "panel")
