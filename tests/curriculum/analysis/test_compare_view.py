"""What `compare` shows of variants: tables, JSON, the picture, and the same figures in a report."""

from __future__ import annotations

import io
import itertools
import json
import math
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparisons import FULL, NAMES, comparison
from rich.console import Console

from curriculum.analysis import claims
from curriculum.analysis.compare import Comparison, Row
from curriculum.cli.view.compare import broken, compare_view
from curriculum.config.project import Project
from curriculum.report.html import write
from curriculum.report.svg import shapes
from curriculum.runs.measurements import Point
from curriculum.units import show_exact

HTML = "{http://www.w3.org/1999/xhtml}"
Curriculum = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.parametrize("width", [80, 140])
def test_the_tables_fit_the_console_and_lose_nothing(filled: Path, width: int) -> None:
    found = comparison(filled)
    console = Console(width=width, highlight=False, record=True, file=io.StringIO())
    console.print(compare_view(found, claims.check_claims(found), ["a note"], width))
    text = console.export_text()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "…" not in text
    for row in found.rows:
        for number, point in enumerate(row.points):
            loss = found.loss(point, "prose")
            assert row.ends is None or loss is None or f"{loss:.4f}" in text
            figure = found.difference(point, row.points[0], "prose") if number else None
            if row.ends and figure is not None and point != row.points[0]:
                assert f"{figure.mean:+.4f} ±{figure.error:.4f}" in text
    assert "a note" in text


def with_figures_of_its_own(found: Comparison) -> Comparison:
    """The comparison with made-up losses, so that what is shown of them is the same on every machine."""
    nats = {"prose": 3.0, "code": 6.0}
    shift = {"trunk": (0.0, 0.0), "variant": (0.02, -2.0), "control": (0.002, -2.1)}

    def entry(point: Point, source: str) -> dict[str, Any]:
        loss = nats[source] - point.position / 12288 + shift[point.stage.split("/")[0]][source == "code"]
        wobble = [0.5 * math.sin(k) + 0.03 * math.cos(3 * k + point.position + len(point.stage)) for k in range(24)]
        return {
            "loss": loss + sum(wobble) / 24,
            "windows": 24,
            "tokens": 24 * 32,
            "digest": source,
            "per_window": [loss + w for w in wobble],
        }

    measured = {point: {s: entry(point, s) for s in sets} for point, sets in found.measured.items()}
    documents = {"prose": np.arange(24) // 2, "code": np.arange(24) // 6}
    return replace(found, measured=measured, documents={(s, 24, 32): numbers for s, numbers in documents.items()})


@pytest.mark.promise("What the commands print is pinned, on terminals of 80 and 140 columns and without one")
@pytest.mark.parametrize("width", [80, 140])
def test_what_is_shown_is_pinned(filled: Path, width: int, pytestconfig: pytest.Config) -> None:
    found = with_figures_of_its_own(comparison(filled))
    console = Console(width=width, highlight=False, record=True, file=io.StringIO())
    console.print(compare_view(found, claims.check_claims(found), ["a note"], width))
    shown = "\n".join(line.rstrip() for line in console.export_text().splitlines()) + "\n"
    pinned = Path(__file__).parent / "compare" / f"{width}.txt"
    if pytestconfig.getoption("--rewrite"):
        pinned.write_text(shown)
    assert shown == pinned.read_text()


def test_json_holds_every_row_point_and_difference(filled: Path, curriculum: Curriculum) -> None:
    shown = json.loads(curriculum(filled, "compare", *NAMES, *FULL, "--json", "--against", "variant").stdout)
    assert shown["against"] == "variant"
    assert shown["trunk"] == {"stages": ["trunk/basic"], "position": 6144}
    last = shown["sources"]["code"][-1]["variants"]
    assert last["variant"]["difference"] is None
    assert last["trunk"]["difference"]["mean"] > 0
    assert last["control"]["checkpoint"] == {"stage": "control/cooldown", "position": 12288}
    assert [claim["must"] for claim in shown["claims"]].count(True) == 4


def test_json_is_nothing_but_json_while_gaps_are_filled(copy: Path, curriculum: Curriculum) -> None:
    done = curriculum(copy, "compare", *NAMES, *FULL, "--json")
    shown = json.loads(done.stdout)
    held_out = {source: (found["windows"], found["documents"]) for source, found in shown["held_out"].items()}
    assert shown["replicates"] == 1
    assert shown["notes"] == [
        f"{source}: {windows} held-out windows are of {documents} documents; "
        "below 30, a standard error is itself uncertain"
        for source, (windows, documents) in sorted(held_out.items(), reverse=True)
    ]
    assert "held-out loss" in done.stderr


def test_the_picture_draws_a_panel_a_source_and_names_every_variant(filled: Path, curriculum: Curriculum) -> None:
    said = curriculum(filled, "compare", *NAMES, *FULL).stdout
    path = filled / "runs/full/compare-trunk-variant-control.svg"
    assert f"the curves: {path.relative_to(filled)}" in said
    root = ElementTree.fromstring(path.read_text())
    texts = ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]
    for source, role in (("prose", "general"), ("code", "domain")):
        assert {source, role} <= {*texts}
    found = comparison(filled)
    for source in found.sources:
        for name, point in zip(NAMES, found.rows[-1].points, strict=True):
            assert f"{name} {found.loss(point, source):.3f}" in texts
    height = float(root.attrib["viewBox"].split()[3])
    for node in root.iter():
        assert 0 <= float(node.attrib.get("y", 0)) <= height


def test_names_of_variants_end_up_below_each_other_in_the_picture() -> None:
    ends = [(600.0, y, name, 1) for y, name in ((100.0, "a"), (101.0, "b"), (102.0, "c"), (103.0, "d"))]
    drawn = [part for part in shapes.end_labels(ends, 640, 50.0, 110.0) if part.startswith("<text")]
    heights = [float(part.split('y="')[1].split('"')[0]) for part in drawn]
    assert all(below - above >= shapes.LABEL_HEIGHT for above, below in itertools.pairwise(heights))
    assert heights[-1] <= 114.0


@pytest.mark.parametrize(
    ("name", "width", "lines"),
    [
        ("v1.1", 15, "v1.1"),
        ("v1.1-math-code", 15, "v1.1-math-code"),
        ("v1.1-math-code-control", 15, "v1.1-math-code-\ncontrol"),
        ("v1.1-math-code-control", 10, "v1.1-math-\ncode-\ncontrol"),
        ("unbreakable", 5, "unbreakable"),
    ],
)
def test_a_name_is_broken_after_hyphens_only(name: str, width: int, lines: str) -> None:
    assert broken(name, width) == lines


def test_a_row_knows_how_far_its_points_lie_apart() -> None:
    row = Row("cooldown", (Point("a/x", 100), None, Point("b/x", 90)))
    assert (row.position, row.apart) == (100, 10)


@pytest.mark.promise("`report` shows the differences and errors of `compare`")
def test_a_report_shows_the_losses_and_differences_that_compare_shows(filled: Path) -> None:
    found = comparison(filled)
    page = ElementTree.fromstring(write.render(Project(filled), NAMES, "full").removeprefix("<!DOCTYPE html>\n"))
    text = " ".join("".join(page.itertext()).split())
    label = "Held-out loss of the variants and their differences, ± one standard error"
    (table,) = (each for each in page.iter(f"{HTML}table") if each.attrib["aria-label"] == label)
    rows = [[" ".join("".join(cell.itertext()).split()) for cell in row] for row in table.iter(f"{HTML}tr")]
    assert rows[0] == ["source", "end of", "tokens", *NAMES, "variant less trunk", "control less trunk"]
    assert rows[1:] == [
        [
            source,
            row.ends or "",
            show_exact(row.position),
            *("" if (loss := found.loss(point, source)) is None else f"{loss:.4f}" for point in row.points),
            *(found.shown_difference(row, number, source).strip() for number in (1, 2)),
        ]
        for source in found.sources
        for row in found.shown_rows(source)
    ]
    assert sum("±" in cell for row in rows[1:] for cell in row) > 4
    assert f"prose {found.measured_on('prose')}" in text
    assert "another training seed" in text
    assert "below 30, a standard error is itself uncertain" in text
