"""Intervals around what a law predicts: resampled fits, and split-conformal prediction.

Efron and Tibshirani, *An Introduction to the Bootstrap* (1993), chapter 9; Lei et al., *Distribution-Free Predictive
Inference for Regression* (arXiv 1604.04173), section 2.2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from curriculum.studies.laws.huber import Array

RESAMPLES = 200
LEAST_CALIBRATION = 40
"""Arms that can be held back of a fit, below which no conformal interval is given."""
SEED = 1993


def resampled(arms: int, resamples: int = RESAMPLES, seed: int = SEED) -> Iterator[NDArray[np.int64]]:
    """Indices of as many arms as there are, drawn with replacement, for each resample."""
    draw = np.random.default_rng(seed)
    for _ in range(resamples):
        yield draw.integers(arms, size=arms)


def percentile_interval(values: Array, level: float = 0.95) -> tuple[float, float]:
    """The middle share `level` of `values`, shape `[resamples]`."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], method="weibull")  # at few resamples the ends
    return float(low), float(high)


def symmetric_interval(
    values: Array, estimate: float, observations: int, numbers: int, level: float = 0.95
) -> tuple[float, float]:
    """An interval around `estimate` that allows for the `numbers` that were fitted; `values` are of resampled fits.

    `values` have the shape `[resamples]`. Half its width is the quantile of their distances from the estimate: where
    they lie to one side, the percentiles exclude what is on the other (Hall, *On Symmetric Bootstrap Confidence
    Intervals*, 1988). Resamples of few arms vary too little, by the root of what share of the arms is left to judge the
    fit, and normal quantiles are too small for so few degrees of freedom: Efron and Tibshirani, section 12.5.
    """
    from scipy.stats import norm, t

    freedom = max(observations - numbers, 1)
    quantile = (1 + level) / 2
    factor = math.sqrt(observations / freedom) * float(t.ppf(quantile, freedom) / norm.ppf(quantile))
    half = factor * float(np.quantile(np.abs(values - estimate), level, method="weibull"))
    return estimate - half, estimate + half


def conformal_half_width(residuals: Array, level: float = 0.9) -> float:
    """The half width that covers a new arm with a probability of at least `level`.

    `residuals`, shape `[n]`, are of arms that were held back of the fit. Infinite where they are too few for `level`.
    """
    rank = math.ceil((len(residuals) + 1) * level)
    if rank > len(residuals):
        return math.inf
    return float(np.sort(np.abs(residuals))[rank - 1])
