"""The decision on schedules that were not trained: their order by laws of training curves, and how sure it is.

The error of a predicted difference has two parts. The numbers of a law are uncertain because its residuals are: a
covariance that allows for residuals that hang together along a curve (Liang and Zeger, *Longitudinal Data Analysis
Using Generalized Linear Models*, 1986). And a law is wrong in its form: the ends of curves that it was not fitted to
tell by how much.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from curriculum.studies import contenders as shared
from curriculum.studies.decision import (
    Decision,
    Forecast,
    LawOfSchedules,
    LawReport,
    OrderedPair,
    Proposal,
    Question,
    ScheduleOrder,
    Undecidable,
)
from curriculum.studies.evidence import Evidence
from curriculum.studies.laws.fit_multi_power import fit_multi_power
from curriculum.studies.laws.huber import Array
from curriculum.studies.laws.schedules import MEMORIES, AnnealingLaw, Curve, MultiPowerLaw, Steps, fit_annealing
from curriculum.studies.verdicts import CONFIDENCE, Verdict

LEAST_POINTS = 16
"""Points of a training curve behind its warm-up, below which it does not count."""
LEAST_SCHEDULES = 2
LEAST_LEFT_OUT = 3
"""Schedules, of which one can be left out of a fit."""
MOST_TIMES_WORSE = 2
"""A law that errs by more than so many times what another does has no say."""
_BLOCKS = 8
_POINTS = 24
"""Points of a curve at which a law's derivatives are taken."""
Law = AnnealingLaw | MultiPowerLaw


@dataclass(frozen=True, slots=True, eq=False)
class _Fitted:
    """A law, what it is wrong by at ends that it was not fitted to, and by how much its numbers may move.

    `ends` are predicted and observed losses at the ends of the curves, shape `[curves]`, left out of the fit where
    `left_out`.
    """

    name: LawOfSchedules
    law: Law
    covariance: Array
    predicted: Array
    observed: Array
    left_out: bool

    @property
    def end_error(self) -> float:
        """The standard deviation of a difference between two ends; what all ends have in common is no error of it."""
        return math.sqrt(2) * float(np.std(self.predicted - self.observed, ddof=1))


def decide(question: Question, evidence: Evidence) -> Decision:
    """The order of the schedules. Raises Undecidable where the curves that there are fix no law."""
    forecast = question.forecast
    assert forecast is not None, "schedules are asked about"
    curves = {one.arm: one.curve for one in evidence.curves if len(one.at) >= LEAST_POINTS}
    if not curves:
        raise Undecidable(
            f"no training curve has {LEAST_POINTS} points behind its warm-up",
            "let the curricula run on, then ask again",
        )
    different = _different(list(curves.values()))
    if different < LEAST_SCHEDULES:
        raise Undecidable(
            "the runs have one schedule between them, which does not tell what a fall of the rate gains",
            "run a branch that falls earlier beside it: `curriculum branch NAME@P new --decay 100B`",
        )
    fitted = [_fit(name, list(curves.values()), forecast.unit_steps) for name in forecast.laws]
    best = min(fitted, key=lambda one: one.end_error)
    ends = {schedule.name: _rates(forecast, number) for number, schedule in enumerate(forecast.schedules)}
    trained = {f"{one.arm} as it ran": one.curve for one in evidence.curves if one.arm in curves}
    ends |= {name: (curve.rates, curve.warmup) for name, curve in trained.items()}
    predicted = {name: _end(best.law, *rates) for name, rates in ends.items()}
    names = sorted(ends, key=lambda name: (predicted[name], name))
    counted = [one for one in fitted if one.end_error <= MOST_TIMES_WORSE * best.end_error]
    differences = [_differences(one, ends) for one in counted]
    pairs = tuple(
        _pair(first, second, [each(first, second) for each in differences], len(curves))
        for first, second in combinations(names, 2)
        if not {first, second} <= trained.keys()  # what ran is compared by what was measured
    )
    order = [name for name in names if name not in trained]
    return Decision(
        name=question.name,
        kind=question.kind,
        runs=len(curves),
        arms=len(evidence.curves),
        trunks=1,
        proposal=Proposal(None, {}, {}, (), None, 0, {"schedule": order[0]}),
        laws=tuple(_report(one) for one in fitted),
        noise=(),
        contenders=(),
        verdicts=_verdicts(order, pairs),
        kept_shares=(),
        notes=_notes(fitted, counted),
        order=ScheduleOrder(tuple(names), pairs),
    )


def _different(curves: Sequence[Curve]) -> int:
    """How many curves have a rate of their own somewhere that was seen."""
    distinct: list[Array] = []
    for curve in curves:
        rates = curve.rates[: curve.at[-1] + 1]
        common = [min(len(rates), len(other)) for other in distinct]
        if all(
            np.abs(rates[:n] - other[:n]).max() > 1e-3 * rates.max() for n, other in zip(common, distinct, strict=True)
        ):
            distinct.append(rates)
    return len(distinct)


def _rates(forecast: Forecast, number: int) -> tuple[Array, int]:
    """The rate of every unit of a schedule, that of its middle, shape `[units]`, and the units of its warm-up."""
    schedule, unit = forecast.schedules[number], forecast.unit_tokens
    step = unit // forecast.unit_steps
    middle = (forecast.unit_steps // 2 + 1) * step
    rates = [schedule.learning_rate.at(begin + middle) for begin in range(0, schedule.end - unit + 1, unit)]
    return np.array(rates), schedule.learning_rate.warmup // unit


def _fit(name: LawOfSchedules, curves: Sequence[Curve], unit_steps: int) -> _Fitted:
    memories = [memory**unit_steps for memory in MEMORIES]

    def fit(some: Sequence[Curve]) -> Law:
        return fit_annealing(some, memories) if name == "annealing" else fit_multi_power(some)

    law = fit(curves)
    left_out = len(curves) >= LEAST_LEFT_OUT
    laws = [fit([*curves[:at], *curves[at + 1 :]]) if left_out else law for at in range(len(curves))]
    last = [_last(curve) for curve in curves]
    predicted = [
        float(np.mean(_predict(one, curve.rates, curve.at[tail], curve.warmup)))
        for one, curve, tail in zip(laws, curves, last, strict=True)
    ]
    observed = [float(np.mean(curve.losses[tail])) for curve, tail in zip(curves, last, strict=True)]
    return _Fitted(name, law, _covariance(law, curves), np.array(predicted), np.array(observed), left_out)


def _last(curve: Curve) -> slice:
    return slice(len(curve.at) - max(1, len(curve.at) // 32), None)


def _predict(law: Law, rates: Array, at: Steps, warmup: int) -> Array:
    return law.predict(rates, at, warmup) if isinstance(law, AnnealingLaw) else law.predict(rates, at)


def _end(law: Law, rates: Array, warmup: int) -> float:
    return float(_predict(law, rates, np.array([len(rates) - 1]), warmup)[0])


def _slopes(law: Law, rates: Array, at: Steps, warmup: int) -> Array:
    """The derivatives of predicted losses by the logarithm of each number of the law, shape `[n, numbers]`."""
    names = (
        ("floor", "scale", "power", "gain")
        if isinstance(law, AnnealingLaw)
        else ("floor", "scale", "power", "b", "c", "beta", "gamma")
    )
    columns = []
    for name in names:
        value = max(getattr(law, name), 1e-12)
        high, low = (replace(law, **{name: value * factor}) for factor in (1.001, 0.999))
        columns.append((_predict(high, rates, at, warmup) - _predict(low, rates, at, warmup)) / 0.002)
    return np.column_stack(columns)


def _covariance(law: Law, curves: Sequence[Curve]) -> Array:
    """The covariance of the numbers' logarithms, shape `[numbers, numbers]`, from blocks of residuals."""
    slopes, residuals = [], []
    for curve in curves:
        step = max(1, len(curve.at) // _POINTS)
        at = curve.at[::step]
        slopes.append(_slopes(law, curve.rates, at, curve.warmup))
        residuals.append(_predict(law, curve.rates, at, curve.warmup) - curve.losses[::step])
    inverse = np.linalg.pinv(np.concatenate(slopes), rcond=1e-4)
    # of each block the sum of what its residuals move the numbers by: those of one block are no independent ones
    blocks = [
        block
        for begin, part in zip(np.cumsum([0, *map(len, residuals)]), residuals, strict=False)
        for block in np.array_split(np.arange(begin, begin + len(part)), _BLOCKS)
    ]
    every = np.concatenate(residuals)
    moves = np.stack([inverse[:, block] @ every[block] for block in blocks])
    return np.asarray(moves.T @ moves, np.float64)


def _differences(fitted: _Fitted, ends: Mapping[str, tuple[Array, int]]) -> Callable[[str, str], tuple[float, float]]:
    """The predicted difference of two ends and its standard deviation, both in nats."""
    at = {name: np.array([len(rates) - 1]) for name, (rates, _) in ends.items()}
    values = {name: _end(fitted.law, *rates) for name, rates in ends.items()}
    slopes = {name: _slopes(fitted.law, rates, at[name], warmup)[0] for name, (rates, warmup) in ends.items()}

    def between(first: str, second: str) -> tuple[float, float]:
        slope = slopes[first] - slopes[second]
        variance = float(slope @ fitted.covariance @ slope) + fitted.end_error**2
        return values[first] - values[second], math.sqrt(variance)

    return between


def _pair(first: str, second: str, differences: Sequence[tuple[float, float]], curves: int) -> OrderedPair:
    from scipy.stats import t

    confidence = min(
        float(t.cdf(-difference / max(error, 1e-12), max(curves - 1, 1))) for difference, error in differences
    )
    return OrderedPair(first, second, confidence, "suggested" if confidence >= CONFIDENCE else "not distinguishable")


def _verdicts(order: Sequence[str], pairs: Sequence[OrderedPair]) -> tuple[Verdict, ...]:
    """The word on the first schedule against the next one; nothing that was not trained is more than suggested."""
    words = {(pair.first, pair.second): pair.word for pair in pairs}
    return tuple(Verdict("lower", None, second, words[order[0], second], 0.0, None, None) for second in order[1:2])


def _report(fitted: _Fitted) -> LawReport:
    law = fitted.law
    terms = {name: getattr(law, name) for name in law.__dataclass_fields__ if name != "objective"}
    errors = fitted.predicted - fitted.observed
    return LawReport(
        source="training loss",
        name=fitted.name,
        terms=terms,
        arms=len(errors),
        objective=law.objective if isinstance(law, AnnealingLaw) else None,
        left_out_error=float(np.sqrt(np.mean(errors**2))) if fitted.left_out else None,
        other_error=None,
        rank=shared.rank(fitted.predicted, fitted.observed) if fitted.left_out else None,
        own_share_rank=None,
        half_width=None,
    )


def _notes(fitted: Sequence[_Fitted], counted: Sequence[_Fitted]) -> tuple[str, ...]:
    lines = ["only the order is told: laws of schedules misjudge by how much one is better by a factor of 2 to 3.5"]
    for one in fitted:
        if one not in counted:
            times = one.end_error / min(other.end_error for other in counted)
            lines.append(
                f"the law `{one.name}` errs {times:.2g} times as much between ends as the other: it does not count"
            )
    if not all(one.left_out for one in fitted):
        lines.append(
            f"fewer than {LEAST_LEFT_OUT} training curves: none can be left out of the fit, and the confidence rests "
            "on curves that the law was fitted to"
        )
    return tuple(lines)
