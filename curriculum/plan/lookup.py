"""The inverse of a stage's order: the sequences that read given windows, in closed form, without logs or replay.

    windows of a source ── segments, inverse permutation ──> items ── tree or ramp, `where` ──> sequences

Few windows are looked up one by one. For a range of very many (a shard) the first and the last occurrence are found by
a search through the items from either end, and occurrences are counted: an epoch that is completely inside the stage
reads every window once; of an epoch that a stage reads in part, the shorter side is enumerated, as far as a budget
allows. Beyond it the count is an expectation with a margin.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from curriculum.plan.arrays import Integers
from curriculum.plan.source import Segment
from curriculum.plan.stage import MixtureSegment, StagePlan

ONE_BY_ONE: Final = 1 << 16
"""The number of windows up to which each occurrence is looked up."""

BUDGET: Final = 1 << 21
"""Windows or items that one count enumerates before it becomes an expectation; about 0.1 s."""

_CHUNK: Final = 1 << 14


@dataclass(frozen=True, slots=True)
class Occurrences:
    """Occurrences of windows in a stage, ascending by sequence; all arrays have shape `[n]`."""

    window: Integers
    pass_number: Integers
    item: Integers
    sequence: Integers

    def steps(self, plan: StagePlan) -> Integers:
        """The step of each occurrence."""
        return plan.first_step + plan.clock.steps_of_sequences(self.sequence)

    def slots(self, plan: StagePlan) -> Integers:
        """The slot of each occurrence in its step."""
        steps = self.steps(plan)
        at = steps - plan.first_step
        before, turns = plan.clock.sequences_before_each(at), plan.rotations(steps)
        slots: Integers = (self.sequence - before - turns) % plan.clock.batches(at)
        return slots


def occurrences(plan: StagePlan, source: str, windows: Integers, *, first: int = 0, stop: int) -> Occurrences:
    """Every occurrence of `windows` (distinct, shape `[n]`) in the stage's sequences `first` to `stop`, exclusive.

    PlanError while the number of the source's windows is not known.
    """
    parts: list[tuple[Integers, ...]] = []
    for items in _item_ranges(plan, source, first, stop):
        for span in _spans(plan, source, items.first_item, items.stop_item):
            index = span.segment.to_indices(windows)
            inside, index = windows[index >= 0], index[index >= 0]
            order = plan.sources[source].permutation(span.segment, span.pass_number, seed=plan.seed, source=source)
            position = index if order is None else order.inverse(index)
            is_read = (position >= span.first) & (position < span.stop)
            if is_read.any():
                item = span.first_item + position[is_read]
                number = np.full_like(item, span.pass_number)
                parts.append((inside[is_read], number, item, items.sequences(plan, source, item)))
    if not parts:
        empty = np.empty(0, np.int64)
        return Occurrences(empty, empty, empty, empty)
    window, number, item, sequence = (np.concatenate(column) for column in zip(*parts, strict=True))
    ascending = np.argsort(sequence, kind="stable")
    return Occurrences(window[ascending], number[ascending], item[ascending], sequence[ascending])


def sequence_of(plan: StagePlan, source: str, item: int, *, stop: int) -> int | None:
    """The first sequence before `stop` that draws `item` of the source or a later one; None when none does."""
    for items in _item_ranges(plan, source, 0, stop):
        if item < items.stop_item:
            return int(items.sequences(plan, source, np.array([max(item, items.first_item)]))[0])
    return None


@dataclass(frozen=True, slots=True)
class Count:
    """How often a range of windows is read: exactly when `margin` is 0, else an expectation.

    The margin is six standard deviations of the count, as if the orders were drawn at random.
    """

    readings: int
    margin: int


def count(
    plan: StagePlan, source: str, windows: range, *, first: int = 0, stop: int, budget: int | None = BUDGET
) -> Count:
    """How often the sequences `first` to `stop`, exclusive, read one of `windows`.

    `budget` bounds the windows and items enumerated; None counts exactly, however long it takes.
    """
    total, variance, remaining = 0, 0.0, budget
    for first_item, stop_item in _items(plan, source, first, stop):
        for span in _spans(plan, source, first_item, stop_item):
            low, high = (span.segment.count_before(window) for window in (windows.start, windows.stop))
            size, in_range, read = span.segment.in_range, high - low, span.stop - span.first
            if in_range <= 0:
                continue
            if size in (in_range, read):
                total += min(in_range, read)
                continue
            order = plan.sources[source].permutation(span.segment, span.pass_number, seed=plan.seed, source=source)
            if order is None:
                total += max(0, min(high, span.stop) - max(low, span.first))
                continue
            if remaining is not None and min(in_range, read) > remaining:
                total += round(read * in_range / size)
                share = in_range / size
                variance += read * share * (1 - share) * (size - read) / (size - 1)
                continue
            if read <= in_range:
                values = (order(k) for k in _chunks(span.first, span.stop))
                begin, end = low, high
            else:
                values = (order.inverse(w) for w in _chunks(low, high))
                begin, end = span.first, span.stop
            total += sum(int(((chunk >= begin) & (chunk < end)).sum()) for chunk in values)
            if remaining is not None:
                remaining -= min(in_range, read)
    return Count(total, math.ceil(6 * math.sqrt(variance)))


def edge(plan: StagePlan, source: str, windows: range, *, first: int = 0, stop: int, last: bool = False) -> int | None:
    """The first (with `last`, the last) sequence from `first` to `stop`, exclusive, that reads one of `windows`."""
    if len(windows) <= ONE_BY_ONE:
        sequences = occurrences(plan, source, np.arange(windows.start, windows.stop), first=first, stop=stop).sequence
        return int(sequences[-1 if last else 0]) if len(sequences) else None
    ranges = list(_item_ranges(plan, source, first, stop))
    for items in reversed(ranges) if last else ranges:
        spans = list(_spans(plan, source, items.first_item, items.stop_item))
        for span in reversed(spans) if last else spans:
            low, high = (span.segment.count_before(window) for window in (windows.start, windows.stop))
            if high <= low:
                continue
            order = plan.sources[source].permutation(span.segment, span.pass_number, seed=plan.seed, source=source)
            if order is None:
                low, high = max(low, span.first), min(high, span.stop)
                span = replace(span, first=low, stop=max(low, high))
            for positions in _chunks(span.first, span.stop, backwards=last):
                index = positions if order is None else order(positions)
                hits = np.flatnonzero((index >= low) & (index < high))
                if len(hits):
                    item = span.first_item + positions[hits[-1 if last else 0]]
                    return int(items.sequences(plan, source, np.array([item]))[0])
    return None


@dataclass(frozen=True, slots=True)
class _ItemRange:
    """The items of a source that a mixture segment of the stage draws in a range of sequences."""

    segment: MixtureSegment
    first_item: int
    stop_item: int

    def sequences(self, plan: StagePlan, source: str, item: Integers) -> Integers:
        """The stage's sequence that draws each item."""
        phase = plan.blends[self.segment.blend]
        index = phase.mixer.where(source, item - phase.base.get(source, 0))
        return self.segment.first + index - self.segment.index


@dataclass(frozen=True, slots=True)
class _Span:
    """Positions `first` to `stop`, exclusive, of an epoch over a segment; `first_item` is the item at position 0."""

    segment: Segment
    pass_number: int
    first_item: int
    first: int
    stop: int


def _item_ranges(plan: StagePlan, source: str, first: int, stop: int) -> Iterator[_ItemRange]:
    for segment, *bounds in plan.mixture_spans(first, stop):
        phase = plan.blends[segment.blend]
        if source not in phase.mixer.names:
            continue
        begin, end = (phase.items_of(source, segment.index + bound - segment.first) for bound in bounds)
        if begin < end:
            yield _ItemRange(segment, begin, end)


def _items(plan: StagePlan, source: str, first: int, stop: int) -> list[tuple[int, int]]:
    """The ranges of items drawn from the source; adjacent ranges are merged."""
    ranges: list[tuple[int, int]] = []
    for items in _item_ranges(plan, source, first, stop):
        if ranges and ranges[-1][1] == items.first_item:
            ranges[-1] = (ranges[-1][0], items.stop_item)
        else:
            ranges.append((items.first_item, items.stop_item))
    return ranges


def _spans(plan: StagePlan, source: str, first_item: int, stop_item: int) -> Iterator[_Span]:
    plan.sources[source].require_counted(source)
    segments = plan.sources[source].segments
    for at, segment in enumerate(segments):
        segment_stop = segments[at + 1].first_item if at + 1 < len(segments) else stop_item
        begin, end = max(first_item, segment.first_item), min(stop_item, segment_stop)
        if begin >= end:
            continue
        size = segment.windows
        for turn in range((begin - segment.first_item) // size, -((segment.first_item - end) // size)):
            origin = segment.first_item + turn * size
            yield _Span(segment, segment.pass_number + turn, origin, max(begin - origin, 0), min(end - origin, size))


def _chunks(first: int, stop: int, *, backwards: bool = False) -> Iterator[Integers]:
    begins = range(first, stop, _CHUNK)
    for begin in reversed(begins) if backwards else begins:
        yield np.arange(begin, min(begin + _CHUNK, stop), dtype=np.int64)
