"""Ticks are round and inside, labels stand apart, scales are straight."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from curriculum.report.svg.scale import Scale, apart, rows, step_of, ticks

FINITE = st.floats(-1e15, 1e15, allow_nan=False)


@pytest.mark.parametrize(
    ("low", "high", "most", "wanted"),
    [
        (0, 2_000_000_909_312, 8, [0, 5e11, 1e12, 1.5e12, 2e12]),
        (0, 2_007_040, 4, [0, 1_000_000, 2_000_000]),
        (0, 0.003, 3, [0, 0.001, 0.002, 0.003]),
        (3.6, 4.7, 6, [3.6, 3.8, 4.0, 4.2, 4.4, 4.6]),
        (5, 5, 6, [5]),
    ],
)
def test_ticks_are_those_a_person_would_choose(low: float, high: float, most: int, wanted: list[float]) -> None:
    assert ticks(low, high, most) == pytest.approx(wanted)


@given(FINITE, st.floats(1e-6, 1e15), st.integers(2, 12))
def test_ticks_are_round_inside_and_not_too_many(low: float, span: float, most: int) -> None:
    high = low + span
    if high - low < 1e-9 * max(abs(low), abs(high)):
        return  # below what a float can tell apart
    found = ticks(low, high, most)
    assert len(found) <= most + 1
    step = step_of(high - low, most)
    assert round(step / 10 ** math.floor(math.log10(step) + 1e-9), 6) in (1, 2, 5)
    assert (high - low) / step <= most * (1 + 1e-6)
    for tick in found:
        assert low - 1e-6 * step <= tick + 1e-9 * abs(tick)
        assert tick - 1e-9 * abs(tick) <= high + 1e-6 * step


@pytest.mark.parametrize(("low", "high"), [(math.nan, 1), (0, math.inf), (2, 1)])
def test_what_has_no_ticks_gets_none(low: float, high: float) -> None:
    assert ticks(low, high) == []


def test_a_scale_meets_both_ends_and_can_be_turned_over() -> None:
    scale = Scale(2, 4, 100, 0)
    assert [scale(2), scale(3), scale(4)] == [100, 50, 0]
    assert Scale(1, 1, 0, 10)(1) == 5


@given(st.lists(st.floats(0, 500), max_size=12), st.floats(1, 30))
def test_labels_stand_apart_in_their_order_and_inside(wanted: list[float], gap: float) -> None:
    low, high = 0.0, 400.0
    places = apart(wanted, gap, low, high)
    space = min(gap, (high - low) / max(1, len(wanted) - 1))
    ordered = sorted(places)
    assert all(b - a >= space - 1e-6 for a, b in pairwise(ordered))
    assert all(low - 1e-6 <= place <= high + 1e-6 for place in places)
    by_wish = [places[i] for i in sorted(range(len(wanted)), key=lambda i: (wanted[i], i))]
    assert by_wish == ordered


def test_labels_that_have_room_stay_where_they_are_wanted() -> None:
    assert apart([10, 200, 100], 14, 0, 400) == [10, 200, 100]


@given(st.lists(st.tuples(st.floats(0, 500), st.floats(1, 200)), max_size=10))
def test_labels_in_one_row_do_not_touch(labels: list[tuple[float, float]]) -> None:
    found = rows(labels)
    for at, (centre, width) in enumerate(labels):
        for other in range(at):
            if found[at] == found[other]:
                assert abs(centre - labels[other][0]) >= (width + labels[other][1]) / 2 + 6 - 1e-6


def test_labels_take_the_first_row_while_they_can() -> None:
    assert rows([(50, 40), (150, 40), (160, 40), (260, 40)]) == [0, 0, 1, 0]
