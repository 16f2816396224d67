"""The order is a permutation, its inverse is one too, it looks random, and it never changes unnoticed."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from curriculum.plan import permutation
from curriculum.plan.arrays import exact_indices
from curriculum.plan.permutation import LARGEST_SIZE, Permutation, permuted, rotation, rotations

NUMBERS = st.integers(min_value=-(2**70), max_value=2**70)


def order(
    size: int, *, seed: int = 3407, source: str = "slimpajama", pass_number: int = 0, segment: str = "0"
) -> Permutation:
    return Permutation(size, seed=seed, source=source, pass_number=pass_number, segment=segment)


def orders_of(size: int, seeds: int, *, pass_number: int = 0) -> np.ndarray:
    """The whole order of each of the first `seeds` seeds, a row each."""
    places, rows = np.arange(size), []
    for first in range(0, seeds, 500):  # their keys take some memory
        orders = [order(size, seed=seed, pass_number=pass_number) for seed in range(first, min(first + 500, seeds))]
        rows += permuted([(each, places) for each in orders])
    return np.stack(rows)


def distances(orders: np.ndarray, lag: int = 1) -> np.ndarray:
    """How often a window is followed, `lag` places on, by the one so many windows further, around the circle."""
    size = orders.shape[1]
    return np.bincount(((orders[:, lag:] - orders[:, :-lag]) % size).ravel(), minlength=size)


def chi_square(observed: np.ndarray) -> float:
    """In standard deviations from what an even spread gives, over all cells of `observed`."""
    expected = observed.sum() / observed.size
    freedom = observed.size - 1
    return float((((observed - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom))


# --- a bijection -----------------------------------------------------------------------------------------


@pytest.mark.promise("Every window of a source is read once an epoch, in a different order each epoch")
@pytest.mark.parametrize("size", [*range(1, 70), 97, 255, 256, 257, 1009, 4095, 4096, 4097, 10_007, 65_537])
def test_every_window_is_read_exactly_once_a_pass_and_the_inverse_says_when(size: int) -> None:
    p = order(size)
    windows = p(np.arange(size))
    assert np.array_equal(np.sort(windows), np.arange(size))
    assert np.array_equal(p.inverse(windows), np.arange(size))


@settings(max_examples=200, deadline=None)
@given(st.integers(1, LARGEST_SIZE), NUMBERS, st.text(), NUMBERS, st.text(), st.data())
def test_for_any_size_and_key_places_and_windows_go_over_into_each_other(
    size: int, seed: int, source: str, pass_number: int, segment: str, data: st.DataObject
) -> None:
    try:
        p = Permutation(size, seed=seed, source=source, pass_number=pass_number, segment=segment)
        k = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=50, unique=True)))
        windows = p(k)
    except UnicodeEncodeError:  # half a surrogate pair is no name
        return
    assert len(set(windows.tolist())) == len(k)
    assert windows.min() >= 0
    assert windows.max() < size
    assert np.array_equal(p.inverse(windows), k)
    assert np.array_equal(p(p.inverse(k)), k)


@pytest.mark.parametrize("size", [LARGEST_SIZE, LARGEST_SIZE - 1, 2**20 * (2**20 - 1), 2**39 + 1])
def test_the_ends_of_the_largest_orders_are_served(size: int) -> None:
    p = order(size)
    k = np.concatenate([np.arange(1000), size - 1 - np.arange(1000)])
    windows = p(k)
    assert windows.max() < size
    assert len(np.unique(windows)) == 2000
    assert np.array_equal(p.inverse(windows), k)


# --- keyed by names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        order(10_000, seed=3408),
        order(10_000, source="slimpajam"),
        order(10_000, pass_number=1),
        order(10_000, segment="1"),
    ],
    ids=["seed", "source", "pass", "segment"],
)
def test_seed_source_pass_and_segment_each_give_an_unrelated_order(other: Permutation) -> None:
    k = np.arange(10_000)
    mine, theirs = order(10_000)(k), other(k)
    assert (mine == theirs).sum() < 8  # one is expected
    assert abs(np.corrcoef(mine, theirs)[0, 1]) < 0.04


def test_names_that_run_together_are_kept_apart() -> None:
    keys = [("ab", 1, "c"), ("a", 1, "bc"), ("ab1", 1, "c"), ("ab", 11, "c"), ("ab", 1, "1c"), ("", 1, "abc")]
    orders = {tuple(order(97, source=s, pass_number=p, segment=g)(np.arange(97))) for s, p, g in keys}
    assert len(orders) == len(keys)


def test_the_order_is_a_function_of_its_names_alone() -> None:
    k = np.arange(1009)
    first = order(1009)(k)
    order(1009, pass_number=5)(k)
    assert np.array_equal(order(1009)(k), first)
    assert [order(1009)(int(place)) for place in k[:50]] == first[:50].tolist()
    assert np.array_equal(order(1009)(k[::-1]), first[::-1])


# --- looks random ----------------------------------------------------------------------------------------


@pytest.mark.promise("Orders of small sources are as even as random ones")
@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_every_order_of_a_handful_of_windows_comes_up_equally_often(size: int) -> None:
    all_orders = list(itertools.permutations(range(size)))
    seen = Counter(map(tuple, orders_of(size, 30 * len(all_orders)).tolist()))
    assert abs(chi_square(np.array([seen[one] for one in all_orders]))) < 5


@pytest.mark.parametrize(("size", "seeds"), [(7, 1500), (16, 1500), (101, 1500), (1000, 2000)])
def test_every_window_is_read_at_every_place_equally_often(size: int, seeds: int) -> None:
    cells = np.arange(size) * size + orders_of(size, seeds)
    assert abs(chi_square(np.bincount(cells.ravel(), minlength=size**2))) < 5


@pytest.mark.parametrize(("size", "seeds"), [(37, 1500), (101, 800), (1009, 400)])
def test_what_follows_a_window_says_nothing_about_it(size: int, seeds: int) -> None:
    """Differences of neighbours in the order, around the circle, are as even as they can be (never 0)."""
    orders = orders_of(size, seeds)
    for lag in (1, 2, size // 3):
        steps = distances(orders, lag)
        assert steps[0] == 0
        assert abs(chi_square(steps[1:])) < 5


@pytest.mark.promise("Orders of small sources are as even as random ones")
@pytest.mark.parametrize("size", [6, 7, 12, 20, 30])
def test_with_a_handful_of_windows_each_distance_between_neighbours_is_as_even_as_chance(size: int) -> None:
    assert abs(chi_square(distances(orders_of(size, 6000))[1:])) < 5


def test_eight_rounds_alone_would_leave_the_neighbours_among_a_handful_uneven(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above can fail: the rounds that large grids take are too few for small ones."""
    monkeypatch.setattr(permutation, "SMALL_GRID", 0)
    assert chi_square(distances(orders_of(6, 6000))[1:]) > 5


@pytest.mark.parametrize("size", [1009, 65_536, 1_000_003])
def test_neighbours_in_the_order_are_uncorrelated(size: int) -> None:
    windows = order(size)(np.arange(size)).astype(np.float64)
    for lag in (1, 2, 3, 64, int(size**0.5), int(size**0.5) + 1):
        assert abs(np.corrcoef(windows[lag:], windows[:-lag])[0, 1]) < 4 / (size - lag) ** 0.5


@pytest.mark.parametrize("size", [2**18, 1_000_003, 300_000_000, LARGEST_SIZE])
def test_a_long_stretch_of_the_order_reads_all_over_the_source(size: int) -> None:
    windows = order(size)(size // 2 + np.arange(100_000))
    assert abs(chi_square(np.bincount(windows * 256 // size, minlength=256))) < 5
    region = windows * 16 // size
    assert abs(chi_square(np.bincount(region[1:] * 16 + region[:-1], minlength=256))) < 5
    assert abs(chi_square(np.bincount(windows % 64, minlength=64))) < 5


@pytest.mark.promise("Every window of a source is read once an epoch, in a different order each epoch")
def test_a_second_pass_reads_in_an_order_unrelated_to_the_first() -> None:
    places = [np.argsort(orders_of(31, 1000, pass_number=number), axis=1) for number in (0, 1)]
    assert abs(chi_square(np.bincount((places[0] * 31 + places[1]).ravel(), minlength=31**2))) < 5


# --- manners ---------------------------------------------------------------------------------------------


def test_an_int_gives_an_int_and_an_array_an_array_of_its_shape() -> None:
    p = order(1009)
    assert type(p(5)) is int
    numpy_one: Any = np.int64(5)
    assert type(p(numpy_one)) is int
    assert type(p.inverse(5)) is int
    square = np.arange(12).reshape(3, 4)
    assert p(square).shape == (3, 4)
    assert p(square).dtype == np.int64
    assert np.array_equal(p(square).ravel(), p(np.arange(12)))
    for kind in (np.int32, np.uint64, np.uint8):
        as_kind: Any = np.arange(12).astype(kind)
        assert np.array_equal(p(as_kind), p(np.arange(12)))
    assert p(np.array([], dtype=np.int64)).shape == (0,)


def test_what_is_asked_is_left_as_it_was() -> None:
    k = np.arange(100)
    order(100)(k)
    order(100).inverse(k)
    assert np.array_equal(k, np.arange(100))


@pytest.mark.parametrize("size", [0, -1, LARGEST_SIZE + 1])
def test_a_size_out_of_range_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=r"from 1 to 2\^40 windows"):
        order(size)


@pytest.mark.parametrize("place", [-1, 100, 2**63, np.array([5, -1]), np.array([100]), np.array([2**63], np.uint64)])
def test_a_place_outside_the_order_is_refused_and_never_wrapped(place: Any) -> None:
    with pytest.raises(ValueError, match="a place in the order must be from 0 to 99"):
        order(100)(place)
    with pytest.raises(ValueError, match="a place in the order must be from 0 to 99"):
        order(100).inverse(place)


@pytest.mark.parametrize("place", [1.0, True, "1", np.array([1.0]), np.array([True]), np.array([2**70])])
def test_a_place_that_is_no_whole_number_is_refused(place: object) -> None:
    with pytest.raises(ValueError, match="is a whole number"):
        exact_indices(place, 2**62, "a place")


# --- rotation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 3, 64, 896])
def test_over_the_steps_every_slot_meets_every_offset_equally_often(batch: int) -> None:
    turns = [rotation(3407, step, batch) for step in range(batch * 100)]
    seen = np.bincount(turns, minlength=batch)
    assert len(seen) == batch
    if batch > 1:
        assert abs(chi_square(seen)) < 4
        pairs = np.bincount(np.array(turns[1:]) * 2 // batch * 2 + np.array(turns[:-1]) * 2 // batch, minlength=4)
        assert batch == 3 or abs(chi_square(pairs)) < 4  # three do not halve


def test_rotation_is_keyed_by_seed_and_step() -> None:
    turns = [[rotation(seed, step, 2**40) for step in range(100)] for seed in (1, 2)]
    assert len({*turns[0], *turns[1]}) == 200
    assert rotation(1, 23, 2**40) != rotation(12, 3, 2**40)


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sequence"):
        rotation(1, 1, 0)


# --- golden vectors: a change here is a change of every order ever run, and needs a new ORDER_VERSION ----


@pytest.mark.promise("The order of the data never changes between versions without ORDER_VERSION")
@pytest.mark.parametrize(
    ("p", "windows"),
    [
        (Permutation(10, seed=0, source="a", pass_number=0, segment="0"), [2, 1, 3, 4, 7, 0, 5, 8]),
        (
            Permutation(256, seed=3407, source="code", pass_number=3, segment="0"),  # the largest small grid
            [43, 133, 135, 212, 194, 215, 220, 182],
        ),
        (
            Permutation(257, seed=3407, source="code", pass_number=3, segment="0"),
            [122, 226, 131, 134, 107, 115, 30, 35],
        ),
        (
            Permutation(1009, seed=3407, source="slimpajama", pass_number=1, segment="0"),
            [863, 426, 303, 973, 332, 94, 952, 129],
        ),
        (
            Permutation(300_000_000, seed=3407, source="slimpajama", pass_number=2, segment="appended"),
            [99178328, 90044382, 185754968, 125931383, 235178711, 28357307, 210214495, 125993215],
        ),
        (
            Permutation(2**40, seed=-1, source="天空", pass_number=7, segment=""),
            [
                *[596949392647, 230633076423, 220387467616, 387210679839],
                *[22518283093, 296592214175, 923996110213, 336797359163],
            ],
        ),
    ],
)
def test_the_order_is_the_one_it_always_was(p: Permutation, windows: list[int]) -> None:
    k = np.array([0, 1, 2, 3, 4, p.size // 2, p.size - 2, p.size - 1])
    assert p(k).tolist() == windows
    assert p.inverse(np.array(windows)).tolist() == k.tolist()


@pytest.mark.promise("The order of the data never changes between versions without ORDER_VERSION")
def test_the_rotation_is_the_one_it_always_was() -> None:
    assert [rotation(3407, step, 896) for step in range(8)] == [431, 493, 13, 103, 470, 119, 393, 165]
    assert rotation(-1, 10**12, 3584) == 1518
    assert rotation(0, 0, 2**40) == 105482501934


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 400) | st.integers(1, LARGEST_SIZE), st.integers(0, 10**6), st.data())
def test_the_arithmetic_spelled_out_in_whole_numbers_agrees(size: int, seed: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, size - 1))
    parts = [b"1", str(seed).encode(), b"code", b"2", b"0"]
    message = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
    b = math.isqrt(size - 1) + 1
    rounds = 24 if b <= 16 else 8
    further = [message + (1).to_bytes(8, "little") + number for number in (b"1", b"2")]
    keys = b"".join(
        hashlib.blake2b(each, digest_size=64, person=b"curriculum/order").digest() for each in (message, *further)
    )
    a = -(-size // b)

    def below(value: int, turn: int, side: int) -> int:
        x = (value + int.from_bytes(keys[8 * turn : 8 * turn + 8], "little")) % 2**64
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return (x >> 32) * side >> 32

    cell = k
    while True:
        row, column = divmod(cell, b)
        for turn in range(0, rounds, 2):
            row = (row + below(column, turn, a)) % a
            column = (column + below(row, turn + 1, b)) % b
        cell = row * b + column
        if cell < size:
            break
    assert order(size, seed=seed, source="code", pass_number=2)(k) == cell


# --- many at once ----------------------------------------------------------------------------------------


def test_orders_computed_together_give_what_each_gives_alone() -> None:
    draw = np.random.default_rng(0)
    sizes = [1, 2, 3, 36, 256, 257, 10_007, 2**39 + 1, LARGEST_SIZE]  # small grids take more rounds
    parts = [(order(size, pass_number=size), draw.integers(0, size, count)) for count, size in enumerate(sizes)]
    for (alone, positions), windows in zip(parts, permuted(parts), strict=True):
        assert np.array_equal(windows, alone(positions))
    assert permuted([]) == []
    for outside in (-1, 36):
        with pytest.raises(ValueError, match=f"a place in the order must be from 0 to 35, not {outside}"):
            permuted([*parts, (order(36), np.array([3, outside]))])


@pytest.mark.parametrize("batch", [1, 896, 2**32 - 1, 2**32, 2**40])
def test_rotations_of_many_steps_are_those_of_each(batch: int) -> None:
    steps = np.array([0, 7, 9, 10, 99, 100, 10**9, 10**12])
    assert rotations(3407, steps, batch).tolist() == [rotation(3407, step, batch) for step in steps.tolist()]
    batches = np.arange(1, 9) * batch
    each = zip(steps.tolist(), batches.tolist(), strict=True)
    assert rotations(3407, steps, batches).tolist() == [rotation(3407, step, sequences) for step, sequences in each]
    assert rotations(3407, steps[:0], batch).tolist() == []
