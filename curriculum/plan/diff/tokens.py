"""Where two plans begin to read other tokens, from the parameters of their order; what agrees is never replayed.

A piece of a plan is a tree or a ramp, a phase in it and a count of items of every source. Where these are equal, so
is every draw for as long as both pieces last. Where they are not, the draws are compared in blocks from there on:
nearly always the first few differ. Shares that differ by a millionth agree for a long while; then the counts,
which are closed forms, bound the first difference from above.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from curriculum.plan.diff.timeline import Overlap, SearchResult
from curriculum.plan.mixing import Tree
from curriculum.plan.stage import MixturePhase, SourcePlan, StagePlan

SEQUENCES_COMPARED = 1 << 21
"""At most so many draws are compared one by one in each pair of pieces."""


@dataclass(frozen=True, slots=True)
class _Side:
    """One plan from a given sequence on, inside one of its pieces."""

    plan: StagePlan
    blend: MixturePhase
    index: int

    def items(self, sequences: int) -> dict[str, int]:
        items = self.blend.items(self.index + sequences)
        return {name: items[name] for name in self.blend.mixer.names}

    def function(self) -> tuple[object, ...]:
        """Two sides with equal functions draw the same items for ever, or as long as their ramp lasts."""
        blend, items = self.blend, tuple(self.items(0).items())
        mixer = blend.mixer
        if isinstance(mixer, Tree) or len(mixer.names) == 1:
            weights = _reduced(mixer.weights if isinstance(mixer, Tree) else {mixer.names[0]: 1})
            return ("tree", tuple(weights.items()), self.index % sum(weights.values()), items)
        before, after = _reduced(mixer.before.weights), _reduced(mixer.after.weights)
        turn = mixer.before_index % sum(before.values())
        return (
            "ramp",
            *(tuple(w.items()) for w in (before, after)),
            turn,
            mixer.sequences,
            self.index,
            items,
        )

    def draws(self, begin: int, count: int) -> tuple[tuple[str, ...], NDArray[np.int32], NDArray[np.int64]]:
        """`(names, source, item)` of `count` sequences."""
        mixer = self.blend.mixer
        source, ordinal = mixer.draw(np.arange(count, dtype=np.int64) + self.index + begin)
        base = np.array([self.blend.base.get(name, 0) for name in mixer.names], np.int64)
        return mixer.names, source, base[source] + ordinal


def tokens_part(overlap: Overlap) -> SearchResult | None:
    """The first token that the two plans of `overlap` do not both read there; None when there is none."""
    length = overlap.old.plan.sequence_length
    if length != overlap.new.plan.sequence_length:
        return SearchResult(overlap.begin, overlap.begin, True)
    doubtful: SearchResult | None = None
    for begin, count, mine, theirs in _pieces(overlap):
        start, end = _first_possible(mine, theirs, count), count
        if start is None:
            continue
        found = _search(mine, theirs, start, end)
        if found is None:
            continue
        known = SearchResult(
            None if found.position is None else begin + found.position * length,
            begin + found.same_until * length,
            found.exact and doubtful is None,
        )
        if doubtful is not None:
            known = SearchResult(known.position, doubtful.same_until, False)
        if known.position is not None:
            return known
        doubtful = known
    return doubtful


def texts_part(overlap: Overlap) -> dict[str, int]:
    """The position of the first sequence whose source is bound to other text, by source."""
    mine, theirs = overlap.old.plan.sources, overlap.new.plan.sources
    parted: dict[str, int] = {}
    for begin, count, old, new in _pieces(overlap):
        for name in old.blend.mixer.names:
            same = name not in theirs or _text(mine[name]) == _text(theirs[name])
            if same or name in parted or name not in new.blend.mixer.names:
                continue
            at = _first_above(old, name, _common_items(mine[name], theirs[name]), count)
            if at is not None:
                parted[name] = begin + at * overlap.old.plan.sequence_length
    return parted


def _text(source: SourcePlan) -> tuple[object, ...]:
    return source.dataset, source.order, [(s.first_item, s.digest) for s in source.segments]


def _pieces(overlap: Overlap) -> Iterator[tuple[int, int, _Side, _Side]]:
    """`(position, sequences, old, new)` of every stretch in which both plans stay in one piece."""
    plans = overlap.old.plan, overlap.new.plan
    length = plans[0].sequence_length
    cuts = {overlap.begin, overlap.end}
    for plan in plans:
        cuts |= {plan.start + piece.first * length for piece in plan.pieces}
    inside = sorted(cut for cut in cuts if overlap.begin <= cut <= overlap.end)
    for begin, end in pairwise(inside):
        mine, theirs = (_side(plan, (begin - plan.start) // length) for plan in plans)
        yield begin, (end - begin) // length, mine, theirs


def _side(plan: StagePlan, sequence: int) -> _Side:
    piece = next(piece for piece in reversed(plan.pieces) if piece.first <= sequence)
    return _Side(plan, plan.blends[piece.blend], piece.index + sequence - piece.first)


def _first_possible(mine: _Side, theirs: _Side, count: int) -> int | None:
    """The first sequence that the parameters do not prove to be the same in both; None when they prove all."""
    if mine.plan.seed != theirs.plan.seed or mine.function() != theirs.function():
        return 0
    starts = []
    for name in mine.blend.mixer.names:
        old, new = mine.plan.sources[name], theirs.plan.sources[name]
        if old != new:
            starts.append(_first_above(mine, name, _common_items(old, new), count))
    return min((start for start in starts if start is not None), default=None)


def _common_items(old: SourcePlan, new: SourcePlan) -> int:
    """How many items at the start of a source are surely the same windows in both."""
    if (old.dataset, old.order) != (new.dataset, new.order):
        return 0
    for mine, theirs in zip(old.segments, new.segments, strict=False):
        if mine != theirs:
            return min(mine.first_item, theirs.first_item)
    shorter = min(len(old.segments), len(new.segments))
    return next(s.first_item for s in (*old.segments[shorter:], *new.segments[shorter:]))


def _first_above(side: _Side, name: str, items: int, count: int) -> int | None:
    """The first of `count` sequences that draws item number `items` of `name` or a later one, by bisection."""
    start = max(items, side.items(0)[name])
    if side.items(count)[name] <= start:
        return None
    low, high = 0, count  # items(low) <= start < items(high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if side.items(middle)[name] > start else (middle, high)
    return low


def _search(mine: _Side, theirs: _Side, start: int, end: int) -> SearchResult | None:
    """The first sequence from `start` that differs; positions count sequences here."""
    at, size, last = start, 256, min(end, start + SEQUENCES_COMPARED)
    while at < last:
        size = min(size * 2, 1 << 16, last - at)
        differs = _different(mine, theirs, at, size)
        if differs.any():
            first = at + int(differs.argmax())
            return SearchResult(first, first, True)
        at += size
    if at >= end:
        return None
    return SearchResult(_counts_part(mine, theirs, at, end), at, False)


def _counts_part(mine: _Side, theirs: _Side, begin: int, end: int) -> int | None:
    """A sequence by whose end the counts of sources have surely parted; None when none was met."""
    begun = mine.items(begin), theirs.items(begin)

    def apart(sequence: int) -> bool:
        now = mine.items(sequence), theirs.items(sequence)
        grown = [{n: now[i][n] - begun[i][n] for n in now[i] if now[i][n] > begun[i][n]} for i in (0, 1)]
        return grown[0] != grown[1]

    low, high = begin, begin + 1
    while not apart(high):
        if high == end:
            return None
        low, high = high, min(end, begin + 2 * (high - begin))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if apart(middle) else (middle, high)
    return high - 1


def _different(mine: _Side, theirs: _Side, begin: int, count: int) -> NDArray[np.bool_]:
    """Which of `count` sequences read another source, another text or another window."""
    names, source, item = mine.draws(begin, count)
    other_names, other_source, other_item = theirs.draws(begin, count)
    number = {name: i for i, name in enumerate(sorted({*names, *other_names}))}
    source = np.array([number[name] for name in names], np.int32)[source]
    other_source = np.array([number[name] for name in other_names], np.int32)[other_source]
    differs: NDArray[np.bool_] = np.asarray(source != other_source)
    for name in set(names) & set(other_names):
        both = (source == number[name]) & ~differs
        if not both.any():
            continue
        old, new = mine.plan.sources[name], theirs.plan.sources[name]
        if (old.dataset, old.order) != (new.dataset, new.order):
            differs[both] = True
            continue
        if not all(segment.windows for segment in (*old.segments, *new.segments)):
            differs[both] = item[both] != other_item[both]  # how much text there is, is not known yet
            continue
        _, window = old.place(item[both], seed=mine.plan.seed, source=name)
        _, other = new.place(other_item[both], seed=theirs.plan.seed, source=name)
        unlike = window != other
        if old != new:
            unlike |= _digests(old, item[both]) != _digests(new, other_item[both])
        differs[both] = unlike
    return differs


def _digests(source: SourcePlan, item: NDArray[np.int64]) -> NDArray[np.str_]:
    starts = np.array([segment.first_item for segment in source.segments], np.int64)
    digests = np.array([segment.digest or "" for segment in source.segments])
    return np.asarray(digests[np.searchsorted(starts, item, side="right") - 1])


def _reduced(weights: Mapping[str, int]) -> dict[str, int]:
    common = math.gcd(*weights.values())
    return {name: weight // common for name, weight in sorted(weights.items())}
