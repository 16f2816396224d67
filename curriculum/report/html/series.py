"""A million measured lines as a few hundred points: thinned in one pass, the same ones each time, extremes kept."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, field
from pathlib import Path

from curriculum.artifacts.metrics import read_metrics

Point = tuple[int, float]


@dataclass(frozen=True, slots=True)
class Training:
    """What a stage's `metrics.jsonl` says. Losses in nats a token, `seconds` and rates as measured.

    `raw` and `smooth` hold (position in tokens, loss). `raw` is every line where there are at most twice
    `buckets` of them; otherwise the lowest and highest of each of as many equal ranges of tokens.
    """

    lines: int = 0
    raw: tuple[Point, ...] = ()
    smooth: tuple[Point, ...] = ()
    skipped: int = 0
    not_finite: int = 0
    seconds: float = 0.0
    data_seconds: float = 0.0
    rate: float | None = None
    lowest_rate: float | None = None
    last: int | None = None


@dataclass(slots=True)
class Thinner:
    """Takes in points by rising position; keeps the first, the last, and each range's lowest and highest."""

    start: int
    stop: int
    buckets: int
    _few: list[Point] = field(default_factory=list)
    _kept: dict[int, list[Point]] = field(default_factory=dict)
    _many: bool = False

    def add(self, position: int, value: float) -> None:
        if not self._many:
            self._few.append((position, value))
            if len(self._few) > 2 * self.buckets:
                self._many = True
                for point in self._few:
                    self._take(point)
            return
        self._take((position, value))

    def _take(self, point: Point) -> None:
        span = max(1, self.stop - self.start)
        bucket = min(self.buckets - 1, max(0, (point[0] - self.start) * self.buckets // span))
        kept = self._kept.get(bucket)
        if kept is None:  # first, lowest, highest, last
            self._kept[bucket] = [point, point, point, point]
            return
        if point[1] < kept[1][1]:
            kept[1] = point
        if point[1] > kept[2][1]:
            kept[2] = point
        kept[3] = point

    def points(self) -> tuple[Point, ...]:
        """What is kept, by position."""
        if not self._many:
            return tuple(self._few)
        inside = [point for _, kept in sorted(self._kept.items()) for point in sorted({kept[1], kept[2]})]
        first, last = self._kept[min(self._kept)][0], self._kept[max(self._kept)][3]
        return tuple(sorted({first, *inside, last}))


def training(path: Path, *, start: int, stop: int, buckets: int, window: int) -> Training:
    """Read a stage's metrics once, line by line, up to `stop`; `window` is the length of the smoothing, in tokens.

    `smooth` is a running mean whose weights fall by e every `window` tokens, begun anew at the stage's start,
    where they fall within a fifth of the way come.
    DataError names the first line that is none.
    """
    raw, smooth = Thinner(start, stop, buckets), Thinner(start, stop, buckets)
    rates = array("d")
    lines = skipped = not_finite = 0
    seconds = data_seconds = mean = weight = 0.0
    before = start
    last = None
    for line in read_metrics(path):
        position = line["position"]
        if position > stop:
            break  # trained by those who went on past it
        lines, last = lines + 1, position
        skipped += bool(line.get("skipped"))
        seconds += line["seconds"]
        data_seconds += line.get("data_seconds", 0.0)
        rates.append(line["tokens_per_second"])
        loss = line["loss"]
        if not isinstance(loss, int | float) or not math.isfinite(loss):
            not_finite += 1  # written as text: JSON has no NaN
            continue
        over = min(
            window, max(1, (position - start) // 5)
        )  # a whole window would lag where the loss falls first
        keep = math.exp(-max(0, position - before) / over)
        mean, weight = mean * keep + loss * (1 - keep), weight * keep + (1 - keep)
        raw.add(position, loss)
        smooth.add(position, mean / weight if weight > 0 else loss)
        before = position
    ordered = sorted(rates)
    return Training(
        lines=lines,
        raw=raw.points(),
        smooth=smooth.points(),
        skipped=skipped,
        not_finite=not_finite,
        seconds=seconds,
        data_seconds=data_seconds,
        rate=ordered[len(ordered) // 2] if ordered else None,
        lowest_rate=ordered[len(ordered) // 20] if ordered else None,
        last=last,
    )
