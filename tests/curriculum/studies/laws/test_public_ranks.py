"""Ranks on public runs: baselines, designs, spreads over subsets, and how often a predicted difference has its sign."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from public_runs import Runs, regmix
from scipy.stats import spearmanr

from curriculum.studies import contenders, designs, verdicts
from curriculum.studies.laws import mixture

SIZES = ("1m", "60m", "1B")
Array = NDArray[np.float64]
Rows = Sequence[int] | slice | NDArray[np.int64]
TARGET = "pile_cc"


def rank(predicted: Array, observed: Array) -> float:
    return float(spearmanr(predicted, observed).statistic)


@cache
def subsets() -> dict[int, list[NDArray[np.int64]]]:
    """Twenty subsets of the runs of each size, as the figures were computed: one generator draws all of them."""
    draw = np.random.default_rng(0)
    return {runs: [draw.permutation(512)[:runs] for _ in range(20)] for runs in (34, 85, 128)}


def averaged(rows: Rows, *, power: bool) -> Callable[[Array], Array]:
    """The mean of the laws of all thirteen losses, fitted to these rows."""
    train = regmix("train", "1m")
    laws = [
        mixture.fit(train.shares[rows], train.of(domain)[rows], train.own(domain) if power else None)
        for domain in train.domains
    ]
    return lambda shares: np.mean([law.predict(shares) for law in laws], axis=0)


def rank_of_average(predict: Callable[[Array], Array], size: str) -> float:
    test = regmix("test", size)
    return rank(predict(test.shares), test.losses.mean(axis=1))


def linear(runs: Runs, rows: Rows) -> Array:
    return np.linalg.lstsq(runs.shares[rows], runs.of(TARGET)[rows], rcond=None)[0]


@pytest.mark.parametrize(
    ("runs", "ranks"),
    [
        (34, (0.7518, 0.7574, 0.8629)),
        (85, (0.8795, 0.8754, 0.8904)),
        (128, (0.9082, 0.9014, 0.9195)),
        (512, (0.9018, 0.8929, 0.8789)),
    ],
)
def test_the_law_ranks_better_than_a_linear_one_whose_ranks_are_the_published_ones(
    runs: int, ranks: tuple[float, ...]
) -> None:
    train = regmix("train", "1m")
    slopes = linear(train, slice(runs))
    law = mixture.fit(train.shares[:runs], train.of(TARGET)[:runs])
    for size, expected in zip(SIZES, ranks, strict=True):
        test = regmix("test", size)
        found = rank(test.shares @ slopes, test.of(TARGET))
        assert found == pytest.approx(expected, abs=0.001), size
        assert rank(law.predict(test.shares), test.of(TARGET)) > found, size


def test_more_of_the_own_share_ranks_as_published_without_any_run() -> None:
    for size, expected in zip(SIZES, (0.8167, 0.8137, 0.9808), strict=True):
        test = regmix("test", size)
        found = contenders.rank(-test.shares[:, test.own(TARGET)], test.of(TARGET))
        assert found == pytest.approx(expected, abs=0.0005), size


@pytest.mark.parametrize(("power", "expected", "objective"), [(False, 0.7350, 0.002778), (True, 0.7541, None)])
def test_twice_as_many_runs_rank_the_average_of_thirteen_losses_and_find_the_best(
    power: bool, expected: float, objective: float | None
) -> None:
    train, test = regmix("train", "1m"), regmix("test", "1B")
    if objective is not None:
        fitted = [mixture.fit(train.shares[:170], train.of(domain)[:170]).objective for domain in train.domains]
        assert np.mean(fitted) <= objective * 1.01
    predicted, observed = averaged(slice(170), power=power)(test.shares), test.losses.mean(axis=1)
    assert rank(predicted, observed) == pytest.approx(expected, abs=0.02)
    assert observed[predicted.argmin()] - observed.min() <= 0.005


def test_designs_of_one_run_more_rank_the_average_by_the_log_linear_law_as_published() -> None:
    """One design says little: with 34 runs the rank is 0.69, without any one of them 0.63 to 0.75."""
    picked = designs.d_optimal(regmix("train", "1m").shares, 39)
    ranks = [rank_of_average(averaged([*picked[:34], other], power=False), "1B") for other in picked[34:]]
    assert np.mean(ranks) == pytest.approx(0.722, abs=0.03)


@pytest.mark.parametrize(("runs", "power", "expected"), [(34, True, 0.734), (51, False, 0.713), (51, True, 0.739)])
def test_runs_picked_for_their_information_rank_a_thousand_times_the_size(
    runs: int, power: bool, expected: float
) -> None:
    picked = designs.d_optimal(regmix("train", "1m").shares, runs)
    predict = averaged(picked, power=power)
    assert rank_of_average(predict, "1B") == pytest.approx(expected, abs=0.03)
    if power:
        assert rank_of_average(predict, "1m") == pytest.approx(0.959, abs=0.03)


def pairs_right(predicted: Array, observed: Array) -> float:
    first, second = np.triu_indices(len(observed), 1)
    return float((np.sign(predicted[first] - predicted[second]) == np.sign(observed[first] - observed[second])).mean())


@pytest.mark.parametrize(
    ("runs", "expected", "spread", "pairs", "baseline", "baseline_spread"),
    [
        (34, 0.92, 0.08, 0.91, 0.755, 0.087),
        (85, 0.975, 0.012, 0.946, 0.864, 0.051),
        (128, 0.979, 0.013, 0.949, 0.844, 0.055),
    ],
)
def test_subsets_of_runs_rank_as_published_on_average_and_spread_as_much(
    runs: int, expected: float, spread: float, pairs: float, baseline: float, baseline_spread: float
) -> None:
    train, test = regmix("train", "1m"), regmix("test", "1B")
    ours, right, theirs = [], [], []
    for rows in subsets()[runs]:
        predicted = mixture.fit(train.shares[rows], train.of(TARGET)[rows]).predict(test.shares)
        ours.append(rank(predicted, test.of(TARGET)))
        right.append(pairs_right(predicted, test.of(TARGET)))
        theirs.append(rank(test.shares @ linear(train, rows), test.of(TARGET)))
    assert (np.mean(theirs), np.std(theirs)) == pytest.approx((baseline, baseline_spread), abs=0.001)
    assert np.mean(ours) == pytest.approx(expected, abs=max(0.01, spread / 4))
    assert np.std(ours) <= 1.5 * spread
    assert np.mean(right) == pytest.approx(pairs, abs=0.02)


def test_a_predicted_difference_has_its_sign_as_often_as_verdicts_say_of_one_of_its_size() -> None:
    train, test = regmix("train", "1m"), regmix("test", "1B")
    observed = test.of(TARGET)
    first, second = np.triu_indices(len(observed), 1)
    gaps, right = [], []
    for rows in subsets()[85]:
        predicted = mixture.fit(train.shares[rows], train.of(TARGET)[rows]).predict(test.shares)
        difference = predicted[first] - predicted[second]
        gaps.append(np.abs(difference))
        right.append(np.sign(difference) == np.sign(observed[first] - observed[second]))
    gap, sign = np.concatenate(gaps), np.concatenate(right)
    edges = [least for least, _ in verdicts.RIGHT_BEFORE] + [np.inf]
    found = [sign[(gap >= low) & (gap < high)].mean() for low, high in pairwise(edges)]
    assert found == pytest.approx([share for _, share in verdicts.RIGHT_BEFORE], abs=0.03)
    assert found == sorted(found)
