"""Fits by the mean Huber loss: its value and slope, and the lowest of several descents by L-BFGS-B.

Huber, *Robust Estimation of a Location Parameter* (1964). The loss is quadratic below `DELTA` nats and linear above,
not divided by `DELTA`. L-BFGS-B descends in units of each number's own effect within wide bounds: with narrow ones, or
by a trust region, worse optima are found, and the ranks that a law predicts suffer before its error shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Objective = Callable[[Array], tuple[float, Array]]
DELTA = 0.02
_SCALE = 100.0
"""L-BFGS-B's first step and its tolerances suit objectives near 1; a mean Huber loss is near 0.001."""


def huber(residuals: Array, delta: float = DELTA) -> tuple[float, Array]:
    """The mean Huber loss of `residuals` (shape `[n]`, nats), and its derivative by each of them."""
    clipped = np.minimum(np.maximum(residuals, -delta), delta)
    number = len(residuals)
    return float(clipped @ (residuals - 0.5 * clipped)) / number, clipped / number


@dataclass(frozen=True, slots=True)
class Descent:
    """The end of a descent: its numbers, shape `[m]`, and the objective there."""

    numbers: Array
    objective: float


def descend(
    objective: Objective, starts: Iterable[Array], low: Array, high: Array, units: Array, *, steps: int = 2000
) -> Descent:
    """The lowest end of the descents of `objective` from `starts` within `[low, high]`.

    `objective` gives the value and the gradient, shape `[m]`; `units`, shape `[m]`, is the change of each number that
    matters about equally.
    """
    from scipy.optimize import minimize

    # The solver asks for the value and then for the slope of a point: kept here, at half the cost of `jac=True`.
    at, slope = np.full(len(units), np.nan), np.zeros(len(units))

    def value_at(point: Array) -> float:
        nonlocal at, slope
        value, gradient = objective(point * units)
        at, slope = point.copy(), gradient * units * _SCALE
        return value * _SCALE

    def slope_at(point: Array) -> Array:
        if not (at == point).all():
            value_at(point)
        return slope

    best: Descent | None = None
    for start in starts:
        end = minimize(
            value_at,
            np.clip(start, low, high) / units,
            jac=slope_at,
            method="L-BFGS-B",
            bounds=np.stack([low / units, high / units], axis=1),
            options={"maxiter": steps, "maxfun": 2 * steps, "maxcor": 20, "ftol": 1e-12, "gtol": 1e-9},
        )
        if best is None or end.fun / _SCALE < best.objective:
            best = Descent(np.clip(end.x * units, low, high), float(end.fun) / _SCALE)
    assert best is not None, "a descent needs a start"
    return best
