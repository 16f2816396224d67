"""Weights as integers of the same proportions, exactly or within one of their part."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings, strategies as st

from curriculum.plan.mixing import LARGEST_TOTAL, Tree, integer_weights


def test_weights_become_the_smallest_integers_of_the_same_proportions() -> None:
    asked = {"slimpajama": Fraction(75), "starcoder": Fraction(15), "proof-pile": Fraction(10), "skypile": Fraction()}
    assert integer_weights(asked) == {"proof-pile": 2, "slimpajama": 15, "starcoder": 3}
    assert list(integer_weights(asked)) == ["proof-pile", "slimpajama", "starcoder"]
    assert integer_weights({"a": Fraction("0.1"), "b": Fraction("0.2")}) == {"a": 1, "b": 2}
    assert integer_weights({"a": Fraction(1, 3), "b": Fraction(1, 7)}) == {"a": 7, "b": 3}
    assert integer_weights({"alone": Fraction("0.693584")}) == {"alone": 1}


def test_a_total_that_just_fits_is_kept_exactly() -> None:
    weights = {"a": LARGEST_TOTAL - 1, "b": 1}
    assert integer_weights({name: Fraction(weight) for name, weight in weights.items()}) == weights


def test_a_total_too_large_is_shared_out_by_largest_remainder() -> None:
    equal = integer_weights({name: Fraction(2**40) + (name == "c") for name in "abc"})
    assert equal == {"a": 715827882, "b": 715827882, "c": 715827883}
    tie = integer_weights({"b": Fraction(2**50 + 1), "a": Fraction(2**50 + 1), "c": Fraction(2**51 + 1)})
    assert tie["a"] == tie["b"] + 1 or tie["a"] == tie["b"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.fractions(min_value=Fraction(1, 10**6), max_value=10**3), min_size=1, max_size=40), st.randoms())
def test_integer_weights_are_exact_or_within_one_of_their_part_whatever_the_order(
    fractions: list[Fraction], random: object
) -> None:
    asked = {f"s{i}": fraction for i, fraction in enumerate(fractions)}
    got = integer_weights(asked)
    items = list(asked.items())
    random.shuffle(items)  # type: ignore[attr-defined]
    assert integer_weights(dict(items)) == got
    total = sum(got.values())
    for name, fraction in asked.items():
        part = fraction / sum(fractions) * total
        assert abs(got[name] - part) < 1 if total == LARGEST_TOTAL else got[name] == part
    assert total <= LARGEST_TOTAL
    assert total == LARGEST_TOTAL or math.gcd(*got.values()) == 1
    Tree(got)


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ({}, "at least one source with a weight above zero"),
        ({"a": Fraction()}, "at least one source with a weight above zero"),
        ({"a": Fraction(1), "b": Fraction(-1, 2)}, "the weight of b is negative: -1/2"),
        ({"a": Fraction(10**12), "b": Fraction(1)}, "the weight of b is too small next to the others"),
    ],
)
def test_weights_that_mean_nothing_or_would_be_lost_are_refused(weights: dict[str, Fraction], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        integer_weights(weights)
