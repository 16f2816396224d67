"""Positions by value, as a dict of lists finds them, for any spread of the values."""

from __future__ import annotations

import numpy as np
from hypothesis import given, strategies as st

from curriculum.plan.arrays import positions_by_value

SPREADS = st.sampled_from([0, 1, 3, 2**16 - 1, 2**16, 2**17 - 1, 2**40])


@given(st.data(), SPREADS, st.integers(-5, 5))
def test_positions_are_grouped_by_value_in_ascending_order(data: st.DataObject, spread: int, least: int) -> None:
    values = data.draw(st.lists(st.integers(0, 3) | st.just(spread) | st.integers(0, spread), max_size=30))
    array = np.array(values, np.int64) + least
    wanted: dict[int, list[int]] = {}
    for position, value in enumerate(array.tolist()):
        wanted.setdefault(value, []).append(position)
    found = [(value, np.arange(len(array))[positions].tolist()) for value, positions in positions_by_value(array)]
    assert found == sorted(wanted.items())


def test_values_that_agree_in_their_lowest_16_bits_are_kept_apart() -> None:
    found = [(value, np.arange(3)[at].tolist()) for value, at in positions_by_value(np.array([2**16, 0, 2**16]))]
    assert found == [(0, [1]), (2**16, [0, 2])]
