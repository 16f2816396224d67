"""A plan as one SVG file: learning rate, batch, and the stages of every curriculum as boxes on one token axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from curriculum.report.svg import shapes
from curriculum.report.svg.scale import Scale, text_width, ticks
from curriculum.units import show_count

WIDTH, LEFT, RIGHT, TOP = 900, 124, 24, 52
PANEL, GAP, ROW = 150, 34, 30


def plan_picture(title: str, curricula: Mapping[str, Mapping[str, Any]], tree: Sequence[Mapping[str, Any]]) -> str:
    """The SVG text. `curricula` maps a name to its plan (with `curve`), `tree` lists every stage once."""
    names = list(curricula)
    x = Scale(0, max(row["position"] for plan in curricula.values() for row in plan["curve"]), LEFT, WIDTH - RIGHT)
    boxes = TOP + 2 * (PANEL + GAP)
    foot = boxes + ROW * len(names)
    ends = sorted({node["ends_at"] for node in tree})
    parts = [shapes.rule(x(end), TOP, x(end), foot, "edge") for end in ends]
    parts += _panel(curricula, "lr", "learning rate", TOP, x)
    parts += _panel(curricula, "batch_tokens", "tokens a step", TOP + PANEL + GAP, x)
    top = {
        f"{node['curriculum']}/{node['stage']}": boxes + ROW * min(names.index(name) for name in node["lineages"])
        for node in tree
    }  # the row of a stage is that of the first curriculum that goes through it
    starts: dict[float, float] = {}
    for node in tree:
        row = top[f"{node['curriculum']}/{node['stage']}"]
        left, right = x(node["starts_at"]), x(node["ends_at"])
        starts[row] = min(left, starts.get(row, left))
        owner = names.index(node["curriculum"]) if node["curriculum"] in names else 0
        parts.append(shapes.rect(left, row + 3, max(1.0, right - left), ROW - 6, f"box {_style(owner)}"))
        if right - left > text_width(node["stage"]) + 8:
            parts.append(shapes.label(left + 5, row + 19, node["stage"], "stage"))
        if top.get(node["parent"], row) < row:
            parts.append(shapes.rule(left, top[node["parent"]] + ROW - 3, left, row + 3, "edge"))
    for number, name in enumerate(names):
        row = boxes + ROW * number
        kind = f"value ink {_style(number)}"
        parts.append(shapes.label(starts.get(row, LEFT) - 6, row + 19, name, kind, "end"))
    parts += shapes.boundary_axis(x, foot, [0, *ends])
    parts.append(shapes.label(LEFT, foot + 40, "tokens from the root", "tick"))
    return shapes.picture(title, WIDTH, foot + 52, parts)


def _style(curriculum: int) -> str:
    return f"v{1 + curriculum % (shapes.LINE_STYLES - 1)}"


def _panel(curricula: Mapping[str, Mapping[str, Any]], key: str, name: str, top: float, x: Scale) -> list[str]:
    """One quantity over the tokens, the rate as a curve, the batch as stairs; each curve that several share once."""
    curves = [[(row["position"], row[key]) for row in plan["curve"]] for plan in curricula.values()]
    most = max(value for curve in curves for _, value in curve)
    y = Scale(0, most, top + PANEL, top)
    show = "{:.3g}".format if key == "lr" else lambda value: show_count(round(value))
    parts = [shapes.label(LEFT, top - 6, name, "row")]
    parts += shapes.value_axis(
        y, x.start, x.end, [*(tick for tick in ticks(0, most, 3) if tick < 0.9 * most), most], show
    )
    for number, curve in enumerate(curves):
        if curve in curves[:number]:
            continue
        starts = [0, *(position for position, _ in curve[:-1])]
        if key == "lr":
            points = [(0, curve[0][1]), *curve]
        else:
            points = [(at, value) for start, (end, value) in zip(starts, curve, strict=True) for at in (start, end)]
        parts.append(shapes.polyline([(x(at), y(value)) for at, value in points], f"line {_style(number)}"))
    return parts
