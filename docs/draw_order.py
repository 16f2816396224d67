"""Draws the pictures of docs/order.md from the functions they are about: `python docs/draw_order.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from curriculum.plan.mixing import Ramp, Tree
from curriculum.plan.permutation import Permutation, rotation

FOLDER = Path(__file__).parent / "pictures"
NAMES = ("slimpajama", "starcoder", "proof-pile")
COLOURS = dict(zip(NAMES, ("#0072b2", "#e69f00", "#009e73"), strict=True))
INK, QUIET, PAPER = "#1f2328", "#59636e", "#ffffff"


def svg(width: int, height: int, title: str, parts: list[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        f' font-family="system-ui, sans-serif" font-size="13" role="img"><title>{title}</title>'
        f'<rect width="{width}" height="{height}" rx="8" fill="{PAPER}"/>'
    )
    return "\n".join([head, *parts, "</svg>\n"])


def text(x: float, y: float, words: str, *, fill: str = INK, anchor: str = "start", size: int = 13) -> str:
    return f'<text x="{x:g}" y="{y:g}" fill="{fill}" text-anchor="{anchor}" font-size="{size}">{words}</text>'


def cell(x: float, y: float, width: float, height: float, fill: str, opacity: float = 1) -> str:
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="2" fill="{fill}" '
        f'fill-opacity="{opacity:.3g}"/>'
    )


def legend(x: float, y: float) -> list[str]:
    parts = []
    for name in NAMES:
        parts += [cell(x, y - 10, 12, 12, COLOURS[name]), text(x + 17, y, name, fill=QUIET)]
        x += 40 + 7.2 * len(name)
    return parts


def draws() -> str:
    """The first 80 sequences of a constant mixture, and how far each count is from its exact share."""
    tree = Tree({"slimpajama": 75, "starcoder": 15, "proof-pile": 10})
    source, _ = tree.draw(np.arange(80))
    parts = legend(20, 28)
    for i, number in enumerate(source):
        row, column = divmod(i, 20)
        parts.append(cell(20 + 30 * column, 46 + 30 * row, 26, 26, COLOURS[tree.names[number]]))
    for row in range(4):
        counts = tree.counts(20 * (row + 1))
        words = " · ".join(f"{counts[name]}" for name in NAMES)
        exact = " · ".join(f"{20 * (row + 1) * tree.weights[name] / tree.total:g}" for name in NAMES)
        parts.append(text(632, 58 + 30 * row, f"{words}", size=12))
        parts.append(text(632, 71 + 30 * row, f"exact {exact}", fill=QUIET, size=10))
    return svg(760, 178, "The first 80 sequences of a mixture 75 : 15 : 10", parts)


def ramp() -> str:
    """A ramp from one source alone to the mixture, over 80 sequences."""
    before, after = Tree({"slimpajama": 1}), Tree({"slimpajama": 75, "starcoder": 15, "proof-pile": 10})
    moved = Ramp(before, 0, after, 80)
    source, _ = moved.draw(np.arange(80))
    parts = legend(20, 28)
    for i, number in enumerate(source):
        parts.append(cell(20 + 9 * i, 44, 8, 34, COLOURS[moved.names[number]]))
    top, height = 96, 110
    x = [20 + 9 * i for i in range(81)]
    for name in NAMES[1:]:
        counts = [moved.counts(i).get(name, 0) for i in range(81)]
        share = after.weights[name] / after.total
        ideal = [share * i * i / 160 for i in range(81)]
        line = " ".join(
            f"{a:.1f},{top + height - 16 * b:.1f} {a + 9:.1f},{top + height - 16 * b:.1f}"
            for a, b in zip(x, counts, strict=True)
        )
        curve = " ".join(f"{a:.1f},{top + height - 16 * b:.1f}" for a, b in zip(x, ideal, strict=True))
        parts.append(f'<polyline points="{curve}" fill="none" stroke="{COLOURS[name]}" stroke-dasharray="3 4"/>')
        parts.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[name]}" stroke-width="2"/>')
    parts.append(text(20, top + height + 22, "sequences drawn so far (dashed: the exact line)", fill=QUIET, size=12))
    return svg(780, 240, "A ramp over 80 sequences", parts)


def passes() -> str:
    """The same 100 windows in two passes; the darker, the later it is read."""
    parts = []
    for number in range(2):
        order = Permutation(100, seed=3407, source="slimpajama", pass_number=number, segment="0")
        when = np.empty(100, int)
        when[order(np.arange(100))] = np.arange(100)
        left = 20 + 330 * number
        parts.append(text(left, 28, f"pass {number}"))
        for window in range(100):
            row, column = divmod(window, 10)
            x, y = left + 30 * column, 42 + 22 * row
            parts.append(cell(x, y, 28, 20, "#0072b2", 0.08 + 0.72 * when[window] / 99))
            ink = "#ffffff" if when[window] > 55 else INK
            parts.append(text(x + 14, y + 14, str(when[window]), fill=ink, anchor="middle", size=10))
    parts.append(
        text(20, 286, "each square is a window of a source; the number says when it is read", fill=QUIET, size=12)
    )
    return svg(680, 302, "Two passes over one source", parts)


def lineage() -> str:
    """The positions of three curricula in one source."""
    rows = [("v1.1/basic", 0, 330, 0), ("v1.1 goes on", 330, 440, 1), ("v1.1-math-code", 330, 412, 1)]
    parts = [text(150, 28, "windows of slimpajama, in the order of the pass", fill=QUIET, size=12)]
    for row, (name, begin, end, level) in enumerate(rows):
        y = 44 + 38 * row
        parts.append(text(20, y + 17, name))
        parts.append(cell(150, y, 560, 26, "#eef1f4"))
        parts.append(cell(150 + begin, y, end - begin, 26, "#0072b2" if not level else "#56b4e9"))
    parts.append('<line x1="480" y1="40" x2="480" y2="152" stroke="#d55e00" stroke-dasharray="4 3"/>')
    parts.append(
        text(
            474, 172, "the branch point: no variant reads again what the trunk read", fill=QUIET, anchor="end", size=12
        )
    )
    return svg(760, 186, "A source goes on where the lineage left it", parts)


def ranks() -> str:
    """One step's sixteen slots on one, two and four processes."""
    tree = Tree({"slimpajama": 75, "starcoder": 15, "proof-pile": 10})
    shift = rotation(3407, 7, 16)
    sequences = [7 * 16 + (slot + shift) % 16 for slot in range(16)]
    source, _ = tree.draw(np.array(sequences))
    parts = legend(20, 28)
    for row, count in enumerate((1, 2, 4)):
        y = 48 + 44 * row
        parts.append(text(20, y + 19, f"{count} process{'es' if count > 1 else ''}"))
        for slot in range(16):
            gap = slot * count // 16 * 12
            x = 130 + 34 * slot + gap
            parts.append(cell(x, y, 31, 28, COLOURS[tree.names[source[slot]]]))
            parts.append(text(x + 15, y + 18, str(sequences[slot]), fill="#ffffff", anchor="middle", size=11))
    return svg(740, 184, "A step on one, two and four processes", parts)


PICTURES = {"draws": draws, "ramp": ramp, "passes": passes, "lineage": lineage, "ranks": ranks}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        (FOLDER / f"order-{name}.svg").write_text(draw())


if __name__ == "__main__":
    main()
