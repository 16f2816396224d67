"""Held-out curves of several variants, a panel for each source, as one SVG file.

The end of the shared trunk is grey; each variant's line starts where its weights differ from those before it.
"""

from __future__ import annotations

from collections.abc import Mapping

from curriculum.analysis.compare import Comparison, point_at
from curriculum.report.svg import shapes
from curriculum.report.svg.scale import Scale, text_width, ticks
from curriculum.runs.measurements import Point

WIDTH, PANEL = 900, 236
LEFT, RIGHT, TOP, BOTTOM = 60, 236, 62, 60
TITLE, FOOT = 26, 14  # above and below the plot inside a panel
LEAD_IN = 0.3  # how much of the trunk is shown, against what comes after it

Line = list[tuple[int, float]]


def overlay(comparison: Comparison, title: str) -> str:
    """The SVG text: one panel a source, variants in the same colours throughout, stages as bands."""
    sources = [s for s in comparison.sources if any(s in sets for sets in comparison.measured.values())]
    trunk = comparison.trunk.position if comparison.trunk else 0
    end = max(compiled.stop for compiled in comparison.lineages)
    begin = max(0, trunk - round(LEAD_IN * (end - trunk)))
    x = Scale(begin, end, LEFT, WIDTH - RIGHT)
    bands = _bands(comparison, begin)
    start = TOP + shapes.band_height(bands, x) - 20
    bottom = start + PANEL * len(sources)
    parts = shapes.band_names(bands, x, start + 4)
    for number, source in enumerate(sources):
        lines = _lines(comparison, source, begin)
        parts += _panel(comparison, source, bands, lines, x, start + PANEL * number)
    parts += shapes.boundary_axis(x, bottom, [stop for _, _, stop in bands])
    note = "held-out loss in nats a token, by tokens from the root"
    parts.append(shapes.label(LEFT, bottom + BOTTOM - 14, note, "tick"))
    return shapes.picture(title, WIDTH, bottom + BOTTOM, parts)


def _bands(comparison: Comparison, begin: int) -> list[shapes.Band]:
    """Bands `(stage, from, to)` between the positions where stages end or are left."""
    bands: list[shapes.Band] = []
    for row in comparison.rows:
        if row.is_edge:
            stages = "/".join(name for name in (row.ends, row.leaves) if name)
            bands.append((stages, begin, row.position))
            begin = row.position
    return bands


def _lines(comparison: Comparison, source: str, begin: int) -> dict[int | None, Line]:
    """The trunk's line under None, and each variant's from the last point that it shares with one before it."""
    at: dict[Point, float] = {}
    for point, sets in comparison.measured.items():
        if source in sets:
            at[point] = sets[source]["loss"]
    drawn: set[Point] = set()
    lines: dict[int | None, Line] = {}
    for number, compiled in enumerate(comparison.lineages):
        mine = sorted((point for point in at if point_at(compiled, point.position) == point), key=lambda p: p.position)
        if number == 0 and comparison.trunk is not None:
            tail = [point for point in mine if point.position <= comparison.trunk.position]
            drawn.update(tail)
            if line := _from([(point.position, at[point]) for point in tail], begin):
                lines[None] = line
        new = [point for point in mine if point not in drawn]
        if new:
            before = [point for point in mine if point.position < new[0].position][-1:]
            if line := _from([(point.position, at[point]) for point in (*before, *new)], begin):
                lines[number] = line
            drawn.update(new)
    return lines


def _from(line: Line, begin: int) -> Line:
    """The part of a line from `begin` on, its first point interpolated there."""
    inside = [point for point in line if point[0] >= begin]
    outside = [point for point in line if point[0] < begin]
    if inside and outside and inside[0][0] > begin:
        (x0, y0), (x1, y1) = outside[-1], inside[0]
        inside.insert(0, (begin, y0 + (y1 - y0) * (begin - x0) / (x1 - x0)))
    return inside


def _panel(
    comparison: Comparison,
    source: str,
    bands: list[shapes.Band],
    lines: Mapping[int | None, Line],
    x: Scale,
    start: float,
) -> list[str]:
    """The lines of one source on their own scale."""
    losses = [loss for line in lines.values() for _, loss in line]
    margin = 0.08 * (max(losses) - min(losses) or 1.0)
    top, bottom = start + TITLE, start + PANEL - FOOT
    y = Scale(min(losses) - margin, max(losses) + margin, bottom, top)
    parts = shapes.band_layer(bands, x, top, bottom)
    role = "general" if source in comparison.general else "domain" if comparison.trunk else ""
    parts.append(shapes.label(LEFT, top - 8, source, "name"))
    parts.append(shapes.label(LEFT + text_width(source, 15) + 10, top - 8, role, "tick"))
    parts += shapes.value_axis(y, x.start, x.end, ticks(y.low, y.high, 5))
    ends = []
    for variant, line in lines.items():
        style = 0 if variant is None else 1 + variant % (shapes.LINE_STYLES - 1)
        placed = [(x(position), y(loss)) for position, loss in line]
        parts += shapes.measured_line(placed, style)
        if variant is not None:
            ends.append((*placed[-1], f"{comparison.names[variant]} {line[-1][1]:.3f}", style))
    return parts + shapes.end_labels(ends, x.end, top, bottom)
