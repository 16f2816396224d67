"""A plan as one SVG that needs nothing else: the rate, the batch, and the stages of every curriculum as bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from curriculum.units import show_count

WIDTH, LEFT, RIGHT, TOP = 900, 124, 24, 40
PANEL, GAP, ROW = 150, 34, 30
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito
FILLS = ("#d6e4f0", "#eef3f8")


def plan_picture(
    title: str, curricula: Mapping[str, Mapping[str, Any]], tree: Sequence[Mapping[str, Any]]
) -> str:
    """The SVG text. `curricula` maps a name to its plan (with `curve`), `tree` lists every stage once."""
    last: int = max(row["position"] for plan in curricula.values() for row in plan["curve"])
    bands = TOP + 2 * (PANEL + GAP)
    height = bands + ROW * len(curricula) + 40

    def x(position: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * position / last

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        ' font-family="system-ui, sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="18" font-size="14" fill="#111">{escape(title)}</text>',
    ]
    edges = sorted({node["ends_at"] for node in tree})
    foot = bands + ROW * len(curricula)
    for edge in edges:
        parts.append(f'<line x1="{x(edge):.1f}" y1="{TOP}" x2="{x(edge):.1f}" y2="{foot}" stroke="#ccc"/>')
    for number, (key, label) in enumerate((("lr", "learning rate"), ("batch_tokens", "tokens a step"))):
        top = TOP + number * (PANEL + GAP)
        parts += _panel(curricula, key, label, top, x)
    names = list(curricula)
    for index, node in enumerate(tree):
        row = bands + ROW * _row(node, names)
        left, right = x(node["starts_at"]), x(node["ends_at"])
        owner = names.index(node["curriculum"]) if node["curriculum"] in names else 0
        parts.append(
            f'<rect x="{left:.1f}" y="{row + 3}" width="{max(1.0, right - left):.1f}" height="{ROW - 6}" '
            f'fill="{FILLS[index % 2]}" stroke="{COLOURS[owner % len(COLOURS)]}"/>'
        )
        if right - left > 7.2 * len(node["stage"]) + 8:
            parts.append(_text(left + 5, row + 19, node["stage"], "start", "#111"))
        parent = next((each for each in tree if _name(each) == node["parent"]), None)
        if parent is not None:
            above = bands + ROW * _row(parent, names)
            if above < row:
                parts.append(
                    f'<line x1="{left:.1f}" y1="{above + ROW - 3}" x2="{left:.1f}" y2="{row + 3}" stroke="#555"/>'
                )
    for number, name in enumerate(names):
        own = [x(node["starts_at"]) for node in tree if _row(node, names) == number]
        left = min(own, default=float(LEFT))
        parts.append(_text(left - 6, bands + ROW * number + 19, name, "end", COLOURS[number % len(COLOURS)]))
    foot += 14
    shown = -100.0
    for edge in edges:
        if x(edge) - shown > 40:
            parts.append(_text(x(edge), foot, show_count(edge), "middle", "#555"))
            shown = x(edge)
    parts.append(_text(LEFT, foot + 18, "tokens from the root", "start", "#555"))
    parts.append("</svg>")
    return "\n".join(part for part in parts if part) + "\n"


def _row(node: Mapping[str, Any], names: Sequence[str]) -> int:
    """The row of a stage: that of the first curriculum that goes through it."""
    return min(names.index(name) for name in node["lineages"])


def _panel(curricula: Mapping[str, Mapping[str, Any]], key: str, label: str, top: int, x: Any) -> list[str]:
    most = max(row[key] for plan in curricula.values() for row in plan["curve"])
    parts = [
        f'<line x1="{LEFT}" y1="{top + PANEL}" x2="{WIDTH - RIGHT}" y2="{top + PANEL}" stroke="#999"/>',
        _text(LEFT - 6, top + 10, f"{most:.3g}" if key == "lr" else show_count(most), "end", "#555"),
        _text(LEFT - 6, top + PANEL, "0", "end", "#555"),
        _text(LEFT, top - 5, label, "start", "#555"),
    ]
    drawn: list[list[Any]] = []
    for number, plan in enumerate(curricula.values()):
        shape = [(row["position"], row[key]) for row in plan["curve"]]
        if shape in drawn:
            continue
        drawn.append(shape)
        points: list[str] = []
        before = 0.0
        for row in plan["curve"]:
            y = top + PANEL * (1 - row[key] / most)
            if key != "lr" or not points:
                points.append(f"{x(before):.1f},{y:.1f}")
            points.append(f"{x(row['position']):.1f},{y:.1f}")
            before = row["position"]
        if key == "lr":
            points[0] = f"{x(0):.1f},{top + PANEL * (1 - plan['curve'][0][key] / most):.1f}"
        dash = f' stroke-dasharray="{6 + 2 * number} {2 * number}"' if number else ""
        parts.append(
            f'<polyline points="{" ".join(points)}" fill="none" stroke="{COLOURS[number % len(COLOURS)]}"'
            f' stroke-width="2"{dash}/>'
        )
    return parts


def _name(node: Mapping[str, Any]) -> str:
    return f"{node['curriculum']}/{node['stage']}"


def _text(x: float, y: float, text: str, anchor: str, fill: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}">{escape(text)}</text>'
