"""Held-out curves of several variants, a panel for each source, as one SVG that needs nothing else.

The trunk's tail is grey, each variant's line leaves it (or another variant's) where their weights part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from curriculum.analysis.compare import Comparison, Point, point_at
from curriculum.report.svg.held_out import BANDS, COLOURS
from curriculum.units import show_count

WIDTH, PANEL = 900, 236
LEFT, RIGHT, TOP, BOTTOM = 60, 236, 62, 46
TITLE, FOOT = 26, 14  # above and below the plot inside a panel
LEAD_IN = 0.3  # how much of the trunk is shown, against what comes after it
LINE_HEIGHT = 15
TRUNK, PLAIN, INK, DIM = "#9aa1ab", "#222222", "#222222", "#666666"

Line = list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class _Frame:
    """Maps tokens and loss to the picture; `low` and `high` bound what is drawn."""

    begin: int
    end: int
    low: float
    high: float
    top: float

    def x(self, position: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (position - self.begin) / (self.end - self.begin)

    def y(self, loss: float) -> float:
        return self.top + TITLE + (PANEL - TITLE - FOOT) * (self.high - loss) / (self.high - self.low)


def overlay(comparison: Comparison, title: str) -> str:
    """The SVG text: one panel a source, variants in the same colours throughout, stages as bands."""
    sources = [s for s in comparison.sources if any(s in sets for sets in comparison.measured.values())]
    trunk = comparison.trunk.position if comparison.trunk else 0
    end = max(compiled.stages[-1].stop for compiled in comparison.lineages)
    begin = max(0, trunk - round(LEAD_IN * (end - trunk)))
    height = TOP + PANEL * len(sources) + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        ' font-family="system-ui, sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="22" font-size="15" font-weight="600" fill="{INK}">{escape(title)}</text>',
    ]
    stages = _stages(comparison, begin)
    for number, source in enumerate(sources):
        lines = _lines(comparison, source, begin)
        losses = [loss for line in lines.values() for _, loss in line]
        margin = 0.08 * (max(losses) - min(losses) or 1.0)
        top = TOP + PANEL * number
        frame = _Frame(begin, end, min(losses) - margin, max(losses) + margin, top)
        parts += _panel(comparison, source, frame, stages, lines, named=number == 0)
    bottom = TOP + PANEL * len(sources)
    frame = _Frame(begin, end, 0, 1, 0)
    edge = -1e9
    for _, _, at in stages:
        label = show_count(at)
        low_row = 13 if frame.x(at) - edge < 52 else 0  # ends close together would run into each other
        edge = frame.x(at) if not low_row else edge
        parts.append(_text(frame.x(at), bottom + 6 + low_row, label, "middle"))
    note = "held-out loss in nats a token, by tokens from the root"
    parts += [_text(LEFT, height - 14, note, "start"), "</svg>"]
    return "\n".join(parts) + "\n"


def _stages(comparison: Comparison, begin: int) -> list[tuple[str, int, int]]:
    """Bands `(stage, from, to)` between the positions where stages end."""
    bands: list[tuple[str, int, int]] = []
    for row in comparison.rows:
        if row.ends:
            bands.append((row.ends, begin, row.position))
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
        mine = sorted(
            (point for point in at if point_at(compiled, point.position) == point), key=lambda p: p.position
        )
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
    frame: _Frame,
    stages: Sequence[tuple[str, int, int]],
    lines: Mapping[int | None, Line],
    *,
    named: bool,
) -> list[str]:
    top, bottom = frame.top + TITLE, frame.top + PANEL - FOOT
    parts = []
    for number, (label, start, stop) in enumerate(stages):
        left, right = frame.x(start), frame.x(stop)
        parts.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}" '
            f'fill="{BANDS[number % 2]}"/>'
        )
        if named:
            parts.append(_text((left + right) / 2, TOP - 14, label, "middle"))
    role = "general" if source in comparison.general else "domain" if comparison.trunk else ""
    parts.append(
        f'<text x="{LEFT}" y="{top - 8:.1f}" fill="{INK}" font-weight="600">{escape(source)}'
        f'<tspan dx="8" font-weight="400" fill="{DIM}">{role}</tspan></text>'
    )
    for tick in _ticks(frame.low, frame.high):
        y = frame.y(tick)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#d4d8de"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{tick:g}", "end"))
    labels: list[tuple[float, float, str, str]] = []
    for variant, line in lines.items():
        colour = TRUNK if variant is None else colour_of(comparison, variant)
        points = " ".join(f"{frame.x(position):.1f},{frame.y(loss):.1f}" for position, loss in line)
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"/>'
        )
        for position, loss in line:
            if position > frame.begin:
                parts.append(
                    f'<circle cx="{frame.x(position):.1f}" cy="{frame.y(loss):.1f}" r="2.4" fill="{colour}"/>'
                )
        if variant is not None:
            position, loss = line[-1]
            label = f'{escape(comparison.names[variant])}<tspan dx="6" fill="{DIM}">{loss:.3f}</tspan>'
            labels.append((frame.y(loss), frame.x(position), label, colour))
    return parts + _end_labels(labels, bottom)


def _end_labels(labels: list[tuple[float, float, str, str]], bottom: float) -> list[str]:
    """Names at the ends of the lines, pushed apart where they would cover each other, with a thread to each end."""
    labels.sort()
    heights: list[float] = []
    for y, *_ in labels:
        heights.append(max(y, heights[-1] + LINE_HEIGHT) if heights else y)
    ceiling = bottom
    for at in reversed(range(len(heights))):
        heights[at] = min(heights[at], ceiling)
        ceiling = heights[at] - LINE_HEIGHT
    parts = []
    edge = WIDTH - RIGHT
    for (y, x, label, colour), height in zip(labels, heights, strict=True):
        parts.append(
            f'<polyline points="{x:.1f},{y:.1f} {edge + 6},{y:.1f} {edge + 16},{height:.1f} {edge + 22},{height:.1f}" '
            f'fill="none" stroke="{colour}" stroke-width="1" stroke-opacity="0.6"/>'
        )
        parts.append(f'<text x="{edge + 26}" y="{height + 4:.1f}" fill="{INK}">{label}</text>')
    return parts


def colour_of(comparison: Comparison, variant: int) -> str:
    """The colour of a variant: near black for the one compared against, then Okabe and Ito's in order."""
    if variant == comparison.against:
        return PLAIN
    others = [number for number in range(len(comparison.names)) if number != comparison.against]
    return COLOURS[others.index(variant) % len(COLOURS)]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{DIM}">{escape(text)}</text>'


def _ticks(low: float, high: float) -> list[float]:
    """Round values between low and high, three to six of them."""
    steps = (m * 10.0**e for e in range(-6, 6) for m in (1, 2, 5))
    step = next(step for step in steps if (high - low) / step <= 5)
    first, last = int(-(-low // step)), int(high // step)
    return [round(step * n, 9) for n in range(first, last + 1)]
