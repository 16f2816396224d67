"""Charts of a study: the shares of its arms, laws beside what was measured, and verdicts with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from curriculum.report.html.study_data import Cooldown, LawPanel, LawPoint
from curriculum.report.svg import shapes
from curriculum.report.svg.scale import Scale, text_width, ticks
from curriculum.studies.verdict_words import goal_words
from curriculum.studies.verdicts import Verdict
from curriculum.units import counted

STYLES: Final = {"swarm": 0, "control": 2, "proposal": 3}
"""The line style, so the marker, of each role."""
PREDICTED: Final = 4
"""The style of what a law predicts."""
PANEL = 420
MOST_STRIPS = 16
Point = tuple[str, str, Mapping[str, float]]
"""An arm: its name, its role and its shares."""


def shares(points: Sequence[Point], sources: Sequence[str], key: str) -> str:
    """The shares of all arms: a triangle of three sources, else a line for each source."""
    return _triangle(points, sources, key) if len(sources) == 3 else _strips(points, sources, key)


def _shown(name: str, shares_of: Mapping[str, float], sources: Sequence[str]) -> str:
    return f"{name}: " + ", ".join(f"{source} {100 * shares_of.get(source, 0.0):.3g} %" for source in sources)


def _triangle(points: Sequence[Point], sources: Sequence[str], key: str) -> str:
    left, right, top, bottom = 30.0, PANEL - 30.0, 34.0, 346.0
    corners = ((left, bottom), (right, bottom), ((left + right) / 2, top))

    def at(parts: Sequence[float]) -> tuple[float, float]:
        total = sum(parts) or 1.0
        return (
            sum(part * x for part, (x, _) in zip(parts, corners, strict=True)) / total,
            sum(part * y for part, (_, y) in zip(parts, corners, strict=True)) / total,
        )

    drawn = [shapes.polygon(corners, "band")]
    for share in (0.25, 0.5, 0.75):
        for one in range(3):
            ends = []
            for other in range(3):
                if other != one:
                    parts = [0.0, 0.0, 0.0]
                    parts[one], parts[other] = share, 1 - share
                    ends.append(at(parts))
            drawn.append(shapes.rule(*ends[0], *ends[1], "grid"))
    for (x, y), (next_x, next_y) in zip(corners, (*corners[1:], corners[0]), strict=True):
        drawn.append(shapes.rule(x, y, next_x, next_y, "axis"))
    first, second = f"all {sources[0]}", f"all {sources[1]}"
    lower = 14 if text_width(first + second, 11) > PANEL - 40 else 0  # long names are in two rows
    drawn.append(shapes.label(left - 20, bottom + 20, first, "tick"))
    drawn.append(shapes.label(right + 20, bottom + 20 + lower, second, "tick", "end"))
    drawn.append(shapes.label((left + right) / 2, top - 12, f"all {sources[2]}", "tick", "middle"))
    for name, role, of in sorted(points, key=lambda point: STYLES[point[1]]):
        x, y = at([of.get(source, 0.0) for source in sources])
        drawn.append(shapes.marker(x, y, STYLES[role], 4, _shown(name, of, sources)))
    about = f"{len(points)} mixtures of {', '.join(sources)}; each corner is one source alone, lines are quarters."
    return shapes.drawing(key, "Shares of the arms", about, PANEL, bottom + 32 + lower, drawn, "panel")


def _strips(points: Sequence[Point], sources: Sequence[str], key: str) -> str:
    named = list(sources[:MOST_STRIPS])
    x = Scale(0, max((of.get(source, 0.0) for _, _, of in points for source in named), default=1.0), 20, PANEL - 30)
    drawn: list[str] = []
    for row, source in enumerate(named):
        y = 34.0 + 40 * row
        drawn.append(shapes.label(x.start, y - 12, source, "row"))
        drawn.append(shapes.rule(x.start, y, x.end, y, "axis"))
        for name, role, of in sorted(points, key=lambda point: STYLES[point[1]]):
            drawn.append(shapes.marker(x(of.get(source, 0.0)), y, STYLES[role], 4, _shown(name, of, [source])))
    bottom = 34.0 + 40 * (len(named) - 1)
    for mark in ticks(x.low, x.high, 5):
        drawn.append(shapes.rule(x(mark), bottom + 6, x(mark), bottom + 10, "axis"))
        drawn.append(shapes.label(x(mark), bottom + 23, f"{100 * mark:g} %", "tick", "middle"))
    about = f"The share of each source in {len(points)} mixtures, a line for each source."
    return shapes.drawing(key, "Shares of the arms", about, PANEL, bottom + 30, drawn, "panel")


def law(panel: LawPanel, of: str | None, key: str) -> str:
    """Measured losses over what the law predicts, nats; of a line of shares, over the share of the source `of`."""
    line = panel.curve if of is not None else ()
    half = panel.half_width or 0.0
    heights = [value for point in panel.points for value in (point.loss, point.predicted)]
    heights += [loss for _, loss in line]
    margin = 0.06 * (max(heights) - min(heights) or 1.0) + half
    low, high = min(heights) - margin, max(heights) + margin
    top, bottom = 34.0, 300.0
    y = Scale(low, high, bottom, top)
    if of is None:
        x = Scale(low, high, 46, PANEL - 14)
        middle = [(low, low), (high, high)]
    else:
        x = Scale(0, max(point.shares.get(of, 0.0) for point in panel.points) * 1.04, 46, PANEL - 14)
        middle = list(line)
    inside = []
    if half and middle:
        upper = [(x(at), y(loss + half)) for at, loss in middle]
        lower = [(x(at), y(loss - half)) for at, loss in reversed(middle)]
        inside.append(shapes.polygon([*upper, *lower], "batch"))
    inside.append(shapes.polyline([(x(at), y(loss)) for at, loss in middle], "line ink"))
    parts = [shapes.label(x.start, 21, panel.report.source, "name")]
    parts += shapes.value_axis(y, x.start, x.end, ticks(low, high, 5))
    parts.append(shapes.clipped(x.start, top, x.end - x.start, bottom - top, inside))
    parts.append(shapes.rule(x.start, bottom, x.end, bottom, "axis"))
    for mark in ticks(x.low, x.high, 5):
        parts.append(shapes.rule(x(mark), bottom, x(mark), bottom + 4, "axis"))
        text = f"{mark:g}" if of is None else f"{100 * mark:g} %"
        parts.append(shapes.label(x(mark), bottom + 17, text, "tick", "middle"))
    words = "predicted by the law" if of is None else f"share of {of}"
    parts.append(shapes.label(x.end, bottom + 32, words, "tick", "end"))
    for point in sorted(panel.points, key=lambda point: STYLES[point.role]):
        at = point.predicted if of is None else point.shares.get(of, 0.0)
        parts.append(shapes.marker(x(at), y(point.loss), STYLES[point.role], 3.4, _law_words(point)))
    about = (
        f"Measured held-out loss on {panel.report.source} of {counted(len(panel.points), 'arm')} over {words}, nats a "
        f"token; the line is the law" + (f", the band ±{half:.3f}, {panel.interval}." if half else ".")
    )
    return shapes.drawing(key, f"Law of {panel.report.source}", about, PANEL, bottom + 38, parts, "panel")


def cooldown(measured: Cooldown, key: str) -> str:
    """Losses of a grid over the effective rate, in powers of two; a marker for each batch, the law a line."""
    rates = [math.log2(effective) for _, _, effective, _ in measured.points]
    heights = [loss for *_, loss in measured.points] + [loss for _, loss in measured.curve]
    margin = 0.06 * (max(heights) - min(heights) or 1.0)
    top, bottom = 34.0, 300.0
    y = Scale(min(heights) - margin, max(heights) + margin, bottom, top)
    x = Scale(min(rates) - 0.15, max(rates) + 0.15, 46, PANEL - 14)
    parts = [shapes.label(x.start, 21, "mean of lower", "name")]
    parts += shapes.value_axis(y, x.start, x.end, ticks(y.low, y.high, 5))
    if measured.curve:
        line = shapes.polyline([(x(math.log2(at)), y(loss)) for at, loss in measured.curve], "line ink")
        parts.append(shapes.clipped(x.start, top, x.end - x.start, bottom - top, [line]))
    parts.append(shapes.rule(x.start, bottom, x.end, bottom, "axis"))
    for power in range(math.ceil(x.low), math.floor(x.high) + 1):
        parts.append(shapes.rule(x(power), bottom, x(power), bottom + 4, "axis"))
        parts.append(shapes.label(x(power), bottom + 17, f"x{2.0**power:g}", "tick", "middle"))
    words = f"rate / batch^{measured.exponent:.2f}" if measured.curve else "rate"
    words += ", of the first arm's"
    parts.append(shapes.label(x.end, bottom + 32, words, "tick", "end"))
    for arm, batch, effective, loss in measured.points:
        tooltip = f"{arm}: batch {batch:g}, {words} x{effective:.3g}: {loss:.4f} nats a token"
        parts.append(shapes.marker(x(math.log2(effective)), y(loss), batch_style(measured, batch), 4, tooltip))
    arms = counted(len(measured.points), "arm")
    about = f"Mean held-out loss of {arms} over {words}, nats a token; a marker for each batch."
    return shapes.drawing(key, "Rate and batch of the arms", about, PANEL, bottom + 38, parts, "panel")


def batch_style(measured: Cooldown, batch: float) -> int:
    """The style of the markers of a batch: by size, from the smallest."""
    return sorted({each for _, each, _, _ in measured.points}).index(batch) % shapes.LINE_STYLES


def _law_words(point: LawPoint) -> str:
    return f"{point.arm}: measured {point.loss:.4f}, law {point.predicted:.4f} nats a token"


def verdicts(judged: Sequence[Verdict], width: int, key: str) -> str:
    """A row for each verdict: the measured difference with its 95% interval, what was predicted, and the limit."""
    narrow = width < 600
    left, right = 20.0, width - 20.0
    values = [0.0, *(value for verdict in judged for value in _values(verdict))]
    margin = 0.06 * (max(values) - min(values) or 0.1)
    x = Scale(min(values) - margin, max(values) + margin, left, right)
    bottom = 14.0 + 44 * len(judged)
    parts = []
    for mark in ticks(x.low, x.high, 4 if narrow else 8):
        parts.append(shapes.rule(x(mark), 8, x(mark), bottom, "axis" if mark == 0 else "grid"))
        parts.append(shapes.label(x(mark), bottom + 15, f"{mark:+g}" if mark else "0", "tick", "middle"))
    for row, verdict in enumerate(judged):
        y = 14.0 + 44 * row + 30
        limit = verdict.slack if verdict.goal == "keep" else 0.0
        parts.append(shapes.label(left, y - 15, f"{_held_against(verdict)}: {verdict.word}", "row"))
        parts.append(shapes.rule(x(limit), y - 8, x(limit), y + 8, "line v0"))
        if verdict.predicted is not None:
            tooltip = f"predicted {verdict.predicted:+.4f}"
            parts.append(shapes.marker(x(verdict.predicted), y, PREDICTED, 4, tooltip))
        difference = verdict.difference
        if difference is None:
            continue
        if difference.low is not None and difference.high is not None:
            parts.append(shapes.rule(x(difference.low), y, x(difference.high), y, "line ink"))
        tooltip = f"measured {difference.mean:+.4f} in {counted(difference.runs, 'run')}"
        parts.append(shapes.marker(x(difference.mean), y, STYLES["proposal"], 4, tooltip))
    parts.append(shapes.label(right, bottom + 31, "difference in nats a token", "tick", "end"))
    about = "; ".join(f"{_held_against(verdict)}: {verdict.word}" for verdict in judged)
    kind = "narrow" if narrow else "wide"
    return shapes.drawing(key, "Verdicts with 95% intervals", f"{about}.", width, bottom + 36, parts, kind)


def _held_against(verdict: Verdict) -> str:
    words = goal_words(verdict)
    return f"{words} than {verdict.against}" if verdict.goal == "lower" else words


def _values(verdict: Verdict) -> list[float]:
    difference = verdict.difference
    values = [verdict.predicted, verdict.slack if verdict.goal == "keep" else None]
    values += [] if difference is None else [difference.mean, difference.low, difference.high]
    return [value for value in values if value is not None]
