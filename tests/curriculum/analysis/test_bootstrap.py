"""The noise of a paired difference, against cases that can be counted out or are known."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, strategies as st

from curriculum.analysis import bootstrap
from curriculum.analysis.bootstrap import paired


def every_resample(differences: list[float]) -> np.ndarray:
    """The mean of each of the n^n equally likely resamples, sorted."""
    n = len(differences)
    return np.sort([np.mean([differences[i] for i in drawn]) for drawn in product(range(n), repeat=n)])


def test_error_and_interval_are_those_of_all_resamples_counted_out() -> None:
    differences = [0.31, -0.22, 0.05, 0.4, -0.07, 0.13]
    means = every_resample(differences)
    found = paired(np.array(differences))
    assert found.mean == pytest.approx(np.mean(differences))
    assert found.error == pytest.approx(means.std(), rel=0.03)
    # the share of all resamples below and above the interval
    assert np.mean(means < found.low) == pytest.approx(0.025, abs=0.006)
    assert np.mean(means > found.high) == pytest.approx(0.025, abs=0.006)


def test_the_error_is_the_standard_error_of_the_mean_for_many_windows() -> None:
    differences = np.random.default_rng(5).normal(0.02, 0.3, 400)
    found = paired(differences)
    assert found.error == pytest.approx(differences.std() / 20, rel=0.03)
    assert found.high - found.low == pytest.approx(2 * 1.96 * found.error, rel=0.05)


def test_intervals_hold_the_true_difference_about_19_times_in_20(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 1000)
    draw = np.random.default_rng(11)
    held = 0
    for _ in range(400):
        found = paired(draw.normal(0.1, 1.0, 80))
        held += found.low <= 0.1 <= found.high
    assert 0.91 <= held / 400 <= 0.98


@pytest.mark.promise(
    "Differences of variants are paired by window; losses on other text or other windows are not "
    "compared, and the reason is shown"
)
def test_pairing_makes_a_difference_visible_that_is_lost_without_it() -> None:
    draw = np.random.default_rng(3)
    windows = draw.normal(4.0, 0.6, 96)  # windows differ far more than models do
    mine, other = windows + draw.normal(0.02, 0.03, 96), windows + draw.normal(0.0, 0.03, 96)
    together = paired(mine - other)
    apart = np.hypot(paired(mine).error, paired(other).error)
    assert together.error < apart / 10
    assert together.shown
    assert abs(mine.mean() - other.mean()) < 1.96 * apart


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=40))
def test_the_interval_holds_the_mean_and_turning_the_sign_mirrors_it(values: list[float]) -> None:
    differences = np.array(values)
    found, turned = paired(differences), paired(-differences)
    tiny = 1e-9
    assert differences.min() - tiny <= found.low <= found.high <= differences.max() + tiny
    assert (turned.mean, turned.error) == pytest.approx((-found.mean, found.error), abs=tiny)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low), abs=tiny)


def test_the_same_measurements_give_the_same_figures_to_the_bit() -> None:
    differences = np.linspace(-0.4, 0.7, 33)
    np.random.default_rng(0).random(7)
    assert paired(differences) == paired(differences.copy())


@pytest.mark.parametrize(
    ("values", "shown"), [([0.1, 0.2, 0.15, 0.12], True), ([-0.1, -0.2], True), ([0.1, -0.1, 0.2, -0.2], False)]
)
def test_a_difference_is_shown_when_its_interval_excludes_0(values: list[float], shown: bool) -> None:
    assert paired(np.array(values)).shown is shown


def test_no_window_is_refused() -> None:
    with pytest.raises(ValueError, match="no window"):
        paired(np.array([]))
