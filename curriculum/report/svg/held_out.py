"""Held-out losses over tokens as one SVG that needs nothing else: stages as bands, a line per source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from curriculum.report.svg.scale import Scale, ticks
from curriculum.units import show_count

WIDTH, HEIGHT = 860, 420
LEFT, RIGHT, TOP, BOTTOM = 56, 200, 44, 44
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
)  # Okabe and Ito: told apart by all
BANDS = ("#f3f4f6", "#e5e9f0")


@dataclass(frozen=True, slots=True)
class Band:
    """A stage on the token axis."""

    label: str
    start: int
    end: int


def held_out(title: str, bands: Sequence[Band], series: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """The SVG text; `series` maps a source to its (position in tokens, loss in nats a token)."""
    points = [point for line in series.values() for point in line]
    last = max([band.end for band in bands] + [position for position, _ in points] + [1])
    low = min((loss for _, loss in points), default=0.0)
    high = max((loss for _, loss in points), default=1.0)
    margin = 0.05 * (high - low or 1.0)
    low, high = low - margin, high + margin

    x = Scale(0, last, LEFT, WIDTH - RIGHT)
    y = Scale(low, high, HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
        ' font-family="system-ui, sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="18" font-size="14" fill="#111">{escape(title)}</text>',
    ]
    for number, band in enumerate(bands):
        left, right = x(band.start), x(band.end)
        fill = BANDS[number % 2]
        size = f'width="{right - left:.1f}" height="{HEIGHT - TOP - BOTTOM}"'
        parts.append(f'<rect x="{left:.1f}" y="{TOP}" {size} fill="{fill}"/>')
        if right - left > 5.8 * len(band.label):
            parts.append(
                f'<text x="{left:.1f}" y="{TOP - 6}" font-size="11" fill="#555">{escape(band.label)}</text>'
            )
        low_row = (
            12 if number % 2 and right - left < 200 else 0
        )  # neighbours of narrow stages would run together
        parts.append(_text(right, HEIGHT - BOTTOM + 14 + low_row, show_count(band.end), "end"))
    for tick in ticks(low, high):
        parts.append(
            f'<line x1="{LEFT}" y1="{y(tick):.1f}" x2="{WIDTH - RIGHT}" y2="{y(tick):.1f}" stroke="#ccc"/>'
        )
        parts.append(_text(LEFT - 6, y(tick) + 4, f"{tick:g}", "end"))
    ends: list[float] = []
    for number, (name, line) in enumerate(
        sorted(series.items(), key=lambda entry: entry[1][-1][1] if entry[1] else 0, reverse=True)
    ):
        if not line:
            continue
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{x(position):.1f},{y(loss):.1f}" for position, loss in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for position, loss in line:
            parts.append(f'<circle cx="{x(position):.1f}" cy="{y(loss):.1f}" r="2.5" fill="{colour}"/>')
        height = max([y(line[-1][1]) + 4, *(end + 14 for end in ends[-1:])])
        ends.append(height)
        label = f"{name} {line[-1][1]:.2f}"
        parts.append(
            f'<text x="{x(line[-1][0]) + 8:.1f}" y="{height:.1f}" fill="{colour}">{escape(label)}</text>'
        )
    parts.append(_text(LEFT, HEIGHT - 8, "tokens from the root; held-out loss in nats a token", "start"))
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#555">{escape(text)}</text>'
