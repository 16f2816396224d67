"""The metrics of a stage, read once: totals, and losses thinned to a few hundred points that keep every extreme."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from curriculum.artifacts.metrics import read_metrics

Point = tuple[int, float]


@dataclass(frozen=True, slots=True)
class Training:
    """The totals of a stage's `metrics.jsonl`, and its losses as (position in tokens, nats a token), `thinned`.

    `seconds` are those of the steps with the stalls of saves, without evaluations.
    Rates are in tokens a second: the median, and the lowest but for a twentieth of the steps. `memory` is the peak in
    bytes of rank 0's GPU, or of its process on a CPU.
    """

    lines: int = 0
    raw: tuple[Point, ...] = ()
    smooth: tuple[Point, ...] = ()
    skipped: int = 0
    not_finite: int = 0
    seconds: float = 0.0
    evaluation_seconds: float = 0.0
    data_seconds: float = 0.0
    rate: float | None = None
    lowest_rate: float | None = None
    memory: int | None = None
    last: int | None = None


def thinned(
    positions: Sequence[int], values: Sequence[float], start: int, stop: int, buckets: int
) -> tuple[Point, ...]:
    """Points by rising position: all if there are at most twice `buckets`, else each range's lowest and highest.

    The ranges divide the tokens from `start` to `stop` equally; the first and the last point are always kept.
    """
    if len(values) <= 2 * buckets:
        return tuple(zip(positions, values, strict=True))
    series = np.asarray(values)
    ranges = np.clip((np.asarray(positions) - start) * buckets // max(1, stop - start), 0, buckets - 1)
    kept = {0, len(values) - 1}
    for indices in np.split(np.arange(len(values)), np.flatnonzero(np.diff(ranges)) + 1):
        kept |= {int(indices[series[indices].argmin()]), int(indices[series[indices].argmax()])}
    return tuple((positions[index], values[index]) for index in sorted(kept))


def training(path: Path, *, start: int, stop: int, buckets: int, window: int) -> Training:
    """Read a stage's metrics once, line by line, up to `stop`; `window` is the length of the smoothing, in tokens.

    `smooth` is a running mean whose weights fall by e every `window` tokens, or within a fifth of the tokens since
    the stage's start. DataError names the first damaged line.
    """
    positions, raw, smooth, rates = array("q"), array("d"), array("d"), array("d")
    lines = skipped = not_finite = 0
    seconds = evaluation_seconds = data_seconds = mean = weight = 0.0
    before = start
    memory = last = None
    for line in read_metrics(path):
        position = line["position"]
        if position > stop:
            break  # trained for another curriculum, which leaves the stage later
        lines, last = lines + 1, position
        skipped += bool(line.get("skipped"))
        seconds += line["seconds"]
        evaluation_seconds += line.get("evaluation_seconds", 0.0)
        data_seconds += line.get("data_seconds", 0.0)
        rates.append(line["tokens_per_second"])
        memory = max(filter(None, (memory, line.get("memory_bytes"))), default=None)
        loss = line["loss"]
        if not isinstance(loss, int | float) or not math.isfinite(loss):
            not_finite += 1  # written as text: JSON has no NaN
            continue
        over = min(
            window, max(1, (position - start) // 5)
        )  # a full window would lag where the loss falls fast at first
        keep = math.exp(-max(0, position - before) / over)
        mean, weight = mean * keep + loss * (1 - keep), weight * keep + (1 - keep)
        positions.append(position)
        raw.append(loss)
        smooth.append(mean / weight if weight > 0 else loss)
        before = position
    ordered = sorted(rates)
    return Training(
        lines=lines,
        raw=thinned(positions, raw, start, stop, buckets),
        smooth=thinned(positions, smooth, start, stop, buckets),
        skipped=skipped,
        not_finite=not_finite,
        seconds=seconds,
        evaluation_seconds=evaluation_seconds,
        data_seconds=data_seconds,
        rate=ordered[len(ordered) // 2] if ordered else None,
        lowest_rate=ordered[len(ordered) // 20] if ordered else None,
        memory=memory,
        last=last,
    )
