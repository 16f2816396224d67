"""The style of charts: colours for any colour vision, on light and on dark; the rules are in `chart.css`."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Final

# At least 3:1 against the paper, 4.5:1 for lines, whose labels bear their colour; distinguishable with any eyes
# (tests/curriculum/report/svg/test_style.py measures it).
SOURCES_LIGHT: Final = ("#4177de", "#ba3c13", "#177751", "#73399c", "#9d873a", "#209eba", "#d56ea1", "#6b7280")
SOURCES_DARK: Final = ("#5686e2", "#d9684a", "#7de899", "#eabafe", "#cba31a", "#56b2c6", "#b1738e", "#9aa4b2")
LINES_LIGHT: Final = ("#4b5563", "#1965ce", "#a9470f", "#0a4d22", "#612982", "#7d1252")
LINES_DARK: Final = ("#aab4c2", "#7ba0f2", "#fa9840", "#a3f2b9", "#e3c2ff", "#e27a9e")
PAPER_LIGHT: Final = "#ffffff"
PAPER_DARK: Final = "#12161c"
OTHERS: Final = {
    "paper": (PAPER_LIGHT, PAPER_DARK),
    "ink": ("#171b21", "#e8ebef"),
    "soft": ("#4a5462", "#b3bcc8"),
    "faint": ("#5d6877", "#98a3b1"),
    "wash": ("#f6f7f9", "#1a1f27"),
    "band": ("#f4f6f8", "#181d24"),
    "odd": ("#e9edf2", "#20262f"),
    "hair": ("#dfe3e9", "#2c343f"),
    "edge": ("#b4bdc9", "#4c5766"),
    "link": ("#0b5cad", "#8cc0ff"),
    "note": ("#fff6e0", "#2a2412"),
    "note-edge": ("#d9a21b", "#b98a1e"),
}
"""On light and on dark, by the name of the CSS variable."""
DASHES: Final = ("", "", "7 3", "2 3", "9 3 2 3", "4 2")


def _variables(ground: int, sources: tuple[str, ...], lines: tuple[str, ...]) -> str:
    named = {name: colours[ground] for name, colours in OTHERS.items()}
    named |= {f"s{n}": colour for n, colour in enumerate(sources)}
    named |= {f"v{n}": colour for n, colour in enumerate(lines)}
    return ";".join(f"--{name}:{value}" for name, value in named.items())


_LIGHT, _DARK = _variables(0, SOURCES_LIGHT, LINES_LIGHT), _variables(1, SOURCES_DARK, LINES_DARK)
_STYLES = "\n".join(
    [f".s{n}{{--c:var(--s{n})}}" for n in range(len(SOURCES_LIGHT))]
    + [f".v{n}{{--c:var(--v{n})" + (f";stroke-dasharray:{dash}" if dash else "") + "}" for n, dash in enumerate(DASHES)]
)

_RULES = files(__package__).joinpath("chart.css").read_text(encoding="utf-8")

PAGE: Final = (
    f":root{{color-scheme:light dark;{_LIGHT}}}\n"
    f"@media screen and (prefers-color-scheme:dark){{:root{{{_DARK}}}}}\n{_STYLES}\n{_RULES}"
)
"""Colours and rules of the charts of a page."""


def standalone() -> str:
    """Rules of a picture in a file of its own, light, its colours literal: converters may know no CSS variables."""
    colours = {name: light for name, (light, _) in OTHERS.items()}
    rules = [f".v{n}{{stroke-dasharray:{dash}}}" for n, dash in enumerate(DASHES) if dash]
    for selectors, body in re.findall(r"([^{}/]+)\{([^{}]*)\}", _RULES):
        literal = re.sub(r"var\(--([a-z-]+)\)", lambda name: colours.get(name[1], name[0]), body)
        if "var(--c)" not in literal:
            rules.append(f"{selectors.strip()}{{{literal}}}")
            continue
        for n, colour in enumerate(LINES_LIGHT):
            kinds = ",".join(f"{selector.strip()}.v{n}" for selector in selectors.split(","))
            rules.append(f"{kinds}{{{literal.replace('var(--c)', colour)}}}")
    return "\n".join(rules)


TEXTURES: Final = "".join(
    f'<pattern id="texture{number}" width="{size}" height="{size}" patternUnits="userSpaceOnUse">{inside}</pattern>'
    for number, size, inside in (
        (1, 6, '<path d="M-1,7 L7,-1 M-1,1 L1,-1 M5,7 L7,5" class="mesh"/>'),
        (2, 6, '<circle cx="3" cy="3" r="1" class="mesh spots"/>'),
        (3, 6, '<path d="M-1,-1 L7,7 M5,-1 L7,1 M-1,5 L1,7" class="mesh"/>'),
        (4, 5, '<path d="M0,2.5 H5" class="mesh"/>'),
        (5, 5, '<path d="M2.5,0 V5" class="mesh"/>'),
        (6, 6, '<path d="M0,3 H6 M3,0 V6" class="mesh"/>'),
    )
)
"""Second channel of the areas, after colour."""
