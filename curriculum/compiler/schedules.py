"""A stage file's learning rate as the curve of a plan: rates and lengths that are scaled already become points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from curriculum import config
from curriculum.plan.learning_rate import LearningRate
from curriculum.plan.rate_forms import DecayShape, Point
from curriculum.units import Length


@dataclass(frozen=True, slots=True, kw_only=True)
class RateStart:
    """Where a stage takes the rate over: its first token, its declared start at full size, and the rate there."""

    position: int
    declared: int
    rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledRates:
    """What a size makes of the numbers of a curve: rates as floats, lengths in tokens at that size."""

    rate: Callable[[Fraction], float]
    length: Callable[[Length], int]
    low: float
    warmup: int


class NoFall(ValueError):
    """The rate where a fall starts, `first`, is not above the one that it is to end at, `last`."""

    def __init__(self, first: float, last: float) -> None:
        super().__init__(f"the rate where the decay starts, {first:.3g}, is not above its last, {last:.3g}")
        self.first, self.last = first, last


def highest(entry: config.LearningRateEntry) -> Fraction:
    """The highest rate that the entry states; 0 for a decay, which states none."""
    return (
        max((point.rate for point in entry.points), default=Fraction(0)) if entry.points else entry.max or Fraction(0)
    )


def warmup_of(entry: config.LearningRateEntry) -> Length | None:
    """The length of the straight rise from 0: of a curve through points, up to the first that is above 0."""
    if not entry.points:
        return entry.warmup
    first = _without_zero(entry.points)[0].at
    return first if first.amount else None


def curve(entry: config.LearningRateEntry, scaled: ScaledRates, start: RateStart | None) -> LearningRate:
    """The curve at a size; ValueError for numbers that no curve goes through.

    `start` is needed by the shape `decay` alone, which falls from there.
    """
    if entry.points:
        return LearningRate.through(_points(entry.points, scaled))
    if entry.shape == "decay":
        assert start is not None
        return _fall_from(entry, scaled, start)
    assert entry.max is not None
    high, horizon, fall = scaled.rate(entry.max), scaled.length(entry.horizon), _decay_shape(entry)
    if entry.shape in ("exponential", "power") and horizon <= scaled.warmup:
        raise ValueError(f"the horizon, {horizon:,} tokens, is not after the warm-up, {scaled.warmup:,} tokens")
    if entry.shape == "exponential":
        low = _last_rate(entry, scaled, high, horizon - scaled.warmup)
        return LearningRate.through([Point(scaled.warmup, high, "exponential"), Point(horizon, low)])
    if entry.shape == "power":
        return LearningRate.through(_power(entry, scaled, high, horizon))
    decay = scaled.length(entry.decay) if entry.decay else 0
    low = _last_rate(entry, scaled, high, decay)
    if entry.shape == "wsd-s":
        return LearningRate.through(_cycles(entry, scaled, high, low, decay))
    return LearningRate(entry.shape, high, low, scaled.warmup, horizon, decay, fall)


def _decay_shape(entry: config.LearningRateEntry) -> DecayShape:
    return "sqrt" if entry.decay_shape == "1-sqrt" else entry.decay_shape


def _last_rate(entry: config.LearningRateEntry, scaled: ScaledRates, first: float, tokens: int) -> float:
    """The rate at the end of a fall from `first` over `tokens`: the stated one, or what its half-life leaves."""
    if entry.half_life is None:
        return scaled.low
    return float(first * 0.5 ** (tokens / scaled.length(entry.half_life)))


def _without_zero(points: Sequence[config.PointEntry]) -> Sequence[config.PointEntry]:
    """The points without a first one that only says that a straight rise begins at 0, as every curve's does."""
    first = points[0]
    rises = len(points) > 1 and not first.at.amount and not first.rate and first.then == "linear"
    return points[1:] if rises and points[1].at.amount else points


def _points(stated: Sequence[config.PointEntry], scaled: ScaledRates) -> list[Point]:
    entries = _without_zero(stated)
    points = [Point(scaled.length(entry.at), scaled.rate(entry.rate), entry.then) for entry in entries]
    return [replace(points[0], at=scaled.warmup), *points[1:]]


def _fall_from(entry: config.LearningRateEntry, scaled: ScaledRates, start: RateStart) -> LearningRate:
    assert entry.decay is not None
    end = scaled.length(Length(start.declared, "tokens")) + scaled.length(entry.decay)
    if end <= start.position:
        raise ValueError(f"the decay would end at {end:,} tokens, where its stage starts: {start.position:,}")
    low = _last_rate(entry, scaled, start.rate, end - start.position)
    if not start.rate > low:
        raise NoFall(start.rate, low)
    return LearningRate.through([Point(start.position, start.rate, _decay_shape(entry)), Point(end, low)])


def _power(entry: config.LearningRateEntry, scaled: ScaledRates, high: float, horizon: int) -> list[Point]:
    exponent = float(entry.exponent)
    decay = scaled.length(entry.decay) if entry.decay else 0
    fall = horizon - decay
    if fall <= scaled.warmup:
        raise ValueError(
            f"the decay, {decay:,} tokens, does not fit between the end of the warm-up "
            f"and the horizon, which are {horizon - scaled.warmup:,} tokens apart"
        )
    at_fall = high * (scaled.warmup / fall) ** exponent
    points = [Point(scaled.warmup, high, "power", exponent), Point(fall, at_fall, _decay_shape(entry))]
    if not decay:
        return points
    low = _last_rate(entry, scaled, at_fall, decay)
    if not at_fall > low:
        raise NoFall(at_fall, low)
    return [*points, Point(horizon, low)]


def _cycles(entry: config.LearningRateEntry, scaled: ScaledRates, high: float, low: float, decay: int) -> list[Point]:
    assert entry.cycles is not None
    back = scaled.length(entry.return_) if entry.return_ else 0
    points = [Point(scaled.warmup, high)]
    ends = [scaled.length(end) for end in entry.cycles]
    for number, end in enumerate(ends):
        if end - decay < points[-1].at:
            raise ValueError(
                f"the decay of {decay:,} tokens that ends at {end:,} would begin before {points[-1].at:,}, "
                "where the rate is at its highest again"
            )
        points += [Point(end - decay, high, _decay_shape(entry)), Point(end, low)]
        if number < len(ends) - 1:
            points.append(Point(end + back, high))
    return _distinct(points)


def _distinct(points: Sequence[Point]) -> list[Point]:
    """The points without one that the next repeats: a fall that begins where the rate is at its highest again."""
    kept: list[Point] = []
    for point in points:
        if kept and (kept[-1].at, kept[-1].rate) == (point.at, point.rate):
            kept.pop()
        kept.append(point)
    return kept
