"""SVG primitives, axes, bands and labels of every chart, and text escaped for HTML and SVG."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from curriculum.report.svg import style
from curriculum.report.svg.scale import Scale, apart, rows, text_width, ticks
from curriculum.units import show_count, show_exact

# Not valid in HTML or XML, invisible in a terminal or an editor, or half of a surrogate pair.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)

SOURCE_STYLES = 8
"""Colours and patterns of sources: seven of their own, the last for all others."""
LINE_STYLES = 6
"""Colours, dashes and markers of lines: 0 is what all variants share."""
Band = tuple[str, int, int]
"""A stage's name, start and end in tokens."""
MOST_NAME_ROWS = 3
"""Rows of stages' names above a picture."""
LABEL_HEIGHT = 15
"""From one name at the ends of lines to the next."""


def safe(value: object) -> str:
    """`value` as text that is safe anywhere in HTML or SVG, also inside an attribute."""
    return html.escape(_UNSAFE.sub("\N{REPLACEMENT CHARACTER}", str(value)), quote=True)


def number(value: float) -> str:
    """A coordinate, to a tenth."""
    shown = f"{value:.1f}".removesuffix(".0")
    return "0" if shown == "-0" else shown


def label(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    """Text at (x, y); `anchor` is start, middle or end."""
    at = f' text-anchor="{anchor}"' if anchor != "start" else ""
    look = f' class="{kind}"' if kind else ""
    return f'<text x="{number(x)}" y="{number(y)}"{at}{look}>{safe(text)}</text>'


@dataclass(slots=True)
class LabelSpace:
    """The free space for labels between `left` and `right`; a label that is placed takes its own from it."""

    left: float
    right: float
    taken: list[tuple[float, float, float, float]] = field(default_factory=list)

    def take(self, left: float, top: float, right: float, bottom: float) -> None:
        """Reserve a rectangle."""
        self.taken.append((left, top, right, bottom))

    def put(self, places: Sequence[tuple[float, float, str]], text: str, kind: str, size: float = 11) -> list[str]:
        """`text` at the first of `places` (x, y, anchor) where it covers nothing; nowhere if there is none."""
        width = text_width(text, size)
        for x, y, anchor in places:
            left = x - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
            box = (left, y - 0.9 * size, left + width, y + 0.25 * size)
            fits = left >= self.left and left + width <= self.right
            if fits and not any(_overlap(box, other) for other in self.taken):
                self.taken.append(box)
                return [label(x, y, text, kind, anchor)]
        return []


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def rect(x: float, y: float, width: float, height: float, kind: str, title: str = "") -> str:
    inside = f"<title>{safe(title)}</title>" if title else ""
    size = f'width="{number(max(0.0, width))}" height="{number(max(0.0, height))}"'
    return f'<rect x="{number(x)}" y="{number(y)}" {size} class="{kind}">{inside}</rect>'


def rule(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}" class="{kind}"/>'


def bend(x: float, y1: float, y2: float, kind: str) -> str:
    """A line down from (`x`, `y1`) that turns right and ends level at `y2`."""
    left, right = number(x), number(x + 10)
    return f'<path d="M{left} {y1} C {left} {y2 - 8}, {left} {y2}, {right} {y2}" class="{kind}"/>'


def polyline(points: Sequence[tuple[float, float]], kind: str) -> str:
    """A line through the points; one point alone is a dot."""
    if len(points) == 1:
        points = [points[0], points[0]]
    path = " ".join(f"{number(x)},{number(y)}" for x, y in points)
    return f'<polyline points="{path}" class="{kind}"/>'


def polygon(points: Sequence[tuple[float, float]], kind: str, fill: str = "") -> str:
    path = " ".join(f"{number(x)},{number(y)}" for x, y in points)
    return f'<polygon points="{path}" class="{kind}"{fill}/>'


def marker(x: float, y: float, style: int, size: float = 3.2, title: str = "") -> str:
    """The dot of a line style: circle, square, triangle or diamond."""
    inside = f"<title>{safe(title)}</title>" if title else ""
    kind = f'class="dot v{style % LINE_STYLES}"'
    if style % LINE_STYLES in (0, 1):
        return f'<circle cx="{number(x)}" cy="{number(y)}" r="{number(size)}" {kind}>{inside}</circle>'
    s = size
    corners = {
        2: [(-s, -s), (s, -s), (s, s), (-s, s)],
        3: [(0, -s * 1.3), (s * 1.2, s), (-s * 1.2, s)],
        4: [(0, -s * 1.4), (s * 1.4, 0), (0, s * 1.4), (-s * 1.4, 0)],
        5: [(0, s * 1.3), (s * 1.2, -s), (-s * 1.2, -s)],
    }[style % LINE_STYLES]
    path = " ".join(f"{number(x + a)},{number(y + b)}" for a, b in corners)
    return f'<polygon points="{path}" {kind}>{inside}</polygon>'


def drawing(key: str, title: str, about: str, width: float, height: float, parts: Sequence[str], kind: str) -> str:
    """A chart with its title and description; `key` makes its ids unique on the page."""
    ids = f'aria-labelledby="{key}-t {key}-d"'
    return (
        f'<svg class="chart {kind}" role="img" {ids} viewBox="0 0 {number(width)} {number(height)}" '
        f'xmlns="http://www.w3.org/2000/svg"><title id="{key}-t">{safe(title)}</title>'
        f'<desc id="{key}-d">{safe(about)}</desc>\n' + "\n".join(parts) + "\n</svg>"
    )


def clipped(x: float, y: float, width: float, height: float, parts: Sequence[str]) -> str:
    """Parts clipped to a rectangle; they keep the picture's coordinates."""
    size = f'x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}"'
    box = f"{number(x)} {number(y)} {number(width)} {number(height)}"
    return f'<svg {size} viewBox="{box}" class="clip">' + "\n".join(parts) + "</svg>"


def picture(title: str, width: float, height: float, parts: Sequence[str]) -> str:
    """A chart in a file of its own, with its style and a white ground, under its title."""
    size = f'viewBox="0 0 {number(width)} {number(height)}" width="{number(width)}" height="{number(height)}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="system-ui, sans-serif" font-size="12" '
        f'role="img"><title>{safe(title)}</title>\n<style>\n{style.standalone()}\n</style>\n'
        f'<rect width="{number(width)}" height="{number(height)}" fill="{style.PAPER_LIGHT}"/>\n'
        + "\n".join([label(16, 22, title, "name"), *parts])
        + "\n</svg>\n"
    )


def token_axis(x: Scale, y: float, most: int) -> list[str]:
    """The axis of tokens at height `y`: a rule, ticks and, below them, round numbers with their unit."""
    parts = [rule(x.start, y, x.end, y, "axis")]
    marks = ticks(x.low, x.high, most)
    for at, tick in enumerate(marks):
        anchor = "end" if x(tick) > x.end - 18 else "start" if x(tick) < x.start + 8 else "middle"
        unit = " tokens" if at == len(marks) - 1 and tick else ""
        parts.append(rule(x(tick), y, x(tick), y + 4, "axis"))
        shown = show_count(round(tick)) + unit
        place = x(tick)
        if unit and anchor == "middle":  # the number is under its tick, the unit after it
            anchor, place = "start", x(tick) - text_width(show_count(round(tick)), 11) / 2
            if place + text_width(shown, 11) > x.end + 40:
                anchor, place = "end", x.end
        parts.append(label(place, y + 17, shown, "tick", anchor))
    return parts


def boundary_axis(x: Scale, y: float, bounds: Sequence[int]) -> list[str]:
    """The axis of tokens at height `y` with ticks at `bounds`; numbers that are close go to lower rows."""
    parts = [rule(x.start, y, x.end, y, "axis")]
    names = [show_count(bound) for bound in bounds]
    placed = rows([(x(bound), text_width(name, 11)) for bound, name in zip(bounds, names, strict=True)])
    for bound, name, row in zip(bounds, names, placed, strict=True):
        parts.append(rule(x(bound), y, x(bound), y + 4, "axis"))
        parts.append(label(x(bound), y + 17 + 13 * row, name, "tick", "middle"))
    return parts


def value_axis(
    y: Scale, left: float, right: float, marks: Sequence[float], show: Callable[[float], str] = "{:g}".format
) -> list[str]:
    """Hairlines across at the marks, with their values to the left."""
    parts = []
    for mark in marks:
        parts.append(rule(left, y(mark), right, y(mark), "grid"))
        parts.append(label(left - 8, y(mark) + 4, show(mark), "tick", "end"))
    return parts


def band_layer(bands: Sequence[Band], x: Scale, top: float, bottom: float) -> list[str]:
    """Stages as bands, each with its extent for the pointer."""
    parts = []
    for at, (name, start, end) in enumerate(bands):
        left, right = x(start), x(end)
        extent = f"{name}: {show_exact(start)} to {show_exact(end)} tokens"
        parts.append(rect(left, top, right - left, bottom - top, "band odd" if at % 2 else "band", extent))
        if at:
            parts.append(rule(left, top, left, bottom, "edge"))
    return parts


def band_names(bands: Sequence[Band], x: Scale, top: float) -> list[str]:
    """The names of the stages above `top`, in rows where they are narrow."""
    parts = []
    labels = _band_labels(bands, x)
    for (name, start, end), (centre, _), row in zip(bands, labels, rows(labels), strict=True):
        if row >= MOST_NAME_ROWS:
            continue  # a table next to the picture has them all
        height = top - 8 - 15 * row
        if row:
            middle = (x(start) + x(end)) / 2
            parts.append(rule(middle, height + 4, middle, top, "edge"))
        parts.append(label(centre, height, name, "stage", "middle"))
    return parts


def band_height(bands: Sequence[Band], x: Scale) -> float:
    """The height that the names of the bands need above them."""
    return 20 + 15 * min(max(rows(_band_labels(bands, x)), default=0), MOST_NAME_ROWS - 1)


def _band_labels(bands: Sequence[Band], x: Scale) -> list[tuple[float, float]]:
    """(centre, width) of the bands' names."""
    widths = [text_width(name, 12) for name, _, _ in bands]
    return [
        (min(max((x(start) + x(end)) / 2, x.start + width / 2), x.end + 40 - width / 2), width)
        for width, (_, start, end) in zip(widths, bands, strict=True)
    ]


def measured_line(points: Sequence[tuple[float, float]], number: int) -> list[str]:
    """A line in a style with a marker at each of its points."""
    return [polyline(points, f"line v{number}"), *(marker(x, y, number, 2.4) for x, y in points)]


def end_labels(ends: Iterable[tuple[float, float, str, int]], edge: float, top: float, bottom: float) -> list[str]:
    """Names right of `edge`, one below the other, each with a thread from its line's end (x, y, name, style)."""
    ends = list(ends)
    parts = []
    for (x, y, name, number), height in zip(
        ends, apart([y for _, y, _, _ in ends], LABEL_HEIGHT, top, bottom), strict=True
    ):
        thread = [(x, y), (edge + 6, y), (edge + 16, height), (edge + 22, height)]
        parts.append(polyline(thread, f"thread v{number}"))
        parts.append(label(edge + 26, height + 4, name, f"value ink v{number}"))
    return parts
