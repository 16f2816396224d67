"""The convex programme of a proposal: the mixture with the lowest predicted loss within caps and limits.

    minimise  sum_d weight_d loss_d(x) + pull * KL(x || around)
    with      sum x = 1, low <= x <= high, loss_k(x) <= limit_k

The laws are convex in the shares, so a point that meets the Karush-Kuhn-Tucker conditions is the optimum (Boyd and
Vandenberghe, *Convex Optimization*, 2004, section 5.5.3). SLSQP finds it; it is accepted by those
conditions, not by what the solver says of itself, and another start follows where they are missed. Without a pull the
optimum is flat: weights differ by percents where the value does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curriculum.studies.laws.huber import Array
from curriculum.studies.laws.mixture import MixtureLaw

PULL = 0.05
ACCEPTED = 1e-5
"""Nats: the largest residual of the optimality conditions in a proposal that is accepted."""
_SMALLEST = 1e-12
_AT_BOUND = 1e-7
_TOLERANCE = 1e-7

Valued = Callable[[Array], tuple[float, Array]]
"""A function of a mixture with its gradient."""


@dataclass(frozen=True)
class Programme:
    """What is minimised: `lower` are laws with weights, `keep` laws with limits (nats).

    `around`, `low` and `high` have the shape `[sources]`; `around` sums to 1. A source without a share in `around`
    keeps none where there is a pull.
    """

    lower: tuple[tuple[MixtureLaw, float], ...]
    around: Array
    low: Array
    high: Array
    keep: tuple[tuple[MixtureLaw, float], ...] = ()
    pull: float = PULL

    def objective(self, shares: Array) -> tuple[float, Array]:
        """The value at `shares`, in nats, with its gradient."""
        value, gradient = _weighted(self.lower, shares)
        if self.pull:
            inside = self.around > 0
            ratio = np.log(np.maximum(shares[inside], _SMALLEST) / self.around[inside])
            value += self.pull * float(shares[inside] @ ratio)
            gradient[inside] += self.pull * (ratio + 1.0)
        return value, gradient

    @property
    def bounds(self) -> tuple[Array, Array]:
        high = np.where(self.around > 0, self.high, self.low) if self.pull else self.high
        return self.low, np.minimum(high, 1.0)


@dataclass(frozen=True)
class Optimum:
    """The point of lowest value, shape `[sources]`, with the residual of its optimality conditions in nats.

    `multipliers` has one number for each limit: how much the value falls if that limit is raised by 1 nat.
    """

    shares: Array
    value: float
    residual: float
    multipliers: tuple[float, ...]


class Infeasible(Exception):
    """No mixture is within the bounds and limits.

    `lowest` has the lowest value that each limited loss reaches alone within the bounds, empty where the bounds alone
    exclude every mixture; `excess` is the smallest possible excess over the limits together, in nats.
    """

    def __init__(self, lowest: tuple[float, ...], excess: float) -> None:
        super().__init__("no mixture is within the bounds and limits")
        self.lowest = lowest
        self.excess = excess


class NotSolved(Exception):
    """The solver ended at a point that does not meet the optimality conditions; `residual` is in nats."""

    def __init__(self, residual: float) -> None:
        super().__init__(f"the optimality conditions are missed by {residual:.2g} nats")
        self.residual = residual


def solve(programme: Programme, *, accepted: float = ACCEPTED, start: Array | None = None) -> Optimum:
    """The optimum of `programme`, sought from `start` first, `around` and the uniform mixture.

    The first point that meets the optimality conditions is it. Raises Infeasible, and NotSolved where the residual of
    each is above `accepted`.
    """
    low, high = programme.bounds
    if low.sum() > 1 + 1e-9 or high.sum() < 1 - 1e-9 or (low > high + 1e-12).any():
        raise Infeasible((), 0.0)
    starts = [] if start is None else [start]
    residuals = []
    for point in (*starts, programme.around, np.full(len(low), 1 / len(low))):
        first = within(point, low, high)
        if any(law.at(first)[0] > limit for law, limit in programme.keep):
            first = _feasible_start(programme, first)
        shares = _smallest_settled(programme, _slsqp(programme.objective, first, low, high, programme.keep))
        residual, multipliers = _residual(programme, shares)
        if residual <= accepted:
            return Optimum(shares, programme.objective(shares)[0], residual, multipliers)
        residuals.append(residual)
    raise NotSolved(min(residuals))


def within(shares: Array, low: Array, high: Array) -> Array:
    """`shares` scaled so that they sum to 1 within the bounds: each is `clip(factor * share, low, high)`.

    A source without a share takes part only as far as the bounds of the others leave a rest. The bounds must allow 1.
    """
    scaled, at_most = np.maximum(shares, 0.0), np.maximum(high, low)
    if np.where(scaled > 0, at_most, low).sum() < 1:
        scaled = scaled + 1e-9
    below, above = -30.0, 30.0
    for _ in range(100):
        middle = 0.5 * (below + above)
        if middle in (below, above):
            break
        if np.clip(scaled * np.exp(middle), low, at_most).sum() < 1:
            below = middle
        else:
            above = middle
    fitted = np.clip(scaled * np.exp(0.5 * (below + above)), low, at_most)
    return np.asarray(fitted / fitted.sum())


def lowest(law: MixtureLaw, low: Array, high: Array) -> float:
    """The lowest loss, nats, that `law` predicts within the bounds."""
    start = within(np.full(len(low), 1 / len(low)), low, high)
    return law.at(_slsqp(law.at, start, low, high, ()))[0]


def _weighted(laws: Sequence[tuple[MixtureLaw, float]], shares: Array) -> tuple[float, Array]:
    value, gradient = 0.0, np.zeros(len(shares))
    for law, weight in laws:
        loss, slope = law.at(shares)
        value += weight * loss
        gradient += weight * slope
    return value, gradient


def _slsqp(objective: Valued, start: Array, low: Array, high: Array, keep: Sequence[tuple[MixtureLaw, float]]) -> Array:
    from scipy.optimize import minimize

    limits = [{"type": "ineq", "fun": _slack(law, limit), "jac": _slack_gradient(law)} for law, limit in keep]
    total = {"type": "eq", "fun": lambda x: x.sum() - 1.0, "jac": np.ones_like}
    end = minimize(
        objective,
        start,
        jac=True,
        method="SLSQP",
        bounds=np.stack([low, high], axis=1),
        constraints=[total, *limits],
        options={"maxiter": 1000, "ftol": 1e-15},
    )
    return np.asarray(np.clip(end.x, low, high))


def _slack(law: MixtureLaw, limit: float) -> Callable[[Array], float]:
    return lambda shares: limit - law.at(shares)[0]


def _slack_gradient(law: MixtureLaw) -> Callable[[Array], Array]:
    return lambda shares: -law.at(shares)[1]


def _feasible_start(programme: Programme, start: Array) -> Array:
    """A mixture that exceeds no limit: the one with the smallest excess over all of them. Raises Infeasible."""
    from scipy.optimize import minimize

    low, high = programme.bounds
    laws = programme.keep

    def slacks(point: Array) -> Array:
        return np.array([limit + point[-1] - law.at(point[:-1])[0] for law, limit in laws])

    def gradients(point: Array) -> Array:
        return np.array([np.append(-law.at(point[:-1])[1], 1.0) for law, _ in laws])

    first = np.append(start, max(law.at(start)[0] - limit for law, limit in laws))
    end = minimize(
        lambda point: (point[-1], np.append(np.zeros(len(low)), 1.0)),
        first,
        jac=True,
        method="SLSQP",
        bounds=np.stack([np.append(low, -np.inf), np.append(high, np.inf)], axis=1),
        constraints=[
            {"type": "eq", "fun": lambda p: p[:-1].sum() - 1.0, "jac": lambda p: np.append(np.ones(len(low)), 0.0)},
            {"type": "ineq", "fun": slacks, "jac": gradients},
        ],
        options={"maxiter": 1000, "ftol": 1e-12},
    )
    shares: Array = np.clip(end.x[:-1], low, high)
    excess = max(law.at(shares)[0] - limit for law, limit in laws)
    if excess > _TOLERANCE:
        raise Infeasible(tuple(lowest(law, low, high) for law, _ in laws), excess)
    return shares


def _smallest_settled(programme: Programme, shares: Array) -> Array:
    """`shares` with those near 0 where the pull puts them: its slope is too steep there for the solver's steps."""
    low, _ = programme.bounds
    small = (shares < _AT_BOUND) & (low <= 0) & (programme.around > 0)
    if not programme.pull or not small.any():
        return shares
    for _ in range(3):
        slope, _ = _lagrangian(programme, shares)
        free = _free(programme, shares)
        if not free.any():
            break
        shares = shares.copy()
        factor = np.exp(np.clip((slope[free].mean() - slope[small]) / programme.pull, -50.0, 50.0))
        shares[small] = np.clip(np.maximum(shares[small], _SMALLEST) * factor, 0.0, _AT_BOUND)
    return shares


def _free(programme: Programme, shares: Array) -> NDArray[np.bool_]:
    """Which shares are at neither bound; 1 is no bound, as the sum is 1."""
    low, high = programme.bounds
    return (shares > low + _AT_BOUND) & ((shares < high - _AT_BOUND) | (high >= 1))


def _lagrangian(programme: Programme, shares: Array) -> tuple[Array, Array]:
    """The slope of the Lagrangian, shape `[sources]`, and the multipliers of the limits that make it most even."""
    from scipy.optimize import nnls

    _, slope = programme.objective(shares)
    multipliers = np.zeros(len(programme.keep))
    active = [number for number, (law, limit) in enumerate(programme.keep) if limit - law.at(shares)[0] < 1e-6]
    columns = np.array([programme.keep[number][0].at(shares)[1] for number in active])
    free = _free(programme, shares)
    if active and free.sum() > 1:
        centred = columns[:, free] - columns[:, free].mean(axis=1, keepdims=True)
        multipliers[active] = nnls(centred.T, -(slope[free] - slope[free].mean()))[0]
        slope = slope + multipliers[active] @ columns
    return slope, multipliers


def _residual(programme: Programme, shares: Array) -> tuple[float, tuple[float, ...]]:
    """How far `shares` miss the optimality conditions, in nats, and the multiplier of each limit.

    With the multipliers that fit best, the slope of the Lagrangian must be equal over the free weights, not lower at a
    lower bound and not higher at an upper one; no limit may be exceeded, and the sum must be 1.
    """
    low, high = programme.bounds
    slope, multipliers = _lagrangian(programme, shares)
    free = _free(programme, shares)
    at_low, at_high = shares <= low + _AT_BOUND, (shares >= high - _AT_BOUND) & (high < 1)
    missed = [abs(shares.sum() - 1.0), *(law.at(shares)[0] - limit for law, limit in programme.keep)]
    if free.any():
        level = float(slope[free].mean())
        missed.append(float(np.ptp(slope[free])))
        missed.extend((level - slope[at_low & ~at_high]).tolist())
        missed.extend((slope[at_high & ~at_low] - level).tolist())
    elif (at_low & ~at_high).any() and (at_high & ~at_low).any():
        missed.append(float(slope[at_high & ~at_low].max() - slope[at_low & ~at_high].min()))
    return max(0.0, *missed), tuple(multipliers.tolist())
