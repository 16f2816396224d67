"""Every sequence has its source, exactly in proportion: the arithmetic agrees with counting on fingers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from curriculum.plan.arrays import Integers
from curriculum.plan.mixing import LARGEST_INDEX, LARGEST_TOTAL, Ramp, Tree, integer_weights
from curriculum.plan.permutation import rotation

FIBONACCI = [1, 1]
while sum(FIBONACCI) + FIBONACCI[-1] + FIBONACCI[-2] <= LARGEST_TOTAL:
    FIBONACCI.append(FIBONACCI[-1] + FIBONACCI[-2])

MATH_CODE = Tree({"slimpajama": 15, "starcoder": 3, "proof-pile": 2})
SMALL = st.dictionaries(st.sampled_from("abcdefg"), st.integers(1, 30), min_size=1)


@st.composite
def mixtures(draw: st.DrawFn) -> dict[str, int]:
    """1 to 300 sources with weights over six decades."""
    exponents = draw(st.lists(st.floats(0, 6), min_size=1, max_size=draw(st.sampled_from([1, 2, 5, 20, 300]))))
    return {f"source-{number}": round(10**exponent) for number, exponent in enumerate(exponents)}


# --- the oracle: counting on one's fingers ---------------------------------------------------------------


def half_up(x: Fraction) -> int:
    return math.floor(x + Fraction(1, 2))


class Fingers:
    """A tree that is given one sequence at a time and remembers how many went where."""

    def __init__(self, weights: dict[str, int]) -> None:
        groups: list[Any] = [(weight, name, name) for name, weight in weights.items()]
        while len(groups) > 1:
            groups.sort(key=lambda group: (group[0], group[1]))
            first, second, *rest = groups
            inside = {"first": first, "second": second, "passed": 0}
            groups = [*rest, (first[0] + second[0], min(first[1], second[1]), inside)]
        self.top = groups[0]

    def next(self) -> str:
        weight, _, inside = self.top
        while not isinstance(inside, str):
            share = Fraction(inside["first"][0], weight)
            turn = half_up((inside["passed"] + 1) * share) > half_up(inside["passed"] * share)
            inside["passed"] += 1
            weight, _, inside = inside["first" if turn else "second"]
        return str(inside)


def on_fingers(weights: dict[str, int]) -> Iterator[tuple[str, int]]:
    tree, seen = Fingers(weights), Counter[str]()
    while True:
        name = tree.next()
        yield name, seen[name]
        seen[name] += 1


def ramp_on_fingers(
    before: dict[str, int], before_index: int, after: dict[str, int], n: int
) -> Iterator[tuple[str, int]]:
    old, new, seen = Fingers(before), Fingers(after), Counter[str]()
    for _ in range(before_index):
        old.next()
    for i in range(n):
        of_new = half_up(Fraction((i + 1) ** 2, 2 * n)) > half_up(Fraction(i**2, 2 * n))
        name = new.next() if of_new else old.next()
        yield name, seen[name]
        seen[name] += 1


def drawn(mixer: Tree | Ramp, index: Integers) -> list[tuple[str, int]]:
    source, ordinal = mixer.draw(index)
    return [(mixer.names[s], k) for s, k in zip(source.tolist(), ordinal.tolist(), strict=True)]


@settings(max_examples=150, deadline=None)
@given(SMALL, st.integers(1, 150))
def test_a_tree_draws_what_counting_on_fingers_draws(weights: dict[str, int], n: int) -> None:
    fingers = on_fingers(weights)
    assert drawn(Tree(weights), np.arange(n)) == [next(fingers) for _ in range(n)]


@settings(max_examples=150, deadline=None)
@given(SMALL, st.integers(0, 40), SMALL, st.integers(1, 120))
def test_a_ramp_draws_what_counting_on_fingers_draws(
    before: dict[str, int], before_index: int, after: dict[str, int], n: int
) -> None:
    ramp = Ramp(Tree(before), before_index, Tree(after), n)
    assert drawn(ramp, np.arange(n)) == list(ramp_on_fingers(before, before_index, after, n))


# --- trees -----------------------------------------------------------------------------------------------


@pytest.mark.promise("Shares are exact at every sequence: within 1.68 sequences of the declared share, 3.86 in a ramp")
@settings(max_examples=60, deadline=None)
@given(mixtures(), st.lists(st.integers(0, 10**12), min_size=1, max_size=20))
def test_counts_add_up_grow_by_the_source_drawn_and_stay_within_the_bound(
    weights: dict[str, int], positions: list[int]
) -> None:
    tree = Tree(weights)
    assert all(tree.bound(name) < Fraction(168, 100) for name in tree.names)
    source, ordinal = tree.draw(np.array(positions))
    for at, (s, k) in enumerate(zip(source.tolist(), ordinal.tolist(), strict=True)):
        i = positions[at]
        counts, more = tree.counts(i), tree.counts(i + 1)
        assert list(counts) == list(tree.names)
        assert sum(counts.values()) == i
        assert min(counts.values()) >= 0
        assert {name: more[name] - counts[name] for name in counts if more[name] != counts[name]} == {tree.names[s]: 1}
        assert k == counts[tree.names[s]]
        for name, count in counts.items():
            assert abs(count - i * tree.share(name)) <= tree.bound(name)


@settings(max_examples=60, deadline=None)
@given(mixtures(), st.lists(st.integers(0, 10**12), min_size=1, max_size=20), st.data())
def test_where_draw_and_count_agree(weights: dict[str, int], positions: list[int], data: st.DataObject) -> None:
    tree = Tree(weights)
    index = np.array(positions)
    source, ordinal = tree.draw(index)
    for at in range(len(index)):
        assert tree.where(tree.names[source[at]], int(ordinal[at])) == index[at]
    name = data.draw(st.sampled_from(tree.names))
    assert tree.count(name, index).tolist() == [tree.counts(i)[name] for i in positions]
    assert tree.count_each(source, index).tolist() == ordinal.tolist()
    k = np.array(data.draw(st.lists(st.integers(0, 10**9), min_size=1, max_size=20)))
    places = tree.where(name, k)
    assert drawn(tree, places) == [(name, int(one)) for one in k]
    assert np.array_equal(tree.count(name, places), k)


def test_a_thousand_sequences_of_a_mixture_are_in_its_proportions() -> None:
    assert MATH_CODE.counts(1000) == {"proof-pile": 100, "slimpajama": 750, "starcoder": 150}
    assert MATH_CODE.names == ("proof-pile", "slimpajama", "starcoder")
    assert MATH_CODE.total == 20
    assert MATH_CODE.share("starcoder") == Fraction(15, 100)


@pytest.mark.promise("The order in which YAML lists weights and sources changes nothing")
@settings(max_examples=60, deadline=None)
@given(mixtures(), st.randoms(), st.integers(0, 10**12), st.integers(2, 5))
def test_neither_the_order_of_the_mapping_nor_a_common_factor_changes_a_draw(
    weights: dict[str, int], random: object, start: int, factor: int
) -> None:
    items = list(weights.items())
    random.shuffle(items)  # type: ignore[attr-defined]
    index = start + np.arange(100)
    expected = drawn(Tree(weights), index)
    assert drawn(Tree(dict(items)), index) == expected
    assert drawn(Tree({name: weight * factor for name, weight in items}), index) == expected


def test_one_source_fills_everything_without_error() -> None:
    tree = Tree({"slimpajama": 7})
    assert drawn(tree, np.array([0, 1, 10**12])) == [("slimpajama", 0), ("slimpajama", 1), ("slimpajama", 10**12)]
    assert tree.bound("slimpajama") == 0
    assert tree.counts(5) == {"slimpajama": 5}
    assert tree.where("slimpajama", 9) == tree.count("slimpajama", 9) == 9


def test_the_bound_is_half_the_weight_times_the_reciprocals_below_the_root() -> None:
    assert MATH_CODE.bound("slimpajama") == Fraction(1, 2)
    assert MATH_CODE.bound("starcoder") == Fraction(3, 2) * (Fraction(1, 3) + Fraction(1, 5))


@pytest.mark.promise("Shares are exact at every sequence: within 1.68 sequences of the declared share, 3.86 in a ramp")
def test_the_worst_mixture_there_can_be_comes_close_to_1_68_and_not_above() -> None:
    """A speck makes the second weight upwards nearly the first; from there on, the least growth allowed."""
    path, beside = [10_000, 10_001, 20_001], [10_000]
    while path[-1] < 10**8:
        beside.append(path[-2] + 1)
        path.append(path[-1] + beside[-1])
    tree = Tree({"a speck": 1, "the worst": 10_000, **{f"x{i:02d}": w for i, w in enumerate(beside)}})
    assert Fraction(1679, 1000) < tree.bound("the worst") < Fraction(168, 100)


@pytest.mark.parametrize(
    "weights",
    [
        {"most": LARGEST_TOTAL - 1, "least": 1},
        {"half": LARGEST_TOTAL // 2, "more": LARGEST_TOTAL // 2 + 1},
        {f"{i:02d}": w for i, w in enumerate(FIBONACCI)},  # as deep as a tree can be
        {f"s{i:04d}": 1 for i in range(3000)},
    ],
    ids=["steep", "even", "deep", "wide"],
)
def test_the_largest_weights_depths_and_positions_are_exact(weights: dict[str, int]) -> None:
    tree = Tree(weights)
    places = [0, 1, 2**31 - 1, 2**31, 2**32 + 7, 10**12, 2**53 + 1, LARGEST_INDEX - 2**32]
    index = np.array(places)
    source, ordinal = tree.draw(index)
    for at, i in enumerate(places):
        name, k = tree.names[source[at]], int(ordinal[at])
        assert tree.counts(i)[name] == k  # counts is computed in Python's own integers
        assert tree.counts(i + 1)[name] == k + 1
        assert tree.where(name, k) == i
    for name in (tree.names[0], tree.names[-1]):
        assert tree.count(name, index).tolist() == [tree.counts(i)[name] for i in places]


def test_an_int_gives_an_int_and_an_array_an_array_of_its_shape() -> None:
    square: Any = np.arange(12, dtype=np.int32).reshape(3, 4)
    ramp = Ramp(MATH_CODE, 5, Tree({"slimpajama": 1, "skypile": 1}), 40)
    for mixer in (MATH_CODE, Tree({"slimpajama": 1}), ramp):
        source, ordinal = mixer.draw(square)
        assert (source.shape, ordinal.shape) == ((3, 4), (3, 4))
        assert source.dtype == np.int32
        assert ordinal.dtype == np.int64
        flat = mixer.draw(square.ravel())
        assert np.array_equal(source.ravel(), flat[0])
        assert np.array_equal(ordinal.ravel(), flat[1])
        for answer in (mixer.count("slimpajama", square), mixer.where("slimpajama", square // 2)):
            assert (answer.shape, answer.dtype) == ((3, 4), np.int64)
        assert type(mixer.count("slimpajama", 3)) is int
        assert type(mixer.where("slimpajama", 3)) is int
        assert mixer.where("slimpajama", np.array([3]))[0] == mixer.where("slimpajama", 3)
        assert mixer.draw(7)[1] == mixer.draw(np.array([7]))[1][0]
        assert mixer.draw(np.array([], dtype=np.int64))[0].shape == (0,)


def test_what_is_asked_is_left_as_it_was() -> None:
    index = np.arange(50)
    for mixer in (MATH_CODE, Tree({"slimpajama": 1}), Ramp(MATH_CODE, 0, Tree({"skypile": 1}), 50)):
        mixer.draw(index)[1][:] = -1
    assert np.array_equal(index, np.arange(50))


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ({}, "needs at least one source"),
        ({"a": 0}, "not a whole number above zero"),
        ({"a": 1, "b": Fraction(3, 2)}, "weight of b is not a whole number above zero: 3/2"),
        ({"a": 1, "b": -1}, "weight of b is not a whole number above zero"),
        ({"a": LARGEST_TOTAL, "b": 1}, r"add up to 2,147,483,648, which is above 2\^31 - 1"),
    ],
)
def test_weights_a_tree_cannot_hold_are_refused(weights: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Tree(weights)


def test_places_that_cannot_be_are_refused_and_nothing_wraps() -> None:
    ask: Callable[[Any], object]
    wrong: Any
    for wrong in (-1, LARGEST_INDEX + 1, np.array([3, -1]), np.array([2**63], dtype=np.uint64)):
        for ask in (MATH_CODE.draw, lambda i: MATH_CODE.count("starcoder", i)):
            with pytest.raises(ValueError, match="a sequence's index must be from 0 to"):
                ask(wrong)
    with pytest.raises(ValueError, match="must be from 0 to"):
        MATH_CODE.counts(-1)
    last = MATH_CODE.names[int(MATH_CODE.draw(LARGEST_INDEX)[0])]
    assert MATH_CODE.where(last, MATH_CODE.count(last, LARGEST_INDEX)) == LARGEST_INDEX
    with pytest.raises(ValueError, match="comes after the last index"):
        MATH_CODE.where(last, MATH_CODE.count(last, LARGEST_INDEX) + 1)
    halves = Tree({"a": 1, "b": 1})
    assert halves.where("a", 2**61) == 2**62
    with pytest.raises(ValueError, match=r"of a comes after the last index, 2\^62"):
        halves.where("a", 2**61 + 1)
    with pytest.raises(ValueError, match="comes after the last index"):
        MATH_CODE.where("proof-pile", LARGEST_INDEX // 2)
    with pytest.raises(ValueError, match="comes after the last index"):
        Tree({"most": LARGEST_TOTAL - 1, "least": 1}).where("least", np.array([0, 2**40]))
    for ask in (MATH_CODE.bound, MATH_CODE.share, lambda name: MATH_CODE.count(name, 1)):
        with pytest.raises(ValueError, match="no source skypile"):
            ask("skypile")


# --- a rare source, a contiguous rank --------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "steps"), [(64, 1200), (896, 1200)])
def test_a_source_of_one_in_64_reaches_every_one_of_64_ranks_in_time_because_slots_rotate(
    batch: int, steps: int
) -> None:
    tree = Tree({"common": 63, "rare": 1})
    slots = np.arange(batch)
    served = {True: np.zeros(64, dtype=np.int64), False: np.zeros(64, dtype=np.int64)}
    for step in range(steps):
        for rotated in (True, False):
            turn = rotation(3407, step, batch) if rotated else 0
            source, _ = tree.draw(step * batch + (slots + turn) % batch)
            served[rotated] += (source == 1).reshape(64, -1).sum(axis=1)
    expected = steps * batch / 64 / 64
    assert served[True].sum() == served[False].sum() == steps * batch // 64
    assert served[True].min() > expected / 3
    assert served[True].max() < expected * 3
    assert served[False].min() == 0  # what the rotation is for


# --- ramps -----------------------------------------------------------------------------------------------


@pytest.mark.promise("Shares are exact at every sequence: within 1.68 sequences of the declared share, 3.86 in a ramp")
@settings(max_examples=40, deadline=None)
@given(
    mixtures(), st.integers(0, 10**12), mixtures(), st.integers(1, LARGEST_TOTAL), st.lists(st.floats(0, 1), max_size=8)
)
def test_in_a_ramp_counts_add_up_grow_by_the_source_drawn_and_stay_within_the_bound(
    before: dict[str, int], before_index: int, after: dict[str, int], n: int, parts: list[float]
) -> None:
    old, new = Tree(before), Tree(after)
    ramp = Ramp(old, before_index, new, n)
    base = old.counts(before_index)
    assert all(ramp.bound(name) < Fraction(386, 100) for name in ramp.names)
    for i in {0, n - 1, *(int(part * (n - 1)) for part in parts)}:
        counts, more = ramp.counts(i), ramp.counts(i + 1)
        (name, k) = drawn(ramp, np.array([i]))[0]
        assert list(counts) == list(ramp.names)
        assert sum(counts.values()) == i
        assert {s: more[s] - counts[s] for s in counts if more[s] != counts[s]} == {name: 1}
        assert k == counts[name]
        assert ramp.where(name, k) == i
        assert ramp.count(name, i) == k
        for source, count in counts.items():
            was = old.share(source) if source in before else Fraction()
            becomes = new.share(source) if source in after else Fraction()
            ideal = (before_index + i) * was + Fraction(i * i, 2 * n) * (becomes - was)
            assert abs(base.get(source, 0) + count - ideal) <= ramp.bound(source)


@pytest.mark.parametrize("n", [*range(1, 40), 97, 256, 1000])
def test_in_a_ramp_where_inverts_draw_at_every_place(n: int) -> None:
    ramp = Ramp(Tree({"old": 2, "both": 3, "older": 1}), 17, Tree({"both": 1, "new": 4, "newer": 2}), n)
    source, ordinal = ramp.draw(np.arange(n))
    for number, name in enumerate(ramp.names):
        mine = np.flatnonzero(source == number)
        assert ordinal[mine].tolist() == list(range(len(mine)))
        assert ramp.count(name, np.arange(n + 1)).tolist() == np.cumsum([0, *(source == number)]).tolist()
        if mine.size:
            assert ramp.where(name, ordinal[mine]).tolist() == mine.tolist()


def test_the_longest_ramp_is_exact_to_its_last_sequence() -> None:
    n = LARGEST_TOTAL
    ramp = Ramp(Tree({"old": 1}), LARGEST_INDEX - n, Tree({"new": 1}), n)
    places = [0, 1, 46_340, 46_341, n // 2, n - 2, n - 1]
    for i, (name, k) in zip(places, drawn(ramp, np.array(places)), strict=True):
        assert ramp.after_index(i) == (i * i + n) // (2 * n)
        assert k == (ramp.after_index(i) if name == "new" else i - ramp.after_index(i))
        assert ramp.where(name, k) == i
    assert ramp.after_index(n) == ramp.counts(n)["new"] == (n + 1) // 2


def test_the_bound_of_a_ramp_is_both_trees_bounds_and_half_the_change_of_share() -> None:
    before, after = Tree({"a": 1, "b": 3}), Tree({"b": 1, "c": 1})
    ramp = Ramp(before, 0, after, 9)
    assert ramp.bound("a") == before.bound("a") + Fraction(1, 8)
    assert ramp.bound("b") == before.bound("b") + after.bound("b") + Fraction(1, 8)
    assert ramp.bound("c") == after.bound("c") + Fraction(1, 4)


def test_shares_move_in_a_straight_line_and_are_exact() -> None:
    ramp = Ramp(Tree({"slimpajama": 1}), 5, MATH_CODE, 8)
    assert ramp.shares(0) == {"proof-pile": 0, "slimpajama": 1, "starcoder": 0}
    assert ramp.shares(4) == {
        "proof-pile": Fraction(5, 100),
        "slimpajama": Fraction(875, 1000),
        "starcoder": Fraction(75, 1000),
    }
    assert ramp.shares(8) == {name: MATH_CODE.share(name) for name in MATH_CODE.names}
    assert Ramp(Tree({"slimpajama": 1}), 0, Tree({"slimpajama": 1, "skypile": 1}), 2).shares(1)["skypile"] == Fraction(
        1, 4
    )
    assert all(sum(ramp.shares(i).values()) == 1 for i in range(9))


def test_a_ramp_goes_on_from_the_tree_before_and_ends_where_the_tree_after_goes_on() -> None:
    old, new, n = Tree({"a": 2, "b": 1}), Tree({"b": 1, "c": 1}), 300
    ramp = Ramp(old, 100, new, n)
    source, _ = ramp.draw(np.arange(n))
    fills_after = np.diff(ramp.after_index(np.arange(n + 1))) == 1
    names = np.array(ramp.names)[source]
    old_next = np.array(old.names)[old.draw(100 + np.arange((~fills_after).sum()))[0]]
    new_first = np.array(new.names)[new.draw(np.arange(ramp.after_index(n)))[0]]
    assert names[~fills_after].tolist() == old_next.tolist()
    assert names[fills_after].tolist() == new_first.tolist()
    assert fills_after.sum() == n // 2


def test_a_ramp_out_of_the_middle_of_another_starts_from_the_exact_shares() -> None:
    first = Ramp(Tree({"slimpajama": 1}), 0, MATH_CODE, 1000)
    second = Ramp(Tree(integer_weights(first.shares(333))), 0, Tree({"slimpajama": 1, "skypile": 1}), 1000)
    at_branch = {name: second.shares(0)[name] for name in first.names}
    assert at_branch == first.shares(333)


def test_the_6b_ramp_of_math_and_code_draws_three_quarters_of_a_billion_domain_tokens() -> None:
    n = -(-6 * 10**9 // 2048)
    assert n == 2_929_688
    basic = 732_422_656  # sequences of 2,048 tokens in 1,500,001,599,488 tokens
    ramp = Ramp(Tree({"slimpajama": 1}), basic, MATH_CODE, n)
    counts = ramp.counts(n)
    for name, tokens in (("starcoder", 450e6), ("proof-pile", 300e6), ("slimpajama", 5.25e9)):
        assert abs(counts[name] * 2048 - tokens) <= (float(ramp.bound(name)) + 1) * 2048
    domain = (counts["starcoder"] + counts["proof-pile"]) * 2048
    assert abs(domain - 0.75e9) < 2 * 3.86 * 2048
    assert ramp.shares(n // 2)["slimpajama"] == Fraction(875, 1000)

    chinese = Ramp(Tree({"slimpajama": 1}), basic, Tree({"slimpajama": 1, "skypile": 1}), n)
    assert chinese.shares(n // 2)["skypile"] == Fraction(25, 100)
    assert abs(chinese.counts(n)["skypile"] * 2048 - 1.5e9) < 3.86 * 2048


def test_ramps_and_places_that_cannot_be_are_refused() -> None:
    ask: Callable[[Any], object]
    old, new = Tree({"a": 1}), Tree({"b": 1})
    for n in (0, -1, LARGEST_TOTAL + 1):
        with pytest.raises(ValueError, match=r"a ramp takes from 1 to 2\^31 - 1 sequences"):
            Ramp(old, 0, new, n)
    for start in (-1, LARGEST_INDEX):
        with pytest.raises(ValueError, match="the index at which a ramp begins"):
            Ramp(old, start, new, 10)
    ramp = Ramp(old, 0, new, 10)
    assert sum(ramp.counts(10).values()) == 10
    for wrong in (-1, 10):
        with pytest.raises(ValueError, match="must be from 0 to 9"):
            ramp.draw(wrong)
    for ask in (ramp.counts, ramp.shares, ramp.after_index, lambda i: ramp.count("a", i)):
        with pytest.raises(ValueError, match="a sequence's index must be from 0 to 10"):
            ask(11)
    with pytest.raises(ValueError, match="ordinal of a sequence of b in this ramp must be from 0 to 4"):
        ramp.where("b", 5)
    with pytest.raises(ValueError, match="draws nothing from a"):
        Ramp(old, 0, new, 1).where("a", 0)
    for ask in (ramp.bound, lambda name: ramp.count(name, 1), lambda name: ramp.where(name, 0)):
        with pytest.raises(ValueError, match="no source c"):
            ask("c")


# --- golden vectors: a change here is a change of every run's data, and needs a new ORDER_VERSION --------


@pytest.mark.promise("The order of the data never changes between versions without ORDER_VERSION")
def test_the_draws_are_the_ones_they_always_were() -> None:
    source, ordinal = MATH_CODE.draw(np.arange(20))
    assert source.tolist() == [1, 2, 1, 1, 1, 0, 1, 1, 1, 2, 1, 1, 1, 0, 1, 1, 1, 2, 1, 1]
    assert ordinal.tolist() == [0, 0, 1, 2, 3, 0, 4, 5, 6, 1, 7, 8, 9, 1, 10, 11, 12, 2, 13, 14]
    skewed = Tree({"a": 1, "b": 10, "c": 100, "d": 1000, "e": 10**6})
    source, ordinal = skewed.draw(2**62 - np.arange(1, 4))
    assert source.tolist() == [4, 4, 4]
    assert ordinal.tolist() == [4606568121244685058, 4606568121244685057, 4606568121244685056]


@pytest.mark.promise("The order of the data never changes between versions without ORDER_VERSION")
def test_the_draws_of_ramps_are_the_ones_they_always_were() -> None:
    long = Ramp(Tree({"slimpajama": 1}), 732_422_656, MATH_CODE, 2_929_688)
    source, ordinal = long.draw(2_929_687 - np.arange(8))
    assert source.tolist() == [1, 1, 2, 1, 1, 1, 2, 1]
    assert ordinal.tolist() == [2563476, 2563475, 219726, 2563474, 2563473, 2563472, 219725, 2563471]
    short = Ramp(MATH_CODE, 12345, Tree({"slimpajama": 1, "skypile": 1}), 100)
    source, ordinal = short.draw(np.arange(40, 60))
    assert source.tolist() == [3, 1, 2, 2, 2, 1, 2, 2, 3, 1, 2, 2, 2, 1, 2, 2, 0, 1, 2, 2]
    assert ordinal.tolist() == [4, 4, 28, 29, 30, 5, 31, 32, 5, 6, 33, 34, 35, 7, 36, 37, 4, 8, 38, 39]
