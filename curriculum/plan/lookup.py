"""When a window is read: the order of a stage turned round, in closed form, without logs or replay.

    windows of a source ── segments, inverse permutation ──> items ── tree or ramp, `where` ──> sequences

A handful of windows is looked up one by one. For a stretch of very many (a whole shard) the first and the last
reading are found by walking the items from either end until one falls into it, and the readings are counted: a
pass that lies whole inside the stage reads every window once; of a pass that a stage reads in part, the shorter
side is looked through, as far as a budget allows. Beyond it the count is an expectation, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from curriculum.plan.permutation import rotation
from curriculum.plan.stage import Integers, Segment, StagePlan

ONE_BY_ONE: Final = 1 << 16
"""Windows up to which each reading is looked up."""

COUNTED: Final = 1 << 21
"""Windows or items that one count looks through before it becomes an expectation; some 0.1 s."""

_CHUNK: Final = 1 << 14


@dataclass(frozen=True, slots=True)
class Occurrences:
    """Readings of windows in a stage, ascending by sequence; all arrays have shape `[n]`."""

    window: Integers
    pass_number: Integers
    item: Integers
    sequence: Integers

    def steps(self, plan: StagePlan) -> Integers:
        """The step of each reading."""
        return plan.first_step + self.sequence // plan.batch_sequences

    def slots(self, plan: StagePlan) -> Integers:
        """The slot of each reading in its step."""
        batch = plan.batch_sequences
        steps, place = np.unique(self.steps(plan), return_inverse=True)
        turns = np.array([rotation(plan.seed, step, batch) for step in steps.tolist()], np.int64)
        turned: Integers = (self.sequence - turns[place]) % batch if len(turns) else self.sequence
        return turned


def occurrences(plan: StagePlan, source: str, windows: Integers, *, first: int = 0, stop: int) -> Occurrences:
    """Every reading of `windows` (distinct, shape `[n]`) among the stage's sequences `first` to `stop`, exclusive.

    PlanError when the size of the source is not known.
    """
    parts: list[tuple[Integers, ...]] = []
    for run in _runs(plan, source, first, stop):
        for span in _spans(plan, source, run.first_item, run.stop_item):
            chosen = span.segment.chosen(windows)
            inside, chosen = windows[chosen >= 0], chosen[chosen >= 0]
            order = plan.sources[source].permutation(
                span.segment, span.pass_number, seed=plan.seed, source=source
            )
            place = chosen if order is None else order.inverse(chosen)
            read = (place >= span.first) & (place < span.stop)
            if read.any():
                item = span.first_item + place[read]
                number = np.full_like(item, span.pass_number)
                parts.append((inside[read], number, item, run.sequences(plan, source, item)))
    if not parts:
        none = np.empty(0, np.int64)
        return Occurrences(none, none, none, none)
    window, number, item, sequence = (np.concatenate(column) for column in zip(*parts, strict=True))
    ascending = np.argsort(sequence, kind="stable")
    return Occurrences(window[ascending], number[ascending], item[ascending], sequence[ascending])


def sequence_of(plan: StagePlan, source: str, item: int, *, stop: int) -> int | None:
    """The first sequence before `stop` that draws `item` of the source or a later one; None when none does."""
    for run in _runs(plan, source, 0, stop):
        if item < run.stop_item:
            return int(run.sequences(plan, source, np.array([max(item, run.first_item)]))[0])
    return None


@dataclass(frozen=True, slots=True)
class Count:
    """How often the windows of a stretch are read. `within` is 0 when `readings` is exact; else it is an
    expectation, and six standard deviations of it (as if the orders were drawn at random) are `within`."""

    readings: int
    within: int


def count(
    plan: StagePlan,
    source: str,
    stretch: range,
    *,
    first: int = 0,
    stop: int,
    budget: int | None = COUNTED,
) -> Count:
    """How many readings of the windows in `stretch` lie among the sequences `first` to `stop`, exclusive.

    `budget` bounds what is looked through; None counts exactly, however long it takes.
    """
    total, variance, left = 0, 0.0, budget
    for first_item, stop_item in _items(plan, source, first, stop):
        for span in _spans(plan, source, first_item, stop_item):
            low, high = (span.segment.chosen_before(window) for window in (stretch.start, stretch.stop))
            whole, marked, taken = span.segment.windows, high - low, span.stop - span.first
            if marked <= 0:
                continue
            if marked == whole or taken == whole:
                total += min(marked, taken)
                continue
            if plan.sources[source].order == "in-order":
                total += max(0, min(high, span.stop) - max(low, span.first))
                continue
            if left is not None and min(marked, taken) > left:
                total += round(taken * marked / whole)
                part = marked / whole
                variance += taken * part * (1 - part) * (whole - taken) / (whole - 1)
                continue
            order = plan.sources[source].permutation(
                segment=span.segment, pass_number=span.pass_number, seed=plan.seed, source=source
            )
            assert order is not None
            if taken <= marked:
                looked = (order(k) for k in _chunks(span.first, span.stop))
                bounds = (low, high)
            else:
                looked = (order.inverse(w) for w in _chunks(low, high))
                bounds = (span.first, span.stop)
            total += sum(int(((found >= bounds[0]) & (found < bounds[1])).sum()) for found in looked)
            if left is not None:
                left -= min(marked, taken)
    return Count(total, math.ceil(6 * math.sqrt(variance)))


def edge(
    plan: StagePlan, source: str, stretch: range, *, first: int = 0, stop: int, last: bool = False
) -> int | None:
    """The first (with `last`, the last) sequence from `first` to `stop`, exclusive, that reads one of `stretch`."""
    if len(stretch) <= ONE_BY_ONE:
        found = occurrences(plan, source, np.arange(stretch.start, stretch.stop), first=first, stop=stop)
        if not len(found.sequence):
            return None
        return int(found.sequence[-1 if last else 0])
    runs = list(_runs(plan, source, first, stop))
    for run in reversed(runs) if last else runs:
        spans = list(_spans(plan, source, run.first_item, run.stop_item))
        for span in reversed(spans) if last else spans:
            low, high = (span.segment.chosen_before(window) for window in (stretch.start, stretch.stop))
            if high <= low:
                continue
            order = plan.sources[source].permutation(
                span.segment, span.pass_number, seed=plan.seed, source=source
            )
            if order is None:
                low, high = max(low, span.first), min(high, span.stop)
                span = replace(span, first=low, stop=max(low, high))
            for places in _chunks(span.first, span.stop, backwards=last):
                found_at = places if order is None else order(places)
                hits = np.flatnonzero((found_at >= low) & (found_at < high))
                if len(hits):
                    item = span.first_item + places[hits[-1 if last else 0]]
                    return int(run.sequences(plan, source, np.array([item]))[0])
    return None


@dataclass(frozen=True, slots=True)
class _Run:
    """A piece of the stage, as far as it is asked for, with the items of the source that it draws."""

    first: int
    blend: int
    index: int
    first_item: int
    stop_item: int

    def sequences(self, plan: StagePlan, source: str, item: Integers) -> Integers:
        blend = plan.blends[self.blend]
        index = blend.mixer.where(source, item - blend.base.get(source, 0))
        return self.first + index - self.index


@dataclass(frozen=True, slots=True)
class _Span:
    """A pass over a segment, as far as a range of items goes through it: places `first` to `stop`, exclusive.

    `first_item` is the item at place 0 of the pass.
    """

    segment: Segment
    pass_number: int
    first_item: int
    first: int
    stop: int


def _runs(plan: StagePlan, source: str, first: int, stop: int) -> Iterator[_Run]:
    for at, piece in enumerate(plan.pieces):
        until = plan.pieces[at + 1].first if at + 1 < len(plan.pieces) else plan.sequences
        begin, end = max(first, piece.first), min(stop, until)
        if begin >= end:
            continue
        blend = plan.blends[piece.blend]
        if source not in blend.mixer.names:
            continue
        items = [blend.items_of(source, piece.index + place - piece.first) for place in (begin, end)]
        if items[0] < items[1]:
            yield _Run(piece.first, piece.blend, piece.index, items[0], items[1])


def _items(plan: StagePlan, source: str, first: int, stop: int) -> list[tuple[int, int]]:
    """The ranges of items drawn from the source; where one piece goes on where another stopped they are one."""
    ranges: list[tuple[int, int]] = []
    for run in _runs(plan, source, first, stop):
        if ranges and ranges[-1][1] == run.first_item:
            ranges[-1] = (ranges[-1][0], run.stop_item)
        else:
            ranges.append((run.first_item, run.stop_item))
    return ranges


def _spans(plan: StagePlan, source: str, first_item: int, stop_item: int) -> Iterator[_Span]:
    plan.sources[source].known(source)
    segments = plan.sources[source].segments
    for at, segment in enumerate(segments):
        until = segments[at + 1].first_item if at + 1 < len(segments) else stop_item
        begin, end = max(first_item, segment.first_item), min(stop_item, until)
        if begin >= end:
            continue
        size = segment.windows
        for turn in range((begin - segment.first_item) // size, -((segment.first_item - end) // size)):
            zero = segment.first_item + turn * size
            yield _Span(
                segment, segment.pass_number + turn, zero, max(begin - zero, 0), min(end - zero, size)
            )


def _chunks(first: int, stop: int, *, backwards: bool = False) -> Iterator[Integers]:
    begins = range(first, stop, _CHUNK)
    for begin in reversed(begins) if backwards else begins:
        yield np.arange(begin, min(begin + _CHUNK, stop), dtype=np.int64)
