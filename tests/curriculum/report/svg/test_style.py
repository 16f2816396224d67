"""The palette: distinguished by any eyes, on light and on dark, by more than colour."""

from __future__ import annotations

from itertools import combinations

import pytest

from curriculum.report.html import page
from curriculum.report.svg import style
from curriculum.report.svg.shapes import LINE_STYLES, SOURCE_STYLES

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB
EYES = {
    "usual": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
PALETTES = {
    "sources on light": (style.SOURCES_LIGHT, style.PAPER_LIGHT),
    "sources on dark": (style.SOURCES_DARK, style.PAPER_DARK),
    "lines on light": (style.LINES_LIGHT, style.PAPER_LIGHT),
    "lines on dark": (style.LINES_DARK, style.PAPER_DARK),
}


def linear(colour: str) -> list[float]:
    values = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    return [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]


def oklab(rgb: list[float]) -> list[float]:
    """Ottosson 2020, in which equal distances look about equally far."""
    r, g, b = (max(0.0, v) for v in rgb)
    lms = (
        0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b,
        0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b,
        0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b,
    )
    l, m, s = (v ** (1 / 3) for v in lms)  # noqa: E741
    return [
        0.2104542553 * l + 0.7936177850 * m - 0.0040720468 * s,
        1.9779984951 * l - 2.4285922050 * m + 0.4505937099 * s,
        0.0259040371 * l + 0.7827717662 * m - 0.8086757660 * s,
    ]


def seen(colour: str, eyes: str) -> list[float]:
    rgb = linear(colour)
    return oklab([sum(row[i] * rgb[i] for i in range(3)) for row in EYES[eyes]])


@pytest.mark.parametrize("eyes", EYES)
@pytest.mark.parametrize("palette", PALETTES)
def test_the_first_four_colours_are_distinguished_with_any_eyes(palette: str, eyes: str) -> None:
    colours = PALETTES[palette][0][:4]
    for one, other in combinations(colours, 2):
        distance = sum((a - b) ** 2 for a, b in zip(seen(one, eyes), seen(other, eyes), strict=True)) ** 0.5
        assert distance > 0.07, f"{one} and {other}: {distance:.3f}"


@pytest.mark.parametrize("palette", PALETTES)
def test_every_colour_stands_out_from_the_paper(palette: str) -> None:
    colours, paper = PALETTES[palette]
    for colour in colours:
        light = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in (linear(colour), linear(paper))]
        high, low = max(light), min(light)
        assert (high + 0.05) / (low + 0.05) >= 3


def test_styles_differ_by_dash_or_marker_and_texture_too() -> None:
    assert len(style.SOURCES_LIGHT) == len(style.SOURCES_DARK) == SOURCE_STYLES
    assert len(style.LINES_LIGHT) == len(style.LINES_DARK) == len(style.DASHES) == LINE_STYLES
    assert len(set(style.DASHES[1:])) == LINE_STYLES - 1
    assert style.TEXTURES.count("<pattern") == SOURCE_STYLES - 2  # all but the first and the others together


def test_no_rule_of_the_sheet_is_left_open() -> None:
    depth = 0
    for character in page.SHEET:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    for forbidden in ("url(", "@import", "http"):
        assert forbidden not in page.SHEET
