"""What was shown of an arm: its difference to another with the noise of windows, replicates and trunks, and a word.

Differences are judged by Student's t over runs, with the variance pooled over arms that are compared with the same one
(Student, *The Probable Error of a Mean*, 1908); many candidates are corrected by Holm, *A Simple Sequentially Rejective
Multiple Test Procedure* (1979).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from curriculum.studies.evidence import Evidence

Word = Literal["shown", "contrary", "not distinguishable", "suggested", "not measured"]
CONFIDENCE = 0.95
MOST_RUNS = 1000
"""More runs than this would not be trained to settle a question: none is suggested."""
RIGHT_BEFORE = ((0.0, 0.71), (0.02, 0.88), (0.05, 0.96), (0.1, 0.987), (0.2, 0.993))
"""Of predicted differences from so many nats up, the share that had the right sign: pairs of the 64 public runs of 1B
parameters (RegMix, arXiv 2407.01492), by 20 laws of 85 runs of a thousandth of the size."""


@dataclass(frozen=True)
class Difference:
    """The mean difference of an arm to a reference, nats, with its 95% interval.

    `runs` are paired runs of the arm; `spread` is the standard deviation of one such difference between runs, from
    `freedom` degrees of freedom, and `window_error` one standard error from the choice of held-out documents. `error`
    is the larger of the two for the mean. Where no noise of runs is known, the interval is None.
    """

    mean: float
    runs: int
    trunks: int
    spread: float | None
    freedom: int
    window_error: float
    error: float | None
    low: float | None
    high: float | None
    p_value: float | None

    @property
    def half(self) -> float | None:
        """Half the interval: the smallest difference that could have been seen."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


@dataclass(frozen=True)
class Verdict:
    """What was shown of one part of a goal against one reference.

    `goal` is `lower`, or `keep` with the `source` that is limited; `slack` (nats) is what `keep` allows above the
    reference. `more_runs` would settle it, if the difference stays; `shown_with_slack` is the smallest slack, in steps
    of 0.005, with which `keep` would be shown. Both are None where there is nothing to settle.
    """

    goal: Literal["lower", "keep"]
    source: str | None
    against: str
    word: Word
    slack: float
    difference: Difference | None
    predicted: float | None = None
    more_runs: int | None = None
    shown_with_slack: float | None = None

    @property
    def shown(self) -> bool:
        return self.word == "shown"


@dataclass(frozen=True)
class _Variance:
    """A pooled variance: the sum of squares over its degrees of freedom."""

    squares: float
    freedom: int

    @property
    def deviation(self) -> float | None:
        return math.sqrt(self.squares / self.freedom) if self.freedom else None


def difference(evidence: Evidence, arm: str, reference: str, weights: Mapping[str, float]) -> Difference | None:
    """How the weighted mean loss of `arm` differs from that of `reference`; None where no run of both measured it.

    The spread between runs is pooled over all arms with at least two runs, by their differences to the same reference,
    and not below the arm's own. With one run, the largest spread of any arm counts. Over several trunks the spread of
    their means counts where it gives the wider interval: one trunk's luck is in all its arms.
    """
    pairs = evidence.differences(arm, reference, weights)
    if not pairs:
        return None
    values = np.array([value for _, value in pairs])
    window_error = evidence.window_error(arm, reference, weights)
    trunks = len({run.seed for run, _ in pairs})
    mean = float(values.mean())
    candidates = []
    for by_trunk in (False, True):
        units = _units(pairs, by_trunk=by_trunk)
        if by_trunk and (trunks < 2 or len(units) == len(values)):
            continue
        each = [_variance(_units(other, by_trunk=by_trunk)) for other in _others(evidence, reference, weights)]
        pooled = _Variance(sum(one.squares for one in each), sum(one.freedom for one in each))
        own = _variance(units).deviation
        spread = (
            pooled.deviation if own is not None else max((one.deviation or 0.0 for one in each), default=0.0) or None
        )
        if own is not None and spread is not None:
            spread = max(spread, own)
        if spread is not None:
            candidates.append((spread, pooled.freedom, spread / math.sqrt(len(units))))
    if not candidates:
        return Difference(mean, len(values), trunks, None, 0, window_error, None, None, None, None)
    spread, freedom, error = max(candidates, key=lambda one: one[2] * _quantile(one[1]))
    error = max(error, window_error)
    half = error * _quantile(freedom)
    return Difference(
        mean,
        len(values),
        trunks,
        spread,
        freedom,
        window_error,
        error,
        mean - half,
        mean + half,
        _p_value(mean, error, freedom),
    )


def right_before(predicted: float) -> float:
    """The share of public differences predicted as large as `predicted` (nats) that had the predicted sign."""
    return [share for least, share in RIGHT_BEFORE if abs(predicted) >= least][-1]


def judge(
    evidence: Evidence,
    arm: str | None,
    against: str,
    weights: Mapping[str, float],
    *,
    keep: str | None = None,
    slack: float = 0.0,
    predicted: float | None = None,
) -> Verdict:
    """The verdict on `arm` against another: that it lowers the weighted loss, or keeps that of `keep` within `slack`.

    `predicted` (nats) is what the law says of the difference, which alone suggests at most. An arm of None has not run.
    """
    goal: Literal["lower", "keep"] = "lower" if keep is None else "keep"
    gap = None if arm is None else difference(evidence, arm, against, weights)
    if gap is None:
        word: Word = "suggested" if predicted is not None and predicted < slack else "not distinguishable"
        return Verdict(goal, keep, against, "not measured" if predicted is None else word, slack, None, predicted)
    if gap.low is None or gap.high is None or gap.runs < 2:
        word = "suggested" if gap.mean < slack else "not distinguishable"
        return Verdict(goal, keep, against, word, slack, gap, predicted, more_runs=_more_runs(gap, slack))
    if gap.high < slack:
        return Verdict(goal, keep, against, "shown", slack, gap, predicted)
    if gap.low > slack:
        return Verdict(goal, keep, against, "contrary", slack, gap, predicted)
    more, with_slack = _more_runs(gap, slack), None
    if keep is not None:
        with_slack = math.ceil(round((gap.high + 1e-9) / 0.005, 6)) * 0.005
    return Verdict(goal, keep, against, "not distinguishable", slack, gap, predicted, more, with_slack)


def holm(p_values: Sequence[float], level: float = 1 - CONFIDENCE) -> list[bool]:
    """Which of several hypotheses are rejected so that the chance of any false rejection is at most `level`."""
    rejected = [False] * len(p_values)
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda number: p_values[number])):
        if p_values[index] > level / (len(p_values) - place):
            break
        rejected[index] = True
    return rejected


def _others(
    evidence: Evidence, reference: str, weights: Mapping[str, float]
) -> list[tuple[tuple[tuple[int, int], float], ...]]:
    """The paired differences to `reference` of every arm that ran more than once; others tell nothing of the spread."""
    arms = [arm for arm in evidence.repeated if arm != reference]
    return [evidence.differences(arm, reference, weights) for arm in arms]


def _units(pairs: Sequence[tuple[tuple[int, int], float]], *, by_trunk: bool) -> list[float]:
    """The differences of single runs, or the means of each trunk's."""
    if not by_trunk:
        return [value for _, value in pairs]
    of_trunk: dict[int, list[float]] = {}
    for (seed, _), value in pairs:
        of_trunk.setdefault(seed, []).append(value)
    return [float(np.mean(values)) for values in of_trunk.values()]


def _variance(values: Sequence[float]) -> _Variance:
    if len(values) < 2:
        return _Variance(0.0, 0)
    return _Variance(float(((np.array(values) - np.mean(values)) ** 2).sum()), len(values) - 1)


def _quantile(freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + CONFIDENCE) / 2, freedom))


def _p_value(mean: float, error: float, freedom: int) -> float:
    from scipy.stats import t

    return float(2 * t.sf(abs(mean) / error, freedom)) if error > 0 else float(mean == 0)


def _more_runs(gap: Difference, slack: float) -> int | None:
    """The runs that, added to those of `gap`, make half the interval smaller than the distance to `slack`.

    None where the window error alone is too large, where the noise is not known, and beyond `MOST_RUNS`.
    """
    distance = abs(gap.mean - slack)
    if gap.spread is None or not distance or gap.window_error * 2 >= distance:
        return None
    for more in (*range(1, 50), *range(50, MOST_RUNS + 1, 10)):
        error = gap.spread / math.sqrt(gap.runs + more)
        if error * _quantile(gap.freedom + more) < distance:
            return int(more)
    return None
