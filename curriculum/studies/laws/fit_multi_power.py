"""The fit of the Multi-Power Law to training curves: seven numbers, by the mean Huber loss of the logarithm.

Luo et al., *A Multi-Power Law for Loss Curve Prediction Across Learning Rate Schedules* (arXiv 2503.12811), section 4.
The law sums over every change of the rate; for the fit, neighbouring changes of a curve are taken together, at most
`GROUPS` of them, and rates are in units of the highest, so that its numbers have about the same size for any schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from curriculum.studies.laws.huber import Array, descend, huber
from curriculum.studies.laws.schedules import LOG_DELTA, Curve, MultiPowerLaw

GROUPS = 512
"""Changes of the rate of one curve that the fit distinguishes."""
POINTS = 96
"""Points of one curve that the fit looks at."""
# with wider bounds of the last two the curves of three schedules leave them open, and others are predicted worse
_LOW = np.array([0.0, 1e-6, 0.01, np.log(1e-6), -12.0, 0.01, 0.0])
_HIGH = np.array([np.inf, 100.0, 3.0, np.log(100.0), 8.0, 2.0, 1.0])
_UNITS = np.array([1.0, 0.3, 0.3, 1.0, 1.0, 0.3, 0.3])


@dataclass(frozen=True, slots=True)
class _Reduced:
    """A curve with grouped changes: `since` is the sum of the rates from a change to a point, shape `[points, groups]`.

    It is 0 where the change comes later. `size` and `logarithm` (of the rate) have the shape `[groups]`, `total` and
    `losses` `[points]`.
    """

    total: Array
    since: Array
    size: Array
    logarithm: Array
    losses: Array


def fit_multi_power(curves: Sequence[Curve]) -> MultiPowerLaw:
    """The law with the lowest mean Huber loss of the logarithm over `curves`, of several descents."""
    peak = max(float(curve.rates.max()) for curve in curves)
    reduced = [_reduced(curve, peak) for curve in curves]
    losses = np.concatenate([one.losses for one in reduced])
    observed = np.log(losses)

    def objective(numbers: Array) -> tuple[float, Array]:
        predicted, slopes = _predict(numbers, reduced)
        inside = np.maximum(predicted, 1e-3)
        value, slope = huber(np.log(inside) - observed, LOG_DELTA)
        return value, slopes @ (slope / inside)

    high = _HIGH.copy()
    high[0] = losses.min()
    starts = [_start(reduced, losses, sharpness) for sharpness in (0.02, 0.1, 0.5)]
    floor, scale, power, b, c, beta, gamma = descend(objective, starts, _LOW, high, _UNITS).numbers.tolist()
    return MultiPowerLaw(
        floor=floor,
        scale=scale * peak**power,
        power=power,
        b=float(np.exp(b)) / peak,
        c=float(np.exp(c)) * peak ** (gamma - 1),
        beta=beta,
        gamma=gamma,
    )


def _reduced(curve: Curve, peak: float) -> _Reduced:
    rates = curve.rates / peak
    total = np.cumsum(rates)
    step = np.maximum(1, len(curve.at) // POINTS)
    # the last point is where schedules are compared: count from there
    at, losses = curve.at[::-1][::step][::-1], curve.losses[::-1][::step][::-1]
    changes = np.flatnonzero(np.diff(rates)) + 1
    groups = np.array_split(changes, min(GROUPS, len(changes))) if len(changes) else []
    middle = np.array([group[len(group) // 2] for group in groups], dtype=np.int64)
    size = np.array([float((rates[group] - rates[group - 1]).sum()) for group in groups])
    before = total[middle] - rates[middle]
    since = np.where(middle <= at[:, None], np.maximum(total[at, None] - before, 0.0), 0.0)
    logarithm = np.log(np.maximum(rates[middle], 1e-9))
    return _Reduced(total[at], since, size, logarithm, losses)


def _predict(numbers: Array, curves: Sequence[_Reduced]) -> tuple[Array, Array]:
    """Losses at all points, shape `[n]`, and their derivatives by the seven numbers, shape `[7, n]`."""
    floor, scale, power, log_b, log_c, beta, gamma = numbers
    parts, slopes = [], []
    for curve in curves:
        falling = np.exp(-power * np.log(curve.total))
        spread = np.exp(log_c - gamma * curve.logarithm) * curve.since
        grown = np.log1p(spread)
        damping = np.exp(-beta * grown)
        share = beta * damping * spread / (1 + spread)
        b = np.exp(log_b)
        drop = b * ((1 - damping) @ curve.size)
        parts.append(floor + scale * falling + drop)
        slopes.append(
            np.stack(
                [
                    np.ones(len(falling)),
                    falling,
                    -scale * falling * np.log(curve.total),
                    drop,
                    b * (share @ curve.size),
                    b * ((damping * grown) @ curve.size),
                    -b * (share @ (curve.size * curve.logarithm)),
                ]
            )
        )
    return np.concatenate(parts), np.concatenate(slopes, axis=1)


def _start(curves: Sequence[_Reduced], losses: Array, sharpness: float) -> Array:
    """Where a descent starts: the numbers in which the law is linear by least squares, with others near published."""
    start = np.array([0.0, 1.0, 0.5, 0.0, np.log(sharpness), 0.6, 0.6])
    _, slopes = _predict(start, curves)
    floor, scale, b = np.linalg.lstsq(slopes[[0, 1, 3]].T, losses, rcond=None)[0]
    start[0], start[1], start[3] = max(floor, 0.0), max(scale, 1e-3), np.log(max(b, 1e-3))
    return start
