"""The convex programme reaches the values that were computed of public runs, and those of an independent solver."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray
from public_runs import regmix

from curriculum.studies import programme
from curriculum.studies.laws import mixture
from curriculum.studies.laws.mixture import MixtureLaw
from curriculum.studies.programme import Infeasible, NotSolved, Programme


@cache
def public(pull: float) -> Programme:
    """Thirteen laws of all 512 runs, equal weights, around the mean of the shares, caps of four times that."""
    runs = regmix("train", "1m")
    laws = tuple((mixture.fit(runs.shares, runs.of(domain)), 1 / len(runs.domains)) for domain in runs.domains)
    around = runs.shares.mean(axis=0)
    return Programme(laws, around, np.zeros(17), 4 * around, pull=pull)


@cache
def pulled(pull: float) -> Programme:
    return replace(public(0.05), pull=pull)


def test_the_value_at_the_prior_and_at_the_optimum_are_those_of_the_public_runs() -> None:
    assert pulled(0.0).objective(pulled(0.0).around)[0] == pytest.approx(4.60090, abs=0.002)
    for pull, value in ((0.0, 4.55910), (0.05, 4.56428), (0.1, 4.56795)):
        optimum = programme.solve(pulled(pull))
        assert optimum.value == pytest.approx(value, abs=0.002), pull
        assert optimum.residual < 1e-5


def test_a_limit_is_met_with_equality() -> None:
    free = pulled(0.05)
    github = free.lower[regmix("train", "1m").domains.index("github")][0]
    limit = github.at(free.around)[0] - 0.05
    optimum = programme.solve(replace(free, keep=((github, limit),)))
    assert limit == pytest.approx(4.2510, abs=1e-3)
    assert github.at(optimum.shares)[0] == pytest.approx(limit, abs=1e-6)
    assert optimum.value == pytest.approx(4.5791, abs=0.002)
    assert optimum.multipliers[0] > 0


def test_a_limit_that_no_mixture_reaches_is_refused_with_the_lowest_loss_that_one_does() -> None:
    free = pulled(0.05)
    law = free.lower[0][0]
    with pytest.raises(Infeasible) as refused:
        programme.solve(replace(free, keep=((law, 1.0),)))
    low, high = free.bounds
    assert refused.value.lowest[0] == pytest.approx(programme.lowest(law, low, high), abs=1e-6)
    assert refused.value.excess == pytest.approx(refused.value.lowest[0] - 1.0, abs=1e-4)


def test_bounds_that_leave_no_mixture_are_refused() -> None:
    law = MixtureLaw(1.0, (0.1, 0.2), None, 0.0, 0.0, 0.0)
    half = np.array([0.5, 0.5])
    for low, high in ((np.zeros(2), np.array([0.4, 0.4])), (np.array([0.6, 0.6]), np.ones(2))):
        with pytest.raises(Infeasible):
            programme.solve(Programme(((law, 1.0),), half, low, high))


def laws(seed: int, number: int, sources: int) -> list[MixtureLaw]:
    draw = np.random.default_rng(seed)
    return [
        MixtureLaw(
            float(draw.uniform(1, 3)),
            tuple(draw.uniform(-2, 1, sources).tolist()),
            index if index < sources and draw.random() < 0.6 else None,
            float(draw.uniform(0, 0.4)),
            0.01,
            0.0,
        )
        for index in range(number)
    ]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), sources=st.integers(2, 5), pull=st.sampled_from([0.02, 0.05, 0.2]))
def test_an_independent_solver_finds_the_same_optimum(seed: int, sources: int, pull: float) -> None:
    import cvxpy as cp

    draw = np.random.default_rng(seed)
    lower = laws(seed, sources, sources)
    around = draw.dirichlet(np.full(sources, 3.0))
    high = np.minimum(1.0, around * draw.uniform(1.2, 3.0, sources))
    kept = lower[0]
    keep = ((kept, kept.at(around)[0]),)
    asked = Programme(tuple((law, 1 / sources) for law in lower), around, np.zeros(sources), high, keep, pull)
    ours = programme.solve(asked)

    x = cp.Variable(sources)

    def loss(law: MixtureLaw) -> cp.Expression:
        exponent = np.array(law.slopes) @ x
        if law.own is not None:
            exponent = exponent - law.power * (cp.log(x[law.own] + law.shift) - np.log(1 + law.shift))
        return law.floor + cp.exp(exponent)

    value = sum(loss(law) for law in lower) / sources + pull * cp.sum(cp.rel_entr(x, around))
    reference = cp.Problem(cp.Minimize(value), [cp.sum(x) == 1, x >= 0, x <= high, loss(kept) <= keep[0][1]])
    reference.solve(solver=cp.CLARABEL)
    assert ours.value == pytest.approx(reference.value, abs=1e-6)
    assert np.abs(ours.shares - x.value).max() < 2e-3


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), sources=st.integers(2, 6))
def test_no_mixture_within_the_bounds_is_better_than_the_optimum(seed: int, sources: int) -> None:
    draw = np.random.default_rng(seed)
    around = draw.dirichlet(np.full(sources, 3.0))
    asked = Programme(
        tuple((law, 1.0) for law in laws(seed, 3, sources)), around, 0.2 * around, np.minimum(1, 2 * around)
    )
    optimum = programme.solve(asked)
    low, high = asked.bounds
    assert optimum.shares.sum() == pytest.approx(1, abs=1e-9)
    assert (optimum.shares >= low - 1e-12).all()
    assert (optimum.shares <= high + 1e-12).all()
    for _ in range(20):
        other = programme.within(draw.dirichlet(np.ones(sources)), low, high)
        assert asked.objective(other)[0] >= optimum.value - 1e-9


def test_a_point_that_misses_the_optimality_conditions_is_not_returned() -> None:
    with pytest.raises(NotSolved, match="the optimality conditions are missed by"):
        programme.solve(pulled(0.05), accepted=0.0)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), sources=st.integers(1, 8))
def test_shares_are_scaled_into_any_bounds_that_allow_a_mixture(data: st.DataObject, sources: int) -> None:
    draw = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    inside: NDArray[np.float64] = draw.dirichlet(np.ones(sources))
    low, high = inside * draw.random(sources), inside + (1 - inside) * draw.random(sources)
    wanted = np.where(draw.random(sources) < 0.3, 0.0, draw.random(sources))
    fitted = programme.within(wanted, low, high)
    assert fitted.sum() == pytest.approx(1, abs=1e-9)
    assert (fitted >= low - 1e-9).all()
    assert (fitted <= high + 1e-9).all()
