"""Conformal intervals of public runs cover what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from public_runs import regmix

from curriculum.studies import intervals
from curriculum.studies.laws import mixture


def coverage(order: np.ndarray) -> tuple[float, float]:
    """Coverage of the test runs and half width: fitted to the first 85 of `order`, calibrated on the next 64."""
    train, test = regmix("train", "1m"), regmix("test", "1m")
    losses = train.of("pile_cc")
    fitted, held_back = order[:85], order[85:149]
    law = mixture.fit(train.shares[fitted], losses[fitted])
    half = intervals.conformal_half_width(law.predict(train.shares[held_back]) - losses[held_back])
    missed = np.abs(law.predict(test.shares) - test.of("pile_cc"))
    return float((missed <= half).mean()), half


def test_the_first_split_of_the_public_runs_is_covered_as_computed() -> None:
    covered, half = coverage(np.arange(512))
    assert covered == pytest.approx(0.8789, abs=0.01)
    assert half == pytest.approx(0.1702, abs=0.005)


def test_twenty_splits_cover_nine_tenths_on_average() -> None:
    draw = np.random.default_rng(0)
    covered, half = np.mean([coverage(draw.permutation(512)) for _ in range(20)], axis=0)
    assert 0.88 <= covered <= 0.97
    assert half == pytest.approx(0.212, abs=0.03)


def test_too_few_held_back_arms_give_no_finite_interval() -> None:
    assert intervals.conformal_half_width(np.ones(8)) == math.inf
    assert intervals.conformal_half_width(np.arange(1.0, 10.0)) == 9.0


def test_an_interval_is_symmetric_and_as_wide_as_its_farthest_resamples_and_few_arms_ask() -> None:
    one_sided = np.linspace(0.5, 0.6, 199)
    low, high = intervals.symmetric_interval(one_sided, 0.5, 10_000_000, 5)
    assert (low, high) == pytest.approx((0.405, 0.595), abs=1e-3), "percentiles would end at 0.5 below"
    mirrored = intervals.symmetric_interval(1.0 - one_sided, 0.5, 10_000_000, 5)
    assert mirrored == pytest.approx((low, high), abs=1e-9), "the same where they lie below"
    few_low, few_high = intervals.symmetric_interval(one_sided, 0.5, 10, 5)
    # the root of 10 over the 5 that judge the fit, and Student's quantile of 5 degrees for a normal one
    assert few_high - few_low == pytest.approx((high - low) * math.sqrt(2) * 2.5706 / 1.95996, rel=1e-4)


def test_resamples_are_the_same_each_time() -> None:
    first, again = (np.array(list(intervals.resampled(12, 5))) for _ in range(2))
    assert (first == again).all()
    assert first.shape == (5, 12)
    low, high = intervals.percentile_interval(np.arange(101.0), 0.9)
    assert (low, high) == pytest.approx((4.1, 95.9))
    assert intervals.percentile_interval(np.arange(10.0)) == (0.0, 9.0)
