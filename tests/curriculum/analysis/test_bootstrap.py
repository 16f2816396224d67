"""The noise of a paired difference, against cases that can be counted out or are known."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from curriculum.analysis.bootstrap import paired
from curriculum.data.held_out import LEAST_DOCUMENTS

WINDOW_TRIALS = 200  # of intervals that take windows for independent, which are far off


def every_resample(differences: list[float], documents: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The mean of each of the n^n equally likely resamples of n documents, and each one's linearised error."""
    of = {number: [d for d, at in zip(differences, documents, strict=True) if at == number] for number in documents}
    n = len(of)
    means, errors = [], []
    for drawn in product(of.values(), repeat=n):
        mean = sum(map(sum, drawn)) / sum(map(len, drawn))
        spread = sum((sum(document) - len(document) * mean) ** 2 for document in drawn)
        means.append(mean)
        errors.append((n / (n - 1) * spread) ** 0.5 / sum(map(len, drawn)))
    return np.array(means), np.array(errors)


@pytest.mark.promise("Errors respect documents, and 95% intervals hold the truth 95% ±2% of the time")
@pytest.mark.parametrize(
    ("differences", "documents"),
    [
        ([0.31, -0.22, 0.05, 0.4, -0.07, 0.13], [0, 1, 2, 3, 4, 5]),
        ([0.3, 0.35, 0.28, -0.2, -0.1, 0.05, 0.01, 0.4, 0.1, 0.2, 0.15], [9, 9, 9, 4, 4, 1, 7, 7, 3, 3, 3]),
        ([0.5, 0.1, 0.2, 0.3, 0.4, -0.1, -0.2, -0.3], [0, 1, 1, 2, 2, 3, 4, 5]),
    ],
)
def test_error_and_interval_are_those_of_all_resamples_counted_out(
    differences: list[float], documents: list[int]
) -> None:
    means, errors = every_resample(differences, documents)
    found = paired(np.array(differences), np.array(documents))
    n, mean = len(set(documents)), np.mean(differences)
    assert found.documents == n
    assert found.mean == pytest.approx(mean)
    assert found.error == pytest.approx(means.std(), rel=0.03)
    spread = sum(
        (sum(d - mean for d, at in zip(differences, documents, strict=True) if at == number)) ** 2
        for number in set(documents)
    )
    own = (n / (n - 1) * spread) ** 0.5 / len(differences)
    # the share of all resamples further from the mean than the interval, each in units of its own error
    assert found.high is not None
    beyond = np.abs(means - mean) > (found.high - mean) / own * errors * (1 + 1e-9) + 1e-12
    assert np.mean(beyond) == pytest.approx(0.05, abs=0.012)


def cover(draw: np.random.Generator, lengths: np.ndarray, correlation: float, trials: int) -> tuple[float, float]:
    """How often the intervals by document and by window hold the truth, 0."""
    documents = np.repeat(np.arange(len(lengths)), lengths)
    by_document = by_window = 0
    for trial in range(trials):
        own = draw.normal(0, correlation**0.5, len(lengths))
        values = own[documents] + draw.normal(0, (1 - correlation) ** 0.5, len(documents))
        for_documents = paired(values, documents)
        by_document += (for_documents.low or 0) <= 0 <= (for_documents.high or 0)
        if trial < WINDOW_TRIALS:
            for_windows = paired(values)
            by_window += (for_windows.low or 0) <= 0 <= (for_windows.high or 0)
    return by_document / trials, by_window / min(trials, WINDOW_TRIALS)


@pytest.mark.promise("Errors respect documents, and 95% intervals hold the truth 95% ±2% of the time")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("documents", "windows", "correlation"), [(12, 20, 0.3), (21, 27, 0.2), (40, 6, 0.3), (80, 3, 0.5)]
)
def test_intervals_hold_the_true_difference_95_times_in_100_where_windows_of_a_document_are_alike(
    documents: int, windows: int, correlation: float
) -> None:
    draw = np.random.default_rng(11)
    lengths = np.maximum(1, draw.lognormal(np.log(windows), 0.4, documents)).astype(int)
    right, naive = cover(draw, lengths, correlation, 600)
    assert 0.93 <= right <= 0.97
    assert naive < 0.92


def test_windows_that_are_each_a_document_of_their_own_need_no_documents() -> None:
    differences = np.random.default_rng(2).normal(0.1, 1.0, 80)
    assert paired(differences) == paired(differences, np.arange(80))
    right, naive = cover(np.random.default_rng(3), np.ones(60, int), 0.5, 600)
    assert 0.93 <= right <= 0.97
    assert naive > 0.9


def test_below_five_documents_there_is_no_interval_and_of_one_no_error() -> None:
    differences = np.linspace(0.9, 1.1, 12)
    for documents in range(1, LEAST_DOCUMENTS + 1):
        found = paired(differences, np.arange(12) % documents)
        assert found.documents == documents
        assert (found.error is None) == (documents == 1)
        assert (found.low is None) == (found.high is None) == (documents < LEAST_DOCUMENTS)
        assert found.shown == (documents >= LEAST_DOCUMENTS)


def test_the_error_is_the_standard_error_of_the_mean_for_many_windows() -> None:
    differences = np.random.default_rng(5).normal(0.02, 0.3, 400)
    found = paired(differences)
    assert found.error == pytest.approx(differences.std() / 20, rel=0.03)
    assert found.error is not None
    assert found.high is not None
    assert found.low is not None
    assert found.high - found.low == pytest.approx(2 * 1.97 * found.error, rel=0.05)


@pytest.mark.promise(
    "Differences of variants are paired by window; losses on other text or other windows are not "
    "compared, and the reason is shown"
)
def test_pairing_makes_a_difference_visible_that_is_lost_without_it() -> None:
    draw = np.random.default_rng(3)
    windows = draw.normal(4.0, 0.6, 96)  # windows differ far more than models do
    mine, other = windows + draw.normal(0.02, 0.03, 96), windows + draw.normal(0.0, 0.03, 96)
    together = paired(mine - other)
    apart = np.hypot(paired(mine).error or 0, paired(other).error or 0)
    assert together.error is not None
    assert together.error < apart / 10
    assert together.shown
    assert abs(mine.mean() - other.mean()) < 1.96 * apart


@settings(deadline=None)  # the first resamples of a number of documents take longer
@given(st.lists(st.tuples(st.floats(-20, 20), st.integers(0, 12)), min_size=1, max_size=40))
def test_the_interval_holds_the_mean_and_turning_the_sign_mirrors_it(values: list[tuple[float, int]]) -> None:
    differences, documents = np.array([d for d, _ in values]), np.array([at for _, at in values])
    found, turned = paired(differences, documents), paired(-differences, documents)
    assert found.documents == len({at for _, at in values})
    if found.low is None or found.high is None:
        assert found.documents < LEAST_DOCUMENTS
        return
    assert found.low <= found.mean <= found.high
    tiny = max(1e-9, 1e-6 * (found.high - found.low))
    assert (turned.mean, turned.error) == pytest.approx((-found.mean, found.error), abs=tiny)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low), abs=tiny)


def test_the_same_measurements_give_the_same_figures_to_the_bit() -> None:
    differences = np.linspace(-0.4, 0.7, 33)
    np.random.default_rng(0).random(7)
    assert paired(differences) == paired(differences.copy())


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0.1, 0.2, 0.15, 0.12, 0.18], True),
        ([-0.1] * 6, True),
        ([0.1, -0.1, 0.2, -0.2, 0.05], False),
        ([0.1, 0.2, 0.15, 0.12], False),
    ],
)
def test_a_difference_is_shown_when_its_interval_excludes_0(values: list[float], shown: bool) -> None:
    assert paired(np.array(values)).shown is shown


def test_no_window_is_refused() -> None:
    with pytest.raises(ValueError, match="no window"):
        paired(np.array([]))
