"""How far a difference of two means measured on the same windows can be trusted: the paired cluster bootstrap.

Windows of one document are not independent of each other, so documents are drawn, each with all its windows: Cameron,
Gelbach and Miller, *Bootstrap-based improvements for inference with clustered errors* (2008); Efron and Tibshirani, *An
Introduction to the Bootstrap* (1993), chapters 6 and 12. For two systems judged on one test set, Koehn, *Statistical
Significance Tests for Machine Translation Evaluation* (2004). The pairing is what makes small differences visible:
windows differ from each other far more than two models do on one window.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from curriculum.data.held_out import LEAST_DOCUMENTS

SEED = 1993
RESAMPLES = 10_000
CONFIDENCE = 0.95
_AT_ONCE = 1000
_DRAWN_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its standard error and its 95% interval `[low, high]`, in the unit of what was measured.

    `documents` is the number of independent parts that it rests on, None where they are not known. `error` is None
    with one of them, `low` and `high` below `LEAST_DOCUMENTS` and where documents are not known.
    """

    mean: float
    error: float | None
    low: float | None
    high: float | None
    documents: int | None

    @property
    def shown(self) -> bool:
        """Whether there is a 95% interval and it excludes 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    @property
    def marked(self) -> str:
        """The mean with one standard error, and whether the 95% interval excludes 0 (`*`) or not (`·`)."""
        return f"{self} {'*' if self.shown else ' ' if self.low is None else '·'}"

    def __str__(self) -> str:
        return f"{self.mean:+.4f} ±" + ("?" if self.error is None else f"{self.error:.4f}")


def paired(differences: NDArray[np.float64], documents: NDArray[np.int64] | None = None) -> Estimate:
    """The mean of `differences` (shape `[windows]`: one model's loss minus the other's) with its noise.

    `documents` (shape `[windows]`) numbers the document that each window belongs to; without, each is one of its own.
    A resample draws as many documents as there are, with replacement, each with all its windows and both their losses;
    the standard error is the standard deviation of `RESAMPLES` such means. The interval is symmetric about the mean:
    the 95th percentile of the resamples' absolute deviations, each in units of its own linearised standard error, times
    that of the measured windows (the bootstrap-t). The draws come from `numpy.random.default_rng(SEED)`, so that the
    same measurements give the same figures everywhere. ValueError without a window.

    What it estimates is the noise of the choice of held-out documents. That another seed of training would give
    other weights is not in it.
    """
    if not len(differences):
        raise ValueError("there is no window to compare")
    numbers = np.arange(len(differences)) if documents is None else np.unique(documents, return_inverse=True)[1]
    counts = np.bincount(numbers).astype(np.float64)
    mean = float(differences.mean())
    sums = np.bincount(numbers, differences - mean)  # centred: squares of it do not cancel
    number = len(counts)
    if number == 1:
        return Estimate(mean, None, None, None, 1)
    columns = np.stack([sums, counts, sums**2, sums * counts, counts**2], axis=1)
    resamples = _resamples(number, RESAMPLES)
    totals = np.concatenate(
        [resamples[begin : begin + _AT_ONCE].astype(np.float64) @ columns for begin in range(0, RESAMPLES, _AT_ONCE)]
    )
    deviations, errors = _linearised(totals, number)
    error = float(deviations.std(ddof=1))
    if number < LEAST_DOCUMENTS:
        return Estimate(mean, error, None, None, number)
    _, own = _linearised(columns.sum(axis=0), number)
    tiny = 1e-9 * float(np.abs(differences).max())  # what rounding leaves of differences that are all equal
    ratios = np.where(errors > tiny, np.abs(deviations) / np.maximum(errors, tiny or 1.0), 0.0)
    half = float(np.quantile(ratios, CONFIDENCE) * own) if own > tiny else 0.0
    return Estimate(mean, error, mean - half, mean + half, number)


def _linearised(totals: NDArray[np.float64], number: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means of resamples and their standard errors, those of a ratio of sums to counts; `totals` are `[..., 5]`."""
    sums, counts, squares, products, squared_counts = np.moveaxis(totals, -1, 0)
    means = sums / counts
    residual = np.maximum(squares - 2 * means * products + means**2 * squared_counts, 0.0)
    return means, np.sqrt(number / (number - 1) * residual) / counts


@lru_cache(maxsize=2)
def _resamples(number: int, resamples: int) -> NDArray[np.uint16]:
    """How often each of `number` documents is drawn in each resample, shape `[resamples, number]`."""
    draw = np.random.default_rng(SEED)
    drawn = np.empty((resamples, number), np.uint16)
    for rows in np.array_split(drawn, -(-resamples * number // _DRAWN_AT_ONCE)):
        places = draw.integers(number, size=rows.shape) + np.arange(len(rows))[:, None] * number
        rows[:] = np.bincount(places.reshape(-1), minlength=rows.size).reshape(rows.shape)
    return drawn
