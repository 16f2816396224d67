"""SVG as small as a word: swatches of legends, and the bar of a share in a table."""

from __future__ import annotations

from collections.abc import Sequence

from curriculum.report.svg import shapes
from curriculum.report.svg.scale import Scale


def area(style: int, textured: bool) -> str:
    """The colour of a source, with its texture where charts draw it so."""
    parts = [f'<rect width="15" height="13" class="area s{style}"/>']
    if textured:
        parts.append(f'<rect width="15" height="13" fill="url(#texture{style})"/>')
    return _inline(15, 13, "swatch", parts)


def line(style: int) -> str:
    """The stroke and the marker of a line style."""
    return _inline(30, 12, "stroke", [shapes.rule(0, 6, 30, 6, f"line v{style}"), shapes.marker(15, 6, style, 3)])


def marker(style: int) -> str:
    """The marker of a line style."""
    return _inline(15, 13, "swatch", [shapes.marker(7.5, 6.5, style, 4)])


def share_bar(planned: float, trained: float, style: int) -> str:
    """A share as trained, with a tick where it was planned; the numbers are next to it."""
    x = Scale(0, 1, 0, 120)
    parts = [
        shapes.rect(0, 4, 120, 6, "track"),
        shapes.rect(0, 4, x(trained), 6, f"area solid s{style}"),
        shapes.rect(x(planned) - 0.5, 1, 2, 12, "planned"),
    ]
    return _inline(122, 14, "bar", parts)


def _inline(width: int, height: int, kind: str, parts: Sequence[str]) -> str:
    """A picture that screen readers leave out: the text next to it says the same."""
    return f'<svg class="{kind}" viewBox="0 0 {width} {height}" aria-hidden="true">{"".join(parts)}</svg>'
