"""The map from a source's items to windows: epoch after epoch, each with its own permutation, over its segments.

A *reseed* has the rest of the epoch under way, and every later epoch, read in another order. Where `u` of an epoch's
`n` windows are read, position k >= u becomes u + q(k - u), q a permutation of n - u keyed by the reseed too, before the
epoch's own permutation is applied: closed-form and invertible, and no window is read twice before all were read once.

A segment of *part* of an epoch follows one that ended early: it repeats some of the windows that were read of it,
spread evenly over its order, and those behind them. So a shorter stage repeats its text as often as a longer one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from curriculum.errors import PlanError
from curriculum.fs import ADDED_LATER
from curriculum.plan.arrays import Index, Integers, exact_indices, positions_by_value, same_kind
from curriculum.plan.permutation import Permutation, permuted

Rows = slice | Integers
"""Elements of an array `[n]`."""

FEW = 1024
"""Items up to which the orders of all sources are computed together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochPart:
    """Places in the order of an epoch of `windows`: `kept` of the first `read`, spread evenly, and those that follow.

    The place of number j is j · read // kept for j below `kept`, read + j - kept for the others.
    """

    windows: int
    read: int
    kept: int

    def to_places(self, number: Integers) -> Integers:
        """The place in the epoch's order of each number (`[n]`)."""
        return np.where(number < self.kept, number * self.read // max(self.kept, 1), self.read + number - self.kept)

    def to_numbers(self, place: Integers) -> Integers:
        """The inverse: the number of each place (`[n]`), -1 where it is none of the first `read` that are kept."""
        number = -(-place * self.kept // max(self.read, 1))
        is_kept = (number < self.kept) & (self.to_places(number) == place)
        return np.where(place >= self.read, place - self.read + self.kept, np.where(is_kept, number, -1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A range of a source's items that reads one set of windows, epoch (`pass`) after epoch.

    Items from `first_item` on read `windows` windows, each epoch in a permutation of its own, until the next segment
    begins: all of `first_window … first_window + windows - 1`, or, where a size takes fewer than the text has, as many
    spread evenly over the `out_of` windows from `first_window` on. (The first ones would be one corner of the text.)
    `without` are excluded ranges of windows, (first, count); `windows` and `out_of` do not count them.
    `digest` is that of the shards it covers, None while they are not prepared. With a `part`, its windows are those of
    that part of the last epoch of the segment before it, whose range it has.
    """

    first_item: int
    pass_number: int
    windows: int
    first_window: int = 0
    name: str = "0"
    digest: str | None = None
    out_of: int | None = None
    without: tuple[tuple[int, int], ...] = ()
    part: EpochPart | None = field(default=None, metadata=ADDED_LATER)

    def __post_init__(self) -> None:
        if self.out_of is not None and not self.in_range <= self.out_of < (1 << 62) // max(1, self.in_range):
            raise PlanError(f"{self.in_range:,} windows cannot be spread over {self.out_of:,}")

    @property
    def in_range(self) -> int:
        """The windows that the range has, of which a part of an epoch reads some."""
        return self.windows if self.part is None else self.part.windows

    @property
    def stop_window(self) -> int:
        """The end of the segment's range of windows, exclusive."""
        excluded = sum(count for _, count in self.without)
        return self.first_window + excluded + (self.in_range if self.out_of is None else self.out_of)

    def to_windows(self, index: Integers) -> Integers:
        """The window of each index into the range (shape `[n]`, below `in_range`)."""
        if self.out_of is not None:
            index = index * self.out_of // self.in_range
        window = self.first_window + index
        for first, count in self.without:
            window = np.where(window >= first, window + count, window)
        return window

    def to_indices(self, window: Integers) -> Integers:
        """The inverse of `to_windows`: the index of each window (shape `[n]`), -1 where the range has none."""
        offset = window - self.first_window
        inside = (window >= self.first_window) & (window < self.stop_window)
        for first, count in self.without:
            inside &= (window < first) | (window >= first + count)
            offset = np.where(window >= first, offset - count, offset)
        offset = np.where(inside, offset, 0)
        if self.out_of is None:
            return np.where(inside, offset, -1)
        index = -(-offset * self.in_range // self.out_of)
        is_read = inside & (index < self.in_range) & (index * self.out_of // self.in_range == offset)
        return np.where(is_read, index, -1)

    def count_before(self, window: int) -> int:
        """How many windows of the range are before `window`."""
        window = min(max(window, self.first_window), self.stop_window)
        excluded = sum(min(count, max(0, window - first)) for first, count in self.without)
        offset = window - self.first_window - excluded
        return offset if self.out_of is None else -(-offset * self.in_range // self.out_of)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reseed:
    """From item `first_item` on, counted over the lineage, what is unread of every epoch has another order."""

    first_item: int
    data_seed: int


@dataclass(frozen=True, slots=True)
class ReseededOrder:
    """The order of an epoch that reseeds change: `epoch` is its own, `rests` the first position and the order of each.

    Called and inverted as a `Permutation` is, which raises what it raises.
    """

    epoch: Permutation
    rests: tuple[tuple[int, Permutation], ...]

    def __call__(self, k: Index) -> Index:
        """The `k`-th window read."""
        position = exact_indices(k, self.epoch.size - 1, "a place in the order")
        for begin, rest in reversed(self.rests):
            position = np.where(position < begin, position, begin + rest(np.maximum(position - begin, 0)))
        return same_kind(k, self.epoch(position))

    def inverse(self, window: Index) -> Index:
        """The position at which `window` is read."""
        position = self.epoch.inverse(exact_indices(window, self.epoch.size - 1, "a place in the order"))
        for begin, rest in self.rests:
            position = np.where(position < begin, position, begin + rest.inverse(np.maximum(position - begin, 0)))
        return same_kind(window, position)


Order: TypeAlias = Permutation | ReseededOrder


@dataclass(frozen=True, slots=True)
class PartOrder:
    """The order of an epoch over part of an earlier one, `epoch`; None stands for windows that are read in order.

    Called with positions of its own it gives indices into the range, as the earlier epoch's order does, and inverted
    -1 for those that are not in the part. Raises what a `Permutation` raises.
    """

    own: Order | None
    epoch: Order | None
    part: EpochPart
    size: int

    def __call__(self, k: Index) -> Index:
        """The index into the range of the `k`-th window read."""
        number = exact_indices(k, self.size - 1, "a place in the order")
        place = self.part.to_places(number if self.own is None else self.own(number))
        return same_kind(k, place if self.epoch is None else self.epoch(place))

    def inverse(self, index: Index) -> Index:
        """The position at which the window with that index is read, -1 where it is not."""
        place = exact_indices(index, self.part.windows - 1, "a place in the order")
        number = self.part.to_numbers(place if self.epoch is None else self.epoch.inverse(place))
        is_read = (number >= 0) & (number < self.size)
        number = np.where(is_read, number, 0)
        return same_kind(index, np.where(is_read, number if self.own is None else self.own.inverse(number), -1))


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePlan:
    """The segments of a source and the order of its windows. `dataset` names the prepared text it reads.

    `reseeds` ascend by their items; a source that is read in order has none.
    """

    dataset: str
    segments: tuple[Segment, ...]
    order: Literal["shuffled", "in-order"] = "shuffled"
    reseeds: tuple[Reseed, ...] = field(default=(), metadata=ADDED_LATER)

    @property
    def windows(self) -> int:
        """Windows of one epoch, as of the last segment."""
        return self.segments[-1].windows

    def segments_from(self, item: int) -> tuple[Segment, ...]:
        """The segments that items from `item` on read."""
        return self.segments[sum(segment.first_item <= item for segment in self.segments[1:]) :]

    def require_counted(self, source: str) -> None:
        """PlanError while the number of the source's windows is neither declared nor counted."""
        if not all(segment.windows for segment in self.segments):
            raise PlanError(
                f"which windows of `{source}` are read is not known: how much text it has is neither declared "
                "nor counted yet",
                hint=f"`curriculum prepare` counts it; or declare `tokens:` for `{source}` in sources.yaml",
            )

    def permutation(self, segment: Segment, pass_number: int, *, seed: int, source: str) -> Order | PartOrder | None:
        """The order of one epoch over one of its segments; None where windows are read in order."""
        own = self._own_order(segment, pass_number, seed=seed, source=source)
        if segment.part is None:
            return own
        before = self.segments[self.segments.index(segment) - 1]
        epoch = self._own_order(before, segment.pass_number - 1, seed=seed, source=source)
        return PartOrder(own, epoch, segment.part, segment.windows)

    def _own_order(self, segment: Segment, pass_number: int, *, seed: int, source: str) -> Order | None:
        """The order of the numbers of a segment's windows in one epoch; None where that is their own."""
        if self.order == "in-order":
            return None
        epoch = Permutation(segment.windows, seed=seed, source=source, pass_number=pass_number, segment=segment.name)
        first_item = segment.first_item + (pass_number - segment.pass_number) * segment.windows
        rests = tuple(
            (read, replace(epoch, size=segment.windows - read, further=(reseed.data_seed, reseed.first_item)))
            for reseed in self.reseeds
            if (read := max(0, reseed.first_item - first_item)) < segment.windows
        )
        return ReseededOrder(epoch, rests) if rests else epoch

    def locate(self, item: Integers, *, seed: int, source: str) -> tuple[Integers, Integers]:
        """`(epoch, window)` of each item (shape `[n]`, counted over the lineage)."""
        return locate_items([(source, self)], np.zeros(len(item), np.int32), item, seed=seed)

    def parts(self, item: Integers) -> Iterator[tuple[Segment, int, Rows, Integers]]:
        """`(segment, epoch, rows, positions)` of each epoch over each segment that items (`[n]`) are of.

        `positions` in the epoch's order are those of `item[rows]`.
        """
        groups: Iterable[tuple[int, Rows]] = [(0, slice(None))]
        if len(self.segments) > 1:
            starts = np.array([segment.first_item for segment in self.segments], np.int64)
            groups = positions_by_value(np.searchsorted(starts, item, side="right") - 1)
        for at, inside in groups:
            segment = self.segments[at]
            epochs, rest = np.divmod(item[inside] - segment.first_item, segment.windows)
            for epoch, rows in positions_by_value(epochs):
                whole = isinstance(rows, slice)
                outer = inside if whole else rows if isinstance(inside, slice) else inside[rows]
                yield segment, segment.pass_number + epoch, outer, rest if whole else rest[rows]

    def epochs(self, items: int) -> float:
        """How many epochs the first `items` items make; of an epoch that ends early, as far as its part is read."""
        at = max(number for number, each in enumerate(self.segments) if each.first_item <= items)
        segment = self.segments[at]
        epoch = segment.pass_number + (items - segment.first_item) // segment.windows
        part = self.segments[at + 1].part if at + 1 < len(self.segments) else None
        read = (items - segment.first_item) % segment.windows
        if part is not None and read > part.read:
            return epoch + (part.kept + read - part.read) / self.segments[at + 1].windows
        # text appended during an epoch belongs to that epoch
        of_epoch = [
            s
            for at, s in enumerate(self.segments)
            if s.pass_number <= epoch and (s is segment or self._last_epoch(at) == epoch)
        ]
        begin = of_epoch[0].first_item + (epoch - of_epoch[0].pass_number) * of_epoch[0].windows
        return epoch + (items - begin) / sum(s.windows for s in of_epoch)

    def _last_epoch(self, at: int) -> int | None:
        """The last epoch that segment number `at` takes part in; None for the last segment, which has no end."""
        if at + 1 == len(self.segments):
            return None
        segment = self.segments[at]
        items = self.segments[at + 1].first_item - segment.first_item
        return segment.pass_number + -(-items // segment.windows) - 1

    def epoch_start(self, number: int) -> int | None:
        """The first item of epoch `number` or a later one, counted over the lineage; None if there is none."""
        for at, segment in enumerate(self.segments):
            begin = segment.first_item + max(0, number - segment.pass_number) * segment.windows
            if at + 1 == len(self.segments) or begin < self.segments[at + 1].first_item:
                return begin
        return None


def locate_items(
    sources: Sequence[tuple[str, SourcePlan]], number: NDArray[np.int32], item: Integers, *, seed: int
) -> tuple[Integers, Integers]:
    """`(epoch, window)` of each item (`[n]`, counted over the lineage) of the source with its `number` in `sources`."""
    pass_number, window = np.empty_like(item), np.empty_like(item)
    together: list[tuple[Permutation, Integers]] = []
    targets: list[tuple[Segment, Rows]] = []
    for at, slots in positions_by_value(number):
        name, plan = sources[at]
        plan.require_counted(name)
        for segment, epoch, inside, position in plan.parts(item[slots]):
            rows = inside if isinstance(slots, slice) else slots[inside]
            order = plan.permutation(segment, epoch, seed=seed, source=name)
            pass_number[rows] = epoch
            if isinstance(order, Permutation) and len(item) <= FEW:
                together.append((order, position))
                targets.append((segment, rows))
            else:
                window[rows] = segment.to_windows(position if order is None else order(position))
    for (segment, rows), index in zip(targets, permuted(together), strict=True):
        window[rows] = segment.to_windows(index)
    return pass_number, window
