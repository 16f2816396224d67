"""The first token that two plans do not both read, from the parameters of their order, without a replay of what agrees.

A mixture segment is a tree or a ramp, an index into it and a count of items of every source. Where these are equal, so
is every draw as long as both segments last. Where they are not, the draws are compared in blocks: usually the first few
differ. Shares that differ by a millionth agree for many sequences; then the counts, which are closed forms, bound the
first difference from above.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise, zip_longest

import numpy as np
from numpy.typing import NDArray

from curriculum.plan.diff.timeline import Overlap, SearchResult, first_result
from curriculum.plan.mixing import Tree
from curriculum.plan.source import SourcePlan
from curriculum.plan.stage import MixturePhase, StagePlan

SEQUENCES_COMPARED = 1 << 21
"""At most so many draws are compared one by one in each pair of mixture segments."""


@dataclass(frozen=True, slots=True)
class _Side:
    """One plan from a given sequence on, inside one of its mixture segments."""

    plan: StagePlan
    phase: MixturePhase
    index: int

    def items(self, sequences: int) -> dict[str, int]:
        """Items of every source of the phase used before the given number of sequences from here."""
        items = self.phase.items(self.index + sequences)
        return {name: items[name] for name in self.phase.mixer.names}

    def function(self) -> tuple[object, ...]:
        """The normal form of the draws: two sides with equal functions draw the same items, up to a ramp's end."""
        mixer, items = self.phase.mixer, tuple(self.items(0).items())
        if isinstance(mixer, Tree) or len(mixer.names) == 1:
            weights = _reduced(mixer.weights if isinstance(mixer, Tree) else {mixer.names[0]: 1})
            return ("tree", tuple(weights.items()), self.index % sum(weights.values()), items)
        before, after = _reduced(mixer.before.weights), _reduced(mixer.after.weights)
        turn = mixer.before_index % sum(before.values())
        shares = tuple(before.items()), tuple(after.items())
        return ("ramp", *shares, turn, mixer.sequences, self.index, items)

    def draws(self, begin: int, count: int) -> tuple[tuple[str, ...], NDArray[np.int32], NDArray[np.int64]]:
        """`(names, source, item)` of `count` sequences."""
        mixer = self.phase.mixer
        source, ordinal = mixer.draw(np.arange(count, dtype=np.int64) + self.index + begin)
        base = np.array([self.phase.base.get(name, 0) for name in mixer.names], np.int64)
        return mixer.names, source, base[source] + ordinal


def first_token_difference(overlap: Overlap) -> SearchResult | None:
    """The first token that the two plans of `overlap` do not both read there; None when there is none."""
    if overlap.old.plan.sequence_length != overlap.new.plan.sequence_length:
        return SearchResult(overlap.begin, overlap.begin, True)
    return first_result(
        _search(old, new, begin, start, count)
        for begin, count, old, new in _sides(overlap)
        if (start := _first_possible(old, new, count)) is not None
    )


def text_differences(overlap: Overlap) -> dict[str, int]:
    """By source, the position of the first sequence that reads it from different prepared text."""
    old_sources, new_sources = overlap.old.plan.sources, overlap.new.plan.sources
    positions: dict[str, int] = {}
    for begin, count, old, new in _sides(overlap):
        for name in old.phase.mixer.names:
            same = name not in new_sources or _text(old_sources[name]) == _text(new_sources[name])
            if same or name in positions or name not in new.phase.mixer.names:
                continue
            at = _first_above(old, name, _common_text(old_sources[name], new_sources[name]), count)
            if at is not None:
                positions[name] = begin + at * overlap.old.plan.sequence_length
    return positions


def _text(source: SourcePlan) -> tuple[object, ...]:
    return source.dataset, source.order, [(s.first_item, s.digest) for s in source.segments]


def _sides(overlap: Overlap) -> Iterator[tuple[int, int, _Side, _Side]]:
    """`(position, sequences, old, new)` of every range in which both plans stay in one mixture segment."""
    plans = overlap.old.plan, overlap.new.plan
    length = plans[0].sequence_length
    bounds = {overlap.begin, overlap.end}
    for plan in plans:
        bounds |= {plan.start + segment.first * length for segment in plan.pieces}
    inside = sorted(bound for bound in bounds if overlap.begin <= bound <= overlap.end)
    for begin, end in pairwise(inside):
        old, new = (_side(plan, (begin - plan.start) // length) for plan in plans)
        yield begin, (end - begin) // length, old, new


def _side(plan: StagePlan, sequence: int) -> _Side:
    segment = next(segment for segment in reversed(plan.pieces) if segment.first <= sequence)
    return _Side(plan, plan.blends[segment.blend], segment.index + sequence - segment.first)


def _first_possible(old: _Side, new: _Side, count: int) -> int | None:
    """The first sequence that the parameters do not prove to be the same in both; None when they prove all."""
    if old.plan.seed != new.plan.seed or old.function() != new.function():
        return 0
    starts = []
    for name in old.phase.mixer.names:
        old_source, new_source = old.plan.sources[name], new.plan.sources[name]
        if old_source != new_source:
            starts.append(_first_above(old, name, _common_items(old_source, new_source), count))
    return min((start for start in starts if start is not None), default=None)


def _common_items(old: SourcePlan, new: SourcePlan) -> int:
    """How many items at the start of a source are certainly the same windows in both, which differ somewhere."""
    items = [] if replace(old, reseeds=new.reseeds) == new else [_common_text(old, new)]
    for pair in zip_longest(old.reseeds, new.reseeds):
        if pair[0] != pair[1]:
            items.append(min(reseed.first_item for reseed in pair if reseed is not None))
            break
    return min(items)


def _common_text(old: SourcePlan, new: SourcePlan) -> int:
    """How many items at the start of a source are of the same text in both, whose texts differ somewhere."""
    if (old.dataset, old.order) != (new.dataset, new.order):
        return 0
    for old_segment, new_segment in zip(old.segments, new.segments, strict=False):
        if old_segment != new_segment:
            return min(old_segment.first_item, new_segment.first_item)
    shorter = min(len(old.segments), len(new.segments))
    return next(s.first_item for s in (*old.segments[shorter:], *new.segments[shorter:]))


def _first_above(side: _Side, name: str, items: int, count: int) -> int | None:
    """The first of `count` sequences that draws item number `items` of `name` or a later one, by bisection."""
    start = max(items, side.items(0)[name])
    after = bisect.bisect_right(range(count + 1), start, key=lambda sequences: side.items(sequences)[name])
    return None if after > count else after - 1


def _search(old: _Side, new: _Side, begin: int, start: int, end: int) -> SearchResult | None:
    """The first sequence from `start` that differs, of those counted from the position `begin`."""
    length = old.plan.sequence_length
    at, size, last = start, 256, min(end, start + SEQUENCES_COMPARED)
    while at < last:
        size = min(size * 2, 1 << 16, last - at)
        differs = _different(old, new, at, size)
        if differs.any():
            position = begin + (at + int(differs.argmax())) * length
            return SearchResult(position, position, True)
        at += size
    if at >= end:
        return None
    sequence = _first_count_difference(old, new, at, end)
    return SearchResult(None if sequence is None else begin + sequence * length, begin + at * length, False)


def _first_count_difference(old: _Side, new: _Side, begin: int, end: int) -> int | None:
    """A sequence by whose end the counts of sources certainly differ; None when none was found."""
    sides = [(side, side.items(begin)) for side in (old, new)]

    def apart(sequence: int) -> bool:
        counts = [
            {name: items - start[name] for name, items in side.items(sequence).items() if items > start[name]}
            for side, start in sides
        ]
        return counts[0] != counts[1]

    low, high = begin, begin + 1
    while not apart(high):
        if high == end:
            return None
        low, high = high, min(end, begin + 2 * (high - begin))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if apart(middle) else (middle, high)
    return high - 1


def _different(old: _Side, new: _Side, begin: int, count: int) -> NDArray[np.bool_]:
    """Which of `count` sequences read another source, another text or another window."""
    names, source, item = old.draws(begin, count)
    other_names, other_source, other_item = new.draws(begin, count)
    number = {name: i for i, name in enumerate(sorted({*names, *other_names}))}
    source = np.array([number[name] for name in names], np.int32)[source]
    other_source = np.array([number[name] for name in other_names], np.int32)[other_source]
    differs: NDArray[np.bool_] = np.asarray(source != other_source)
    for name in set(names) & set(other_names):
        both = (source == number[name]) & ~differs
        if not both.any():
            continue
        old_source, new_source = old.plan.sources[name], new.plan.sources[name]
        if (old_source.dataset, old_source.order) != (new_source.dataset, new_source.order):
            differs[both] = True
            continue
        if not all(segment.windows for segment in (*old_source.segments, *new_source.segments)):
            differs[both] = item[both] != other_item[both]  # the number of windows is not known yet
            continue
        _, window = old_source.locate(item[both], seed=old.plan.seed, source=name)
        _, other_window = new_source.locate(other_item[both], seed=new.plan.seed, source=name)
        unequal = window != other_window
        if old_source != new_source:
            unequal |= _digests(old_source, item[both]) != _digests(new_source, other_item[both])
        differs[both] = unequal
    return differs


def _digests(source: SourcePlan, item: NDArray[np.int64]) -> NDArray[np.str_]:
    starts = np.array([segment.first_item for segment in source.segments], np.int64)
    digests = np.array([segment.digest or "" for segment in source.segments])
    return np.asarray(digests[np.searchsorted(starts, item, side="right") - 1])


def _reduced(weights: Mapping[str, int]) -> dict[str, int]:
    common = math.gcd(*weights.values())
    return {name: weight // common for name, weight in sorted(weights.items())}
