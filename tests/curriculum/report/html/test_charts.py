"""Charts draw what the plan computes and the run measured: exact corners, every extreme, stages in their places."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from projects import write_small_project

from curriculum.compiler.compile import compile_curriculum
from curriculum.config.init import init
from curriculum.config.project import Project
from curriculum.report.html import loss_charts, plan_charts
from curriculum.report.html.gather import bands, batch_changes, gather, rate_points, share_knots
from curriculum.report.html.loss_charts import Line
from curriculum.report.html.sections import line_legend, line_styles
from curriculum.report.svg import shapes
from curriculum.report.svg.scale import text_width

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("shipped") / "project"
    init(folder)
    return Project(folder)


def points(element: ElementTree.Element) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in element.attrib["points"].split())]


def of_class(drawing: str, tag: str, kind: str) -> list[ElementTree.Element]:
    found = ElementTree.fromstring(drawing).iter(SVG + tag)
    return [element for element in found if set(kind.split()) <= set(element.get("class", "").split())]


@pytest.mark.parametrize("size", ["full", "rehearsal"])
def test_areas_hold_as_many_tokens_as_the_plan_counts(shipped: Project, size: str) -> None:
    """The area under the straight lines between knots is the stage's count of windows, to within the order's bound."""
    for stage in compile_curriculum(shipped, "v1.1-math-code", size).stages:
        plan = stage.plan
        knots = share_knots(plan, stage.stop)
        assert (knots[0][0], knots[-1][0]) == (plan.start, stage.stop)
        area = dict.fromkeys(plan.sources, 0.0)
        for (start, before), (end, after) in pairwise(knots):
            assert sum(before.values()) == pytest.approx(1)
            for name in area:
                area[name] += (end - start) * (before.get(name, 0) + after.get(name, 0)) / 2
        counted = plan.windows_read(stage.stop)
        for name, tokens in area.items():
            windows = counted.get(name, 0) - plan.read_before.get(name, 0)
            assert abs(tokens / plan.sequence_length - windows) < 4 + 1e-9 * windows


def test_the_ramp_s_corners_are_at_its_exact_positions(shipped: Project) -> None:
    stage = compile_curriculum(shipped, "v1.1-math-code", "full").stages[1]
    knots = dict(share_knots(stage.plan, stage.stop)[:2])
    begin, end = sorted(knots)
    assert begin == 1_500_001_599_488
    assert end == begin + 2_929_688 * 2048
    assert knots[begin]["slimpajama"] == 1.0
    assert knots[end] == pytest.approx({"slimpajama": 0.75, "starcoder-python-jupyter": 0.15, "proof-pile-2": 0.1})
    half = plan_charts.share_at(share_knots(stage.plan, stage.stop), (begin + end) // 2)
    assert half["slimpajama"] == pytest.approx(0.875, abs=1e-6)


def test_the_rate_curve_is_the_plan_s_own_at_steps_and_has_its_corners(shipped: Project) -> None:
    for stage in compile_curriculum(shipped, "v1.1", "full").stages:
        plan = stage.plan
        found = rate_points(plan, stage.stop, 50)
        assert len(found) <= 60
        for position, rate in found:
            assert rate == plan.lr(plan.step_at(position) - 1)
        assert (found[0][0], found[-1][0]) == (plan.position_after(plan.first_step), stage.stop)
    warm = rate_points(compile_curriculum(shipped, "v1.1", "full").stages[0].plan, 1_500_001_599_488, 3)
    assert max(rate for _, rate in warm) == pytest.approx(4e-4, rel=1e-6)  # three points alone would miss the top


def test_the_picture_places_stages_shares_and_batch_on_one_axis(shipped: Project) -> None:
    lineage = compile_curriculum(shipped, "v1.1-math-code", "full")
    sources = ["slimpajama", "starcoder-python-jupyter", "proof-pile-2"]
    drawing = plan_charts.curriculum(lineage, sources, plan_charts.WIDE, "k")
    edges = [
        (float(b.attrib["x"]), float(b.attrib["x"]) + float(b.attrib["width"]))
        for b in of_class(drawing, "rect", "band")
    ]
    left, right = edges[0][0], edges[-1][1]

    def x(position: float) -> float:
        return left + (right - left) * position / lineage.stop

    assert [a for _, a in edges] == pytest.approx([x(s.stop) for s in lineage.stages], abs=0.11)
    areas = of_class(drawing, "polygon", "area")
    assert [a.attrib["class"] for a in areas] == ["area s0", "area s1", "area s2"]
    # code and mathematics are drawn from the branch on, not as a thread of no height along the trunk
    assert min(px for px, _ in points(areas[1])) == pytest.approx(x(1.5e12), abs=0.2)
    heights = [y for _, y in points(areas[0])]
    below, above = max(heights), min(heights)
    last = [y for px, y in points(areas[0]) if px == pytest.approx(right, abs=0.11)]
    assert (below - min(last)) / (below - above) == pytest.approx(0.75, abs=0.002)
    texts = [element.text for element in ElementTree.fromstring(drawing).iter(SVG + "text")]
    for wanted in ("basic", "continual", "cooldown", "75 %", "15 %", "10 %", "4e-05", "7.34M tokens = 3,584 × 2,048"):
        assert wanted in texts


def test_a_ramp_too_short_to_be_seen_is_enlarged(shipped: Project) -> None:
    sources = ["slimpajama", "starcoder-python-jupyter", "proof-pile-2"]
    found = plan_charts.ramps(compile_curriculum(shipped, "v1.1-math-code", "full"), sources, "k")
    assert len(found) == 1
    assert "6B tokens, 3,270 steps, 0.3 % of the axis" in found[0][0]
    assert "1,500,001,599,488 tokens" in found[0][1]
    assert plan_charts.ramps(compile_curriculum(shipped, "v1.1", "full"), sources, "k") == []


def test_many_sources_share_the_last_colour_and_still_fill_the_picture() -> None:
    names = [f"s{n}" for n in range(20)]
    knots = [(0, dict.fromkeys(names, 0.05)), (100, dict.fromkeys(names, 0.05))]
    layers = plan_charts.share_layers(knots, plan_charts.styles(names))
    assert list(layers) == list(range(shapes.SOURCE_STYLES))
    assert layers[shapes.SOURCE_STYLES - 1][0][1:] == pytest.approx((0.35, 1.0))


def test_bands_and_batch_steps_of_several_lineages(shipped: Project) -> None:
    lineages = [compile_curriculum(shipped, name, "rehearsal") for name in ("v1.1", "v1.1-math-code")]
    assert [band[0] for band in bands(lineages)] == ["basic", "continual", "cooldown"]
    assert {change for line in lineages for change in batch_changes(line)} == {(1_851_392, 16, 64)}


def test_ends_of_one_name_that_differ_by_little_are_one_boundary(shipped: Project) -> None:
    names = ["v1.1-math-code", "v1.1-math-code-control"]
    lineages = [compile_curriculum(shipped, name, "rehearsal") for name in names]
    last = [line.stop for line in lineages]
    assert last[0] != last[1]
    assert [band[0] for band in bands(lineages)] == ["basic", "continual", "cooldown"]
    assert bands(lineages)[-1][2] == max(last)
    # ends that lie apart are two
    early = compile_curriculum(shipped, "v1.1", "rehearsal")
    shorter = replace(early, stages=(replace(early.stages[0], stop=1_000_960),))
    assert [band[0] for band in bands([shorter, early])] == ["basic", "basic", "continual", "cooldown"]


def test_grey_is_for_what_all_share_alone_and_the_legend_says_what_some_do(shipped: Project) -> None:
    names = ["v1.1", "v1.1-math-code-control", "v1.1-math-code"]
    story = gather(shipped, names, "rehearsal")
    assert line_styles(story) == {
        "v1.1/basic": 0,
        "v1.1/continual": 1,
        "v1.1/cooldown": 1,
        "v1.1-math-code/continual": 3,  # its own curriculum's, though another that goes through it is named before
        "v1.1-math-code-control/cooldown": 2,
        "v1.1-math-code/cooldown": 3,
    }
    shown = [item.split("</span>")[0] for item in line_legend(story).split("<span>")[1:]]
    assert shown == [
        "shared by all",
        "v1.1",
        "v1.1-math-code-control",
        "v1.1-math-code (continual: also v1.1-math-code-control)",
    ]
    alone = line_legend(gather(shipped, ["v1.1"], "rehearsal"))
    assert "shared" not in alone
    assert "v1.1" in alone


@pytest.mark.parametrize("width", [plan_charts.WIDE, plan_charts.NARROW])
def test_no_branch_of_the_tree_runs_through_words(shipped: Project, width: int) -> None:
    names = ["v1.1", "v1.1-math-code", "v1.1-math-code-control", "v1.1-chinese"]
    for named in (names[:3], names, names[::-1]):
        story = gather(shipped, named, "rehearsal")
        drawing = plan_charts.tree(story.lineages, dict(story.stages), line_styles(story), width, "k")
        texts = list(ElementTree.fromstring(drawing).iter(SVG + "text"))
        assert {f"{name}: planned" for name in named} <= {text.text for text in texts}
        for path in of_class(drawing, "path", "branch"):
            x, top, bottom = (float(found) for found in re.findall(r"M(\S+) (\S+) C .* (\S+)$", path.attrib["d"])[0])
            for text in texts:
                wide = text_width(text.text or "", 11)
                left = float(text.attrib["x"])
                left -= {"middle": wide / 2, "end": wide}.get(text.get("text-anchor", ""), 0)
                if top < float(text.attrib["y"]) < bottom:
                    assert not left < x < left + wide, text.text


LINE = tuple((n * 10, 8.0 - 0.05 * n) for n in range(1, 101))


def test_the_picture_of_losses_leaves_out_the_fall_at_the_start_and_nothing_else() -> None:
    spike = (*LINE[:50], (505, 9.5), *LINE[50:])
    shown = loss_charts.domain([Line(name="a", style=0, points=LINE, raw=spike)], 1000)
    assert shown.high > 9.5
    assert shown.low < 3.0
    assert shown.above is None
    fall = ((5, 11.0), *LINE)
    shown = loss_charts.domain([Line(name="a", style=0, points=LINE, raw=fall)], 1000)
    assert shown.high < 8.5
    assert shown.above == (5, 11.0)


def test_a_loss_that_rises_from_the_start_is_in_the_picture_with_all_its_markers() -> None:
    rising = ((0, 8.5), *((n * 100, 10.3 + n / 100) for n in range(1, 11)))
    line = Line(name="a", style=0, points=rising)
    shown = loss_charts.domain([line], 1000)
    assert shown.low < 8.5
    assert shown.above is None
    drawing = loss_charts.held_out("code", [line], [("b", 0, 1000)], 1000, "k", 0)
    (panel,) = of_class(drawing, "rect", "band")
    top = float(panel.attrib["y"])
    bottom = top + float(panel.attrib["height"])
    markers = of_class(drawing, "circle", "dot")
    assert len(markers) == len(rising)
    assert all(top <= float(marker.attrib["cy"]) <= bottom for marker in markers)


def test_a_loss_line_has_every_point_and_its_last_value_beside_it() -> None:
    line = Line(name="a/b", style=1, points=LINE, raw=LINE, ends=True)
    drawing = loss_charts.training_loss([line], [("b", 0, 1000)], [(500, 8, 32)], 1000, 880, "k")
    for kind in ("raw", "line"):
        (drawn,) = of_class(drawing, "polyline", kind)
        assert len(points(drawn)) == len(LINE)
    texts = [element.text for element in ElementTree.fromstring(drawing).iter(SVG + "text")]
    assert "3.00" in texts
    assert "batch 8 → 32 sequences" in texts
    assert re.search(r"a/b at 1,000 tokens: 3.000 nats a token", drawing)


def test_variants_go_on_from_their_trunk_in_the_held_out_panels(tmp_path: Path) -> None:
    from pretend_runs import pretend

    from curriculum.report.html.sections import held_out_lines

    root = write_small_project(tmp_path / "project")
    pretend(root, "trunk")
    pretend(root, "variant")
    # the variant's own evaluation at the branch point is not there: the trunk's is where its line begins
    folder = root / "runs/full/variant/continual/evaluations"
    sorted(folder.iterdir())[0].unlink()
    story = gather(Project(root), ["trunk", "variant"], "full")
    lines = {line.name: line for line in held_out_lines(story, "prose")}
    assert lines["variant/continual"].points[0] == lines["trunk/basic"].points[-1]
    assert {name: line.style for name, line in lines.items()} == {
        "trunk/basic": 0,
        "trunk/continual": 1,
        "trunk/cooldown": 1,
        "variant/continual": 2,
        "variant/cooldown": 2,
    }
    assert [name for name, line in lines.items() if line.ends] == ["trunk/cooldown", "variant/cooldown"]


def test_one_line_alone_and_one_point_alone_are_drawn() -> None:
    line = Line(name="a", style=0, points=((10, 4.0),), raw=((10, 4.0),), ends=True)
    for drawing in (
        loss_charts.training_loss([line], [("b", 0, 10)], [], 10, 400, "k"),
        loss_charts.held_out("prose", [line], [("b", 0, 10)], 10, "k", 0),
    ):
        assert all(len(points(p)) == 2 for p in ElementTree.fromstring(drawing).iter(SVG + "polyline"))
        assert "nan" not in drawing
