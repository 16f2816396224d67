"""The points of a swarm: deterministic, within the caps, exact, and picked for their information."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from curriculum.studies import designs

AROUND = [Fraction(3, 4), Fraction(3, 20), Fraction(1, 10)]
FREE = [Fraction(0)] * 3, [Fraction(1)] * 3


def test_the_same_name_and_seed_give_the_same_swarm_and_others_another() -> None:
    first = designs.swarm(AROUND, *FREE, 6, name="domains", seed=3407)
    assert first == designs.swarm(AROUND, *FREE, 6, name="domains", seed=3407)
    assert first != designs.swarm(AROUND, *FREE, 6, name="domains", seed=1)
    assert first != designs.swarm(AROUND, *FREE, 6, name="sources", seed=3407)


def test_a_swarm_is_what_it_was_on_every_machine() -> None:
    mixtures = designs.swarm(AROUND, *FREE, 4, name="domains", seed=3407)
    assert [[int(share * designs.PARTS) for share in mixture] for mixture in mixtures] == GOLDEN


GOLDEN = [[1000, 0, 0], [48, 6, 946], [73, 924, 3], [643, 181, 176]]


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000), cap=st.integers(30, 100))
def test_every_mixture_sums_to_one_exactly_within_the_caps(seed: int, cap: int) -> None:
    high = [Fraction(1), Fraction(cap, 100), Fraction(33, 100)]
    low = [Fraction(0), Fraction(1, 50), Fraction(0)]
    mixtures = designs.swarm(AROUND, low, high, 12, name="capped", seed=seed)
    assert len(set(mixtures)) == 12
    for mixture in mixtures:
        assert sum(mixture) == 1
        assert all(least <= share <= most for least, share, most in zip(low, mixture, high, strict=True))


def test_a_source_without_a_share_stays_without() -> None:
    mixtures = designs.swarm([Fraction(1, 2), Fraction(1, 2), Fraction(0)], *FREE, 8, name="two", seed=1)
    assert all(mixture[2] == 0 for mixture in mixtures)


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 1000), windows=st.integers(12, 400))
def test_a_swarm_of_short_arms_has_no_share_of_which_an_arm_reads_nothing(seed: int, windows: int) -> None:
    least, low, high = Fraction(3, windows), [Fraction(0), Fraction(1, 50), Fraction(0)], [Fraction(9, 10)] * 3
    mixtures = designs.swarm(AROUND, low, high, 6, name="short", seed=seed, least=[least] * 3)
    assert len(set(mixtures)) == 6
    for mixture in mixtures:
        assert sum(mixture) == 1
        assert all(share == 0 or share >= least for share in mixture)
        assert all(bottom <= share <= top for bottom, share, top in zip(low, mixture, high, strict=True))


def test_a_share_is_raised_or_taken_away_by_what_is_nearer() -> None:
    least, free = np.array([40, 40, 40]), ([Fraction(0)] * 3, [Fraction(1)] * 3)
    assert designs.readable(np.array([700, 290, 10]), *free, least).tolist()[2] == 0  # type: ignore[union-attr]
    assert designs.readable(np.array([700, 270, 30]), *free, least).tolist()[2] == 40  # type: ignore[union-attr]
    narrow = [Fraction(1, 2), Fraction(1, 2), Fraction(3, 100)]
    assert designs.readable(np.array([500, 470, 30]), free[0], narrow, least) is None


def test_picked_points_determine_more_than_random_ones() -> None:
    points = np.random.default_rng(0).dirichlet(np.ones(6), size=300)

    def information(rows: list[int]) -> float:
        return float(np.linalg.slogdet(0.01 * np.eye(6) + points[rows].T @ points[rows])[1])

    picked = information(designs.d_optimal(points, 12))
    draw = np.random.default_rng(1)
    assert all(information(list(draw.permutation(300)[:12])) < picked for _ in range(200))


def test_more_runs_than_points_are_refused_in_the_singular_where_there_is_one() -> None:
    with pytest.raises(ValueError, match=r"^2 runs cannot be picked from 1 point$"):
        designs.d_optimal(np.ones((1, 2)), 2)


def test_each_pick_is_the_best_next_one() -> None:
    points = np.random.default_rng(3).dirichlet(np.ones(4), size=60)
    chosen = designs.d_optimal(points, 5)
    matrix = 0.01 * np.eye(4)
    for index in chosen:
        gains = [np.linalg.slogdet(matrix + np.outer(point, point))[1] for point in points]
        assert gains[index] == pytest.approx(max(gains), abs=1e-9)
        matrix += np.outer(points[index], points[index])


def test_no_point_is_picked_twice_where_all_are() -> None:
    points = np.random.default_rng(3).dirichlet(np.ones(4), size=60)
    assert sorted(designs.d_optimal(points, 60)) == list(range(60)), "what the last picks add is far below 1"


def test_controls_are_not_picked_again() -> None:
    corner = (Fraction(1), Fraction(0), Fraction(0))
    assert corner in designs.swarm(AROUND, *FREE, 2, name="domains", seed=3407)
    assert corner not in designs.swarm(AROUND, *FREE, 2, name="domains", seed=3407, controls=[corner])


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10_000), sources=st.integers(1, 9), parts=st.sampled_from([100, 1000]))
def test_rounded_shares_sum_to_all_parts_and_are_less_than_a_part_away(seed: int, sources: int, parts: int) -> None:
    shares = np.random.default_rng(seed).dirichlet(np.ones(sources))
    whole = designs.rounded(shares, np.zeros(sources, np.int64), np.full(sources, parts), parts)
    assert whole.sum() == parts
    assert np.abs(whole - shares * parts).max() < 1 + 1e-6
