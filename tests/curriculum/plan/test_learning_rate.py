"""The learning-rate schedule as a function of the position in tokens."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from curriculum import fs
from curriculum.plan.learning_rate import LARGEST_POSITION, LearningRate, Rewarm
from curriculum.plan.rate_forms import Point

T = 10**12
BATCH = 896 * 2048
V1_1 = LearningRate("cosine", max=4e-4, min=4e-5, warmup=2000 * BATCH, horizon=2 * T)
WSD = LearningRate("wsd", max=1e-3, min=1e-4, warmup=100, horizon=1000, decay=200)


@st.composite
def curves(draw: st.DrawFn) -> LearningRate:
    shape: Any = draw(st.sampled_from(["cosine", "wsd", "linear", "constant"]))
    fall: Any = draw(st.sampled_from(["linear", "sqrt", "cosine", "exponential"]))
    warmup = draw(st.integers(0, 10**10))
    after = draw(st.integers(1, 3 * T))
    return LearningRate(
        shape,
        max=draw(st.floats(1e-5, 1e-1)),
        min=draw(st.floats(1e-9 if fall == "exponential" else 0, 9e-6)),
        warmup=warmup,
        horizon=warmup + after,
        decay=draw(st.integers(1, after)) if shape == "wsd" else 0,
        decay_shape=fall,
    )


# --- the curve -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("position", "rate"),
    [
        (BATCH, 2e-7),
        (1000 * BATCH, 2e-4),
        (2000 * BATCH, 4e-4),
        (1_500_001_599_488, 9.29e-5),
        (1_850_000_015_360, 4.50e-5),
        (2 * T, 4e-5),
        (2_000_000_909_312, 4e-5),
    ],
)
def test_v1_1_follows_its_published_cosine(position: int, rate: float) -> None:
    assert V1_1.at(position) == pytest.approx(rate, rel=1.2e-3)


def test_the_cosine_is_the_one_tinyllama_and_nanogpt_compute_step_by_step() -> None:
    def get_lr(iteration: int, warmup: int, last: int) -> float:
        if iteration < warmup:
            return 4e-4 * iteration / warmup
        if iteration > last:
            return 4e-5
        ratio = (iteration - warmup) / (last - warmup)
        return 4e-5 + 0.5 * (1.0 + math.cos(math.pi * ratio)) * (4e-4 - 4e-5)

    curve = LearningRate("cosine", max=4e-4, min=4e-5, warmup=2000 * BATCH, horizon=1_089_914 * BATCH)
    for step in (0, 1, 1999, 2000, 2001, 100_000, 817_435, 1_008_170, 1_089_913, 1_089_914, 1_089_915):
        assert curve.at(step * BATCH) == pytest.approx(get_lr(step, 2000, 1_089_914), rel=1e-12)


@given(curves(), st.lists(st.floats(0, 1.2), min_size=2, max_size=30))
def test_every_curve_rises_to_its_largest_then_only_falls_to_its_smallest(
    curve: LearningRate, parts: list[float]
) -> None:
    positions = sorted(int(part * curve.horizon) for part in parts)
    for (a, rate_a), (b, rate_b) in pairwise((p, curve.at(p)) for p in positions):
        assert 0 <= rate_a <= curve.max
        if b <= curve.warmup:
            assert rate_a <= rate_b
        elif a >= curve.warmup:
            assert rate_a >= rate_b >= curve.min
    assert curve.at(curve.warmup) == curve.max
    last = curve.max if curve.shape == "constant" else curve.min
    assert curve.at(curve.horizon) == curve.at(curve.horizon + 1) == curve.at(LARGEST_POSITION) == last
    if curve.warmup:
        assert curve.at(0) == 0


@given(curves())
def test_no_curve_jumps_within_its_horizon(curve: LearningRate) -> None:
    ends = (curve.warmup, curve.horizon - curve.decay, curve.horizon)
    for end in ends:
        if end and curve.horizon >= 10**6 and curve.decay_shape == "linear":
            shortest = min(x for x in (curve.warmup, curve.horizon - curve.warmup, curve.decay) if x)
            assert abs(curve.at(end) - curve.at(end - 1)) <= curve.max * (2 / shortest + 1e-12)


@pytest.mark.parametrize(
    ("curve", "rates"),
    [
        (LearningRate("linear", 1.0, 0.2, warmup=100, horizon=900), {50: 0.5, 100: 1.0, 500: 0.6, 700: 0.4, 900: 0.2}),
        (LearningRate("cosine", 1.0, 0.2, horizon=900), {0: 1.0, 300: 0.8, 450: 0.6, 600: 0.4, 900: 0.2}),
        (LearningRate("constant", 1.0, warmup=10), {5: 0.5, 10: 1.0, 10**15: 1.0}),
        (WSD, {100: 1e-3, 500: 1e-3, 800: 1e-3, 850: 7.75e-4, 900: 5.5e-4, 1000: 1e-4, 2000: 1e-4}),
        (
            LearningRate("wsd", 1.0, 0.0, horizon=1000, decay=100, decay_shape="sqrt"),
            {900: 1.0, 925: 0.5, 964: 0.2, 1000: 0.0},
        ),
        (
            LearningRate("wsd", 1.0, 0.2, horizon=1000, decay=900, decay_shape="cosine"),
            {100: 1.0, 400: 0.8, 550: 0.6, 700: 0.4, 1000: 0.2},
        ),
        (
            LearningRate("wsd", 1.0, 0.125, horizon=1000, decay=900, decay_shape="exponential"),
            {100: 1.0, 400: 0.5, 700: 0.25, 1000: 0.125, 2000: 0.125},
        ),
    ],
    ids=["linear", "cosine", "constant", "wsd", "wsd sqrt", "wsd cosine", "wsd exponential"],
)
def test_every_shape_passes_through_the_points_that_define_it(curve: LearningRate, rates: dict[int, float]) -> None:
    assert {position: curve.at(position) for position in rates} == pytest.approx(rates)


# --- rewarm ----------------------------------------------------------------------------------------------


def test_a_rewarm_is_a_straight_line_from_the_old_rate_to_the_curve() -> None:
    curve = LearningRate("cosine", 1e-3, 1e-4, horizon=2 * T)
    end = T + 2 * 10**11
    warmed = replace(curve, rewarm=Rewarm(T, end - T, 2e-5))
    assert warmed.at(T - 1) == curve.at(T - 1)
    assert warmed.at(T) == 2e-5
    assert warmed.at(T + 10**11) == pytest.approx((2e-5 + curve.at(end)) / 2)
    assert warmed.at(end - 1) == pytest.approx(curve.at(end))
    assert warmed.at(end) == curve.at(end)
    assert warmed.at(2 * T) == 1e-4
    assert curve.rewarm is None


def test_a_rewarm_can_go_down_and_a_second_one_replaces_the_first() -> None:
    warmed = replace(WSD, rewarm=Rewarm(300, 100, 2e-3))
    assert warmed.at(350) == pytest.approx(1.5e-3)
    again = replace(warmed, rewarm=Rewarm(500, 100, 0.0))
    assert again.at(350) == 1e-3
    assert again.at(550) == pytest.approx(5e-4)


# --- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"max": 4e-5}, "the largest learning rate, 4e-05, is not above the smallest, 4e-05; use the shape constant"),
        ({"max": 1e-5}, "is not above the smallest"),
        ({"min": -1e-9}, "a finite number from 0 up"),
        ({"max": math.inf}, "a finite number from 0 up"),
        ({"max": math.nan}, "a finite number from 0 up"),
        ({"min": math.nan}, "a finite number from 0 up"),
        ({"shape": "square"}, "no shape square; there are cosine, wsd, linear, constant, points"),
        ({"warmup": -1}, "the warm-up of a learning rate must be from 0"),
        ({"horizon": 2**62 + 1}, "the horizon of a learning rate must be from 0"),
        ({"horizon": 0}, "the horizon, 0 tokens, is not after the warm-up, 10 tokens"),
        ({"horizon": 10}, "the horizon, 10 tokens, is not after the warm-up, 10 tokens"),
        ({"decay": 5}, "only the shape wsd has a decay, cosine has none"),
        ({"shape": "wsd"}, "the decay, 0 tokens, does not fit"),
        ({"shape": "wsd", "decay": 91}, "the decay, 91 tokens, does not fit .* 90 tokens apart"),
        (
            {"shape": "wsd", "decay": 5, "decay_shape": "cubic"},
            "a decay is linear, sqrt, cosine, exponential, not cubic",
        ),
        ({"rewarm": Rewarm(-1, 5, 0.1)}, "a rewarm has a start"),
        ({"rewarm": Rewarm(1, 0, 0.1)}, "a rewarm has a start"),
        ({"rewarm": Rewarm(1, 5, math.nan)}, "a rewarm has a start"),
    ],
)
def test_a_curve_that_cannot_be_meant_is_refused(changes: dict[str, Any], sentence: str) -> None:
    fine: dict[str, Any] = {"shape": "cosine", "max": 4e-4, "min": 4e-5, "warmup": 10, "horizon": 100}
    LearningRate(**fine)
    with pytest.raises(ValueError, match=sentence):
        LearningRate(**{**fine, **changes})


@pytest.mark.parametrize("position", [-1, LARGEST_POSITION + 1])
def test_a_position_off_the_clock_is_refused(position: int) -> None:
    with pytest.raises(ValueError, match="a position must be from 0"):
        V1_1.at(position)


# --- piecewise form --------------------------------------------------------------------------------------

REWARMED = replace(WSD, rewarm=Rewarm(700, 150, 2e-3))
"""Its rewarm ends inside the decay, which begins after 800."""


def test_the_form_changes_at_every_break_and_nowhere_else() -> None:
    assert REWARMED.breaks() == [100, 700, 801, 850, 1000]
    line = ("line", REWARMED.rewarm, WSD.at(850))
    assert {position: REWARMED.form(position) for position in (0, 99, 100, 699, 700, 849, 850, 999, 1000, 2000)} == {
        **dict.fromkeys((0, 99), ("warm-up", 100, 1e-3)),
        **dict.fromkeys((100, 699), ("steady", 1e-3)),
        **dict.fromkeys((700, 849), line),
        **dict.fromkeys((850, 999), ("linear", 800, 1000, 1e-3, 1e-4)),
        **dict.fromkeys((1000, 2000), ("steady", 1e-4)),
    }
    assert WSD.breaks() == [100, 801, 1000]
    assert (WSD.form(800), WSD.form(801)) == (("steady", 1e-3), ("linear", 800, 1000, 1e-3, 1e-4))
    assert LearningRate("constant", 1.0, warmup=10).breaks() == [10]
    assert LearningRate("constant", 1.0, warmup=10).form(10**9) == ("steady", 1.0)
    assert LearningRate("cosine", 1.0, warmup=10, horizon=20).form(11) == ("cosine", 10, 20, 1.0, 0.0)
    sqrt = LearningRate("wsd", 1.0, horizon=20, decay=5, decay_shape="sqrt")
    assert sqrt.form(16) == ("sqrt", 15, 20, 1.0, 0.0)


@given(curves(), st.integers(1, 10**13), st.integers(1, 10**12), st.data())
def test_equal_forms_are_equal_values(curve: LearningRate, start: int, tokens: int, data: st.DataObject) -> None:
    curve = replace(curve, rewarm=Rewarm(start, tokens, 1e-3))
    for low, high in pairwise(curve.breaks()):
        assert curve.form(low) == curve.form(data.draw(st.integers(low, max(low, high - 1))))


def _fields(curve: LearningRate) -> dict[str, Any]:
    return {name: value for name, value in asdict(curve).items() if name != "points"}


def test_what_decides_the_curve_up_to_a_position_leaves_out_what_is_ahead() -> None:
    decay = dict.fromkeys(("shape", "min", "horizon", "decay", "decay_shape"))
    assert WSD.until(800) == {**_fields(WSD), **decay}
    assert WSD.until(801) == _fields(WSD)
    assert REWARMED.until(699) == {**_fields(WSD), **decay}
    assert REWARMED.until(700) == _fields(REWARMED)
    early = replace(WSD, rewarm=Rewarm(300, 100, 2e-3))
    assert early.until(299) == {**_fields(WSD), **decay}
    assert early.until(300) == early.until(800) == {**_fields(early), **decay}
    assert early.until(900) == _fields(early)
    constant = LearningRate("constant", 1.0, warmup=10)
    assert constant.until(10**9) == {**_fields(constant), **decay}


@pytest.mark.parametrize(
    "rewarm",
    [
        Rewarm(-1, 1, 0.0),
        Rewarm(LARGEST_POSITION + 1, 1, 0.0),
        Rewarm(0, 0, 0.0),
        Rewarm(0, LARGEST_POSITION + 1, 0.0),
        Rewarm(0, 1, -1e-9),
        Rewarm(0, 1, math.inf),
    ],
)
def test_a_rewarm_out_of_range_is_refused(rewarm: Rewarm) -> None:
    with pytest.raises(ValueError, match="a rewarm has a start"):
        replace(WSD, rewarm=rewarm)
    replace(WSD, rewarm=Rewarm(LARGEST_POSITION, LARGEST_POSITION, 0.0))
    replace(WSD, rewarm=Rewarm(0, 1, 0.0))


# --- points ----------------------------------------------------------------------------------------------


@st.composite
def point_lists(draw: st.DrawFn) -> list[Point]:
    """Points with every movement between them, and now and then two at one position."""
    points: list[Point] = []
    at = draw(st.integers(0, 10**10))
    for _ in range(draw(st.integers(1, 7))):
        then: Any = draw(st.sampled_from(["linear", "sqrt", "cosine", "exponential", "constant", "power"]))
        exponent = draw(st.floats(0.1, 2)) if then == "power" and at else None
        then = "linear" if then == "power" and not at else then
        points.append(Point(at, draw(st.sampled_from([1e-5, 3e-4, 1e-3])), then, exponent))
        jumps = len(points) > 1 and points[-2].at == at
        at += draw(st.integers(1 if jumps else 0, 10**11))
    return points


def replayed(points: list[Point], position: int) -> float:
    """The rate at a position, by the definition of points and not by forms."""
    if position < points[0].at:
        return points[0].rate * position / points[0].at
    if position == points[0].at:
        return points[0].rate
    for point, after in pairwise(points):
        if not point.at < position <= after.at:
            continue
        progress = (position - point.at) / (after.at - point.at)
        if point.then == "constant":
            return point.rate
        if point.then == "power":
            assert point.exponent is not None
            return point.rate * math.exp(-point.exponent * math.log(position / point.at))
        if position == after.at:
            return after.rate
        if point.then == "exponential":
            return math.exp(math.log(point.rate) * (1 - progress) + math.log(after.rate) * progress)
        falls = {"linear": progress, "sqrt": math.sqrt(progress), "cosine": (1 - math.cos(math.pi * progress)) / 2}
        return point.rate + falls[point.then] * (after.rate - point.rate)
    return points[-1].rate


@pytest.mark.promise("A learning rate goes through any points, and diff proves two of its spellings equal")
@settings(deadline=None)
@given(point_lists(), st.lists(st.floats(0, 1.3), min_size=3, max_size=20))
def test_a_curve_through_points_is_the_one_that_a_replay_of_them_draws(points: list[Point], parts: list[float]) -> None:
    curve = LearningRate.through(points)
    near = {point.at + by for point in points for by in (-1, 0, 1)}
    for position in sorted({*near, *(int(part * curve.horizon) for part in parts)} - {-1}):
        assert curve.at(position) == pytest.approx(replayed(points, position), rel=1e-9), position
    assert fs.from_json(LearningRate, json.loads(fs.canonical_json(curve))) == curve
    for low, high in pairwise([0, *curve.breaks(), curve.horizon + 9]):
        if low < high:
            assert curve.form(low) == curve.form(high - 1)


def test_points_spell_the_other_shapes_with_the_same_forms() -> None:
    points = LearningRate.through([Point(100, 1e-3), Point(800, 1e-3), Point(1000, 1e-4)])
    assert [points.form(at) for at in range(1200)] == [WSD.form(at) for at in range(1200)]
    cosine = LearningRate("cosine", 1.0, 0.1, warmup=10, horizon=90)
    points = LearningRate.through([Point(10, 1.0, "cosine"), Point(90, 0.1)])
    assert points.breaks() == cosine.breaks()
    assert [points.form(at) for at in range(99)] == [cosine.form(at) for at in range(99)]


def test_two_points_at_one_position_jump_behind_the_step_that_ends_there() -> None:
    curve = LearningRate.through([Point(10, 1.0), Point(20, 0.5), Point(20, 1.0), Point(30, 0.25)])
    assert [curve.at(at) for at in (10, 15, 20, 21, 30, 31)] == [1.0, 0.75, 0.5, pytest.approx(0.925), 0.25, 0.25]
    steps = LearningRate.through([Point(10, 1.0, "constant"), Point(20, 0.5, "constant"), Point(30, 0.1)])
    assert [steps.at(at) for at in (5, 10, 20, 21, 30, 31, 10**9)] == [0.5, 1.0, 1.0, 0.5, 0.5, 0.1, 0.1]


def test_points_ahead_of_a_position_decide_nothing_up_to_it() -> None:
    early = [Point(10, 1.0, "constant"), Point(20, 0.5, "power", 0.5)]
    one = LearningRate.through([*early, Point(40, 0.1)])
    other = LearningRate.through([*early, Point(50, 0.3)])
    assert one.until(40) == other.until(40)
    assert one.until(41) != other.until(41)
    assert fs.digest(one.until(39)) != fs.digest(LearningRate.through([Point(10, 1.0)]).until(39))


@pytest.mark.parametrize(
    ("points", "sentence"),
    [
        ([], "has no points"),
        ([Point(20, 1.0), Point(10, 0.5)], "out of order: 10 tokens come after 20"),
        ([Point(1, 1.0), Point(1, 0.5), Point(1, 0.2)], "three points are at 1 tokens"),
        ([Point(1, 1.0, "exponential"), Point(2, 0.0)], "between rates above 0, not from 1 to 0"),
        ([Point(-1, 1.0)], "position of a point must be from 0"),
        ([Point(1, -1.0)], "a finite number from 0 up"),
        ([Point(1, 0.0)], "every point of the learning rate is 0"),
        ([Point(1, 1.0, "power")], "an exponent belongs"),
        ([Point(0, 1.0, "power", 0.5)], "needs a position"),
        ([Point(1, 1.0, "square")], "not square"),  # type: ignore[arg-type]
    ],
)
def test_points_that_no_curve_goes_through_are_refused(points: list[Point], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        LearningRate.through(points)


def test_bounds_that_are_not_those_of_the_points_are_refused() -> None:
    with pytest.raises(ValueError, match="are not those of the points"):
        replace(LearningRate.through([Point(10, 1.0), Point(20, 0.5)]), horizon=30)
    with pytest.raises(ValueError, match="points belong to the shape points"):
        replace(V1_1, points=(Point(10, 1.0),))


# --- JSON ------------------------------------------------------------------------------------------------


@given(curves(), st.booleans())
def test_a_curve_survives_json_to_the_last_bit(curve: LearningRate, rewarmed: bool) -> None:
    if rewarmed:
        curve = replace(curve, rewarm=Rewarm(5, 7, 1 / 3))
    assert fs.from_json(LearningRate, json.loads(fs.canonical_json(curve))) == curve


def test_a_field_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="has no field warm"):
        fs.from_json(LearningRate, {**fs.fields_of(V1_1), "warm": 5})
