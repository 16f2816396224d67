"""The law of a mixture reaches the objectives and ranks that were computed of public runs by another program."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray
from public_runs import Runs, regmix

from curriculum.studies import designs
from curriculum.studies.laws import mixture
from curriculum.studies.laws.mixture import MixtureLaw

SIZES = ("1m", "60m", "1B")


def rank(predicted: NDArray[np.float64], observed: NDArray[np.float64]) -> float:
    from scipy.stats import spearmanr  # here, as it takes a second to import

    return float(spearmanr(predicted, observed).statistic)


def of_all_domains(runs: Runs, rows: Sequence[int] | slice, *, power: bool) -> list[MixtureLaw]:
    return [
        mixture.fit(runs.shares[rows], runs.of(domain)[rows], runs.own(domain) if power else None)
        for domain in runs.domains
    ]


def average(laws: Sequence[MixtureLaw], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.mean([law.predict(shares) for law in laws], axis=0)


@pytest.mark.parametrize(
    ("runs", "objective", "ranks"),
    [
        (34, 0.000623, (0.8670, 0.8695, 0.9753)),
        (85, 0.001121, (0.9461, 0.9418, 0.9901)),
        (128, 0.001072, (0.9590, 0.9527, 0.9889)),
        (512, 0.001255, (0.9625, 0.9575, 0.9854)),
    ],
)
def test_the_log_linear_law_reaches_the_objective_and_ranks_unseen_mixtures_at_three_sizes(
    runs: int, objective: float, ranks: tuple[float, ...]
) -> None:
    train = regmix("train", "1m")
    law = mixture.fit(train.shares[:runs], train.of("pile_cc")[:runs])
    assert law.objective <= objective * 1.01
    for size, expected in zip(SIZES, ranks, strict=True):
        test = regmix("test", size)
        assert rank(law.predict(test.shares), test.of("pile_cc")) == pytest.approx(expected, abs=0.01), size


def test_the_power_of_the_own_share_is_that_of_the_public_runs() -> None:
    train = regmix("train", "1m")
    law = mixture.fit(train.shares[:85], train.of("pile_cc")[:85], train.own("pile_cc"))
    for size, expected in zip(SIZES, (0.9571, 0.9473, 0.9395), strict=True):
        test = regmix("test", size)
        assert rank(law.predict(test.shares), test.of("pile_cc")) == pytest.approx(expected, abs=0.015), size


@pytest.mark.parametrize(
    ("runs", "power", "objective", "expected", "regret"),
    [
        (34, False, 0.001427, 0.6878, 0.0022),
        (34, True, None, 0.7305, 0.0),
        (85, False, 0.002568, 0.6606, 0.0022),
        (85, True, None, 0.7623, 0.0),
    ],
)
def test_the_average_of_thirteen_losses_is_ranked_a_thousand_times_the_size(
    runs: int, power: bool, objective: float | None, expected: float, regret: float
) -> None:
    test = regmix("test", "1B")
    laws = of_all_domains(regmix("train", "1m"), slice(runs), power=power)
    predicted, observed = average(laws, test.shares), test.losses.mean(axis=1)
    assert rank(predicted, observed) == pytest.approx(expected, abs=0.02)
    assert observed[predicted.argmin()] - observed.min() == pytest.approx(regret, abs=0.005)
    if objective is not None:
        assert np.mean([law.objective for law in laws]) <= objective * 1.01


def test_runs_picked_for_their_information_rank_as_well_as_more_random_ones() -> None:
    train = regmix("train", "1m")
    picked = designs.d_optimal(train.shares, 34)
    laws = of_all_domains(train, picked, power=True)
    for size, expected in (("1m", 0.959), ("1B", 0.734)):
        test = regmix("test", size)
        assert rank(average(laws, test.shares), test.losses.mean(axis=1)) == pytest.approx(expected, abs=0.03), size


def test_random_runs_rank_the_average_of_thirteen_losses_and_better_with_the_power() -> None:
    train, test = regmix("train", "1m"), regmix("test", "1B")
    draw = np.random.default_rng(0)
    subsets = [draw.permutation(512)[:34] for _ in range(6)]
    for power, least in ((True, 0.68), (False, 0.52)):
        laws = [of_all_domains(train, rows, power=power) for rows in subsets]
        ranks = [rank(average(each, test.shares), test.losses.mean(axis=1)) for each in laws]
        assert np.mean(ranks) >= least, power


def planted(seed: int, sources: int, runs: int, own: int | None) -> tuple[MixtureLaw, NDArray[np.float64]]:
    draw = np.random.default_rng(seed)
    law = MixtureLaw(
        float(draw.uniform(1, 3)),
        tuple(draw.uniform(-3, 1, sources).tolist()),
        own,
        0.1 if own is not None else 0.0,
        0.01,
        0.0,
    )
    return law, draw.dirichlet(np.ones(sources), size=runs)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), sources=st.integers(2, 5))
def test_a_law_without_noise_is_found_again(seed: int, sources: int) -> None:
    law, shares = planted(seed, sources, 10 * sources, None)
    fitted = mixture.fit(shares, law.predict(shares))
    fresh = np.random.default_rng(seed + 1).dirichlet(np.ones(sources), size=50)
    assert np.abs(fitted.predict(fresh) - law.predict(fresh)).max() < 0.01


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), own=st.sampled_from([None, 0, 2]))
def test_the_gradient_is_the_slope_of_the_prediction(seed: int, own: int | None) -> None:
    law, shares = planted(seed, 4, 1, own)
    at = 0.9 * shares[0] + 0.025
    value, gradient = law.at(at)
    assert value == pytest.approx(float(law.predict(at[None])[0]), abs=1e-12)
    for source in range(4):
        step = np.zeros(4)
        step[source] = 1e-6
        slope = (law.predict((at + step)[None])[0] - law.predict((at - step)[None])[0]) / 2e-6
        assert gradient[source] == pytest.approx(float(slope), rel=1e-4, abs=1e-7)


def test_left_out_error_chooses_the_power_where_the_own_share_has_one() -> None:
    draw = np.random.default_rng(5)
    shares = draw.dirichlet(np.ones(3), size=30)
    powered = MixtureLaw(2.0, (-0.5, 0.2, 0.3), 1, 0.4, 0.01, 0.0)
    plain = MixtureLaw(2.0, (-0.5, -2.0, 0.3), None, 0.0, 0.0, 0.0)
    assert mixture.choose(shares, powered.predict(shares), 1)[0][0].own == 1
    losses = plain.predict(shares) + draw.normal(0, 0.01, 30)
    (first, predicted), *others = mixture.choose(shares, losses, 1)
    assert first.left_out_error == np.sqrt(((predicted - losses) ** 2).mean())
    assert np.array_equal(predicted, mixture.left_out(shares, losses, first))
    assert all(first.left_out_error <= (law.left_out_error or 0) for law, _ in others)
    assert mixture.choose(shares, plain.predict(shares), None)[0][0].own is None


def test_resampled_fits_start_at_the_whole_fit_and_reach_its_objective() -> None:
    train = regmix("train", "1m")
    shares, losses = train.shares[:85], train.of("pile_cc")[:85]
    whole = mixture.fit(shares, losses)
    assert mixture.fit(shares, losses, like=whole).objective <= whole.objective * (1 + 1e-6)
