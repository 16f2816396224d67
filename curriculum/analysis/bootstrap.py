"""How far a difference of two means can be trusted that were measured on the same windows: the paired bootstrap.

Efron and Tibshirani, *An Introduction to the Bootstrap* (1993), chapters 6 and 13; for two systems judged on one
test set, Koehn, *Statistical Significance Tests for Machine Translation Evaluation* (2004). The pairing is what
makes small differences visible: windows differ from each other far more than two models do on one window.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SEED = 1993
RESAMPLES = 10_000
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its standard error and its 95% interval `[low, high]`, in the unit of what was measured."""

    mean: float
    error: float
    low: float
    high: float

    @property
    def shown(self) -> bool:
        """Whether the 95% interval excludes 0."""
        return self.low > 0 or self.high < 0


def paired(differences: NDArray[np.float64]) -> Estimate:
    """The mean of `differences` (shape `[windows]`: one model's loss minus the other's) with its noise.

    A resample draws as many windows as there are, with replacement, each with both its losses; of `RESAMPLES`
    such means the standard error is their standard deviation, and the interval runs from their 2.5th to their
    97.5th percentile. The draws come from `numpy.random.default_rng(SEED)`, anew at every call, so that the same
    measurements give the same figures everywhere. ValueError without a window.

    What it estimates is the noise of the choice of held-out windows. That another seed of training would give
    other weights is not in it.
    """
    windows = len(differences)
    if windows == 0:
        raise ValueError("there is no window to compare")
    draw = np.random.default_rng(SEED)
    means = np.concatenate(
        [
            differences[draw.integers(windows, size=(_AT_ONCE, windows), dtype=np.int32)].mean(axis=1)
            for _ in range(RESAMPLES // _AT_ONCE)
        ]
    )
    low, high = np.quantile(means, (0.025, 0.975))
    return Estimate(float(differences.mean()), float(means.std(ddof=1)), float(low), float(high))
