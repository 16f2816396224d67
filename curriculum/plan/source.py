"""How a source's items become windows: pass after pass, each in an order of its own, over one segment or several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from curriculum.errors import PlanError
from curriculum.plan.arrays import Integers, each
from curriculum.plan.permutation import Permutation


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A run of a source's items that share one permutation a pass.

    Items from `first_item` on read `windows` windows, pass after pass, until the next segment begins: all of
    `first_window … first_window + windows - 1`, or, where the text holds more of them than a size takes, as many
    spread evenly over the `out_of` windows from `first_window` on. (The first ones would be one corner of the text.)
    `without` are stretches of windows, (first, count), that are left out; `windows` and `out_of` do not count them.
    `digest` is that of the shards it covers, None while they are not prepared.
    """

    first_item: int
    pass_number: int
    windows: int
    first_window: int = 0
    name: str = "0"
    digest: str | None = None
    out_of: int | None = None
    without: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if self.out_of is not None and not self.windows <= self.out_of < (1 << 62) // max(1, self.windows):
            raise PlanError(f"{self.windows:,} windows cannot be spread over {self.out_of:,}")

    @property
    def last_window(self) -> int:
        """The first window that no longer belongs to the segment."""
        lost = sum(count for _, count in self.without)
        return self.first_window + lost + (self.windows if self.out_of is None else self.out_of)

    def spread(self, chosen: Integers) -> Integers:
        """Numbers below `windows` to the windows that stand for them."""
        if self.out_of is not None:
            chosen = chosen * self.out_of // self.windows
        window = self.first_window + chosen
        for first, count in self.without:
            window = np.where(window >= first, window + count, window)
        return window

    def chosen_before(self, window: int) -> int:
        """How many of the numbers below `windows` stand for windows before `window`: `spread` turned round."""
        window = min(max(window, self.first_window), self.last_window)
        lost = sum(min(count, max(0, window - first)) for first, count in self.without)
        inside = window - self.first_window - lost
        return inside if self.out_of is None else -(-inside * self.windows // self.out_of)

    def chosen(self, window: Integers) -> Integers:
        """The number below `windows` that stands for each window (shape `[n]`); -1 where none does."""
        inside = window - self.first_window
        known = (window >= self.first_window) & (window < self.last_window)
        for first, count in self.without:
            known &= (window < first) | (window >= first + count)
            inside = np.where(window >= first, inside - count, inside)
        inside = np.where(known, inside, 0)
        if self.out_of is None:
            return np.where(known, inside, -1)
        chosen = -(-inside * self.windows // self.out_of)
        stands = known & (chosen < self.windows) & (chosen * self.out_of // self.windows == inside)
        return np.where(stands, chosen, -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePlan:
    """How a source's items become windows. `dataset` names the prepared text that stands for the source."""

    dataset: str
    segments: tuple[Segment, ...]
    order: Literal["shuffled", "in-order"] = "shuffled"

    @property
    def windows(self) -> int:
        """Windows of one pass, as of the last segment."""
        return self.segments[-1].windows

    def known(self, source: str) -> None:
        """PlanError while no one has declared or counted how many windows the source has."""
        if not all(segment.windows for segment in self.segments):
            raise PlanError(
                f"which windows of `{source}` are read is not known: how much text it has is neither declared "
                "nor counted yet",
                hint=f"`curriculum prepare` counts it; or declare `tokens:` for `{source}` in sources.yaml",
            )

    def permutation(
        self, segment: Segment, pass_number: int, *, seed: int, source: str
    ) -> Permutation | None:
        """The order of one pass over one of its segments; None where windows are read in order."""
        if self.order == "in-order":
            return None
        return Permutation(
            segment.windows, seed=seed, source=source, pass_number=pass_number, segment=segment.name
        )

    def place(self, item: Integers, *, seed: int, source: str) -> tuple[Integers, Integers]:
        """`(pass, window)` of each item (shape `[n]`, counted over the lineage)."""
        self.known(source)
        starts = np.array([segment.first_item for segment in self.segments], np.int64)
        pass_number = np.empty_like(item)
        window = np.empty_like(item)
        for at, inside in each(np.searchsorted(starts, item, side="right") - 1):
            segment = self.segments[at]
            passes, rest = np.divmod(item[inside] - segment.first_item, segment.windows)
            windows = np.empty_like(rest)
            for turn, now in each(passes):
                order = self.permutation(segment, segment.pass_number + turn, seed=seed, source=source)
                windows[now] = rest[now] if order is None else order(rest[now])
            pass_number[inside] = segment.pass_number + passes
            window[inside] = segment.spread(windows)
        return pass_number, window

    def passes(self, items: int) -> float:
        """How many passes the first `items` items make, for showing."""
        segment = next(s for s in reversed(self.segments) if s.first_item <= items)
        number = segment.pass_number + (items - segment.first_item) // segment.windows
        # What was appended during a pass belongs to it.
        of_pass = [
            s
            for at, s in enumerate(self.segments)
            if s.pass_number <= number and (s is segment or self._last_pass(at) == number)
        ]
        begun = of_pass[0].first_item + (number - of_pass[0].pass_number) * of_pass[0].windows
        return number + (items - begun) / sum(s.windows for s in of_pass)

    def _last_pass(self, at: int) -> int | None:
        """The last pass that segment number `at` takes part in; None for the last segment, which goes on."""
        if at + 1 == len(self.segments):
            return None
        segment = self.segments[at]
        items = self.segments[at + 1].first_item - segment.first_item
        return segment.pass_number + -(-items // segment.windows) - 1

    def begin_of_pass(self, number: int) -> int | None:
        """The first item, over the lineage, of pass `number` or a later one; None when the last segment ends before."""
        for at, segment in enumerate(self.segments):
            begin = segment.first_item + max(0, number - segment.pass_number) * segment.windows
            if at + 1 == len(self.segments) or begin < self.segments[at + 1].first_item:
                return begin
        return None
