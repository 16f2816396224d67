"""The laws of a schedule: the training loss as a function of all learning rates so far.

`AnnealingLaw` has four numbers, after Tissue et al., *Scaling Law with Learning Rate Annealing* (arXiv 2408.11029):
`floor + scale * S1 ** -power - gain * S2`, where S1 is the sum of the rates and S2 the sum of a decaying memory of the
rate's decreases. `MultiPowerLaw` has seven, after Luo et al., *A Multi-Power Law for Loss Curve Prediction Across
Learning Rate Schedules* (arXiv 2503.12811): every change of the rate counts, the rises of the warm-up too. Both order
schedules well and misjudge gains by a factor of two to three and a half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curriculum.studies.laws.huber import Array, descend, huber

MEMORIES = (0.99, 0.995, 0.998, 0.999, 0.9995)
LOG_DELTA = 0.001
_AT_ONCE = 1 << 22
_LEAST_RATE = 1e-9
Steps = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Curve:
    """A training curve: `rates` of every step from 0, shape `[steps]`; `losses` at the steps `at`, both shape `[n]`.

    `warmup` is the number of steps during which the rate rises at the beginning.
    """

    rates: Array
    at: Steps
    losses: Array
    warmup: int


@dataclass(frozen=True, slots=True)
class AnnealingLaw:
    """`floor + scale * S1 ** -power - gain * S2`; `memory` is how much of a decrease is remembered a step later."""

    floor: float
    scale: float
    power: float
    gain: float
    memory: float
    objective: float

    def predict(self, rates: Array, at: Steps, warmup: int) -> Array:
        """Losses in nats at the steps `at`, shape `[n]`, of a schedule with `rates` of every step."""
        total, annealed = _sums(rates, warmup, self.memory)
        return self.floor + self.scale * total[at] ** -self.power - self.gain * annealed[at]


@dataclass(frozen=True, slots=True)
class MultiPowerLaw:
    """`floor + scale * S1 ** -power + b * sum_k (rate_k - rate_k-1) * (1 - (1 + c * rate_k ** -gamma * S_k) ** -beta)`.

    S_k is the sum of the rates from step k on.
    """

    floor: float
    scale: float
    power: float
    b: float
    c: float
    beta: float
    gamma: float

    def predict(self, rates: Array, at: Steps) -> Array:
        """Losses in nats at the steps `at`, shape `[n]`, of a schedule with `rates` of every step."""
        total = np.cumsum(rates)
        changes = np.flatnonzero(np.diff(rates)) + 1
        drop = np.zeros(len(at))
        before = total[changes] - rates[changes]
        # a schedule may end at 0, where the rate's power has no value and its sum is 0
        sharpness = self.c * np.maximum(rates[changes], _LEAST_RATE * rates.max()) ** -self.gamma
        size = rates[changes] - rates[changes - 1]
        order = np.argsort(at)
        block = max(1, _AT_ONCE // max(len(changes), 1))
        for begin in range(0, len(at), block):
            rows = order[begin : begin + block]
            seen = int(np.searchsorted(changes, at[rows].max(), side="right"))
            since = np.maximum(total[at[rows], None] - before[None, :seen], 0.0)
            part = 1.0 - np.power(1.0 + sharpness[:seen] * since, -self.beta)
            drop[rows] = np.where(changes[:seen] <= at[rows, None], part, 0.0) @ size[:seen]
        return self.floor + self.scale * total[at] ** -self.power + self.b * drop


def fit_annealing(curves: Sequence[Curve], memories: Sequence[float] = MEMORIES) -> AnnealingLaw:
    """The law with the lowest mean Huber loss of the logarithm over `curves`, the memory from a grid."""
    observed = np.log(np.concatenate([curve.losses for curve in curves]))
    best: AnnealingLaw | None = None
    for memory in memories:
        sums = [_sums(curve.rates, curve.warmup, memory) for curve in curves]
        total = np.concatenate([pair[0][curve.at] for pair, curve in zip(sums, curves, strict=True)])
        annealed = np.concatenate([pair[1][curve.at] for pair, curve in zip(sums, curves, strict=True)])
        law = _fit_with_memory(total, annealed, observed, memory)
        if best is None or law.objective < best.objective:
            best = law
    assert best is not None, "there is a memory to try"
    return best


def _sums(rates: Array, warmup: int, memory: float) -> tuple[Array, Array]:
    """S1 with the warm-up's rates, and S2 of the decreases after it, both of shape `[steps]`."""
    from scipy.signal import lfilter

    falls = np.append(0.0, -np.diff(rates))
    falls[: warmup + 1] = 0.0
    return np.cumsum(rates), np.cumsum(lfilter([1.0], [1.0, -memory], falls))


def _fit_with_memory(total: Array, annealed: Array, observed: Array, memory: float) -> AnnealingLaw:
    losses = np.exp(observed)
    logarithm = np.log(total)

    def objective(numbers: Array) -> tuple[float, Array]:
        floor, scale, power, gain = numbers
        falling = np.exp(-power * logarithm)
        predicted = np.maximum(floor + scale * falling - gain * annealed, 1e-3)
        value, slope = huber(np.log(predicted) - observed, LOG_DELTA)
        slope = slope / predicted
        gradient = [slope.sum(), slope @ falling, -scale * (slope * falling) @ logarithm, -slope @ annealed]
        return value, np.array(gradient)

    starts = []
    for power in (0.3, 0.5, 0.7):
        columns = np.column_stack([np.ones(len(losses)), np.exp(-power * logarithm), -annealed])
        floor, scale, gain = np.linalg.lstsq(columns, losses, rcond=None)[0]
        starts.append(np.array([floor, scale, power, gain]))
    low, high = np.array([0.0, 1e-6, 0.01, 0.0]), np.array([float(losses.min()), 100.0, 3.0, 100.0])
    end = descend(objective, starts, low, high, np.array([1.0, 0.3, 0.3, 0.3]))
    floor, scale, power, gain = end.numbers.tolist()
    return AnnealingLaw(floor, scale, power, gain, memory, end.objective)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well predicted losses agree with observed ones; all but `r2` in nats or, relative, as a share."""

    r2: float
    mean_error: float
    root_mean_square_error: float
    mean_relative_error: float
    worst_relative_error: float


def agreement(predicted: Array, observed: Array) -> Agreement:
    """The agreement of two curves, both of shape `[n]`."""
    errors = predicted - observed
    relative = np.abs(errors) / observed
    return Agreement(
        r2=1 - float((errors**2).sum() / ((observed - observed.mean()) ** 2).sum()),
        mean_error=float(np.abs(errors).mean()),
        root_mean_square_error=float(np.sqrt((errors**2).mean())),
        mean_relative_error=float(relative.mean()),
        worst_relative_error=float(relative.max()),
    )
