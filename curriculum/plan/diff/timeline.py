"""Two lineages aligned by position in tokens, independently of how each is divided into stages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from curriculum.plan.stage import StagePlan


@dataclass(frozen=True, slots=True)
class Span:
    """The part of a stage's plan that is in a lineage: up to the position `stop`, a step boundary."""

    name: str
    plan: StagePlan
    stop: int

    def step(self, position: int) -> int:
        """The step that reads the token at `position`; at the end of the span, the step that would be next."""
        return self.plan.step_of(position)

    def boundary(self, position: int) -> int:
        """The position at which the step that reads the token at `position` begins."""
        return self.plan.position_before(self.plan.step_of(position))

    def rate(self, end: int) -> float:
        """The learning rate at `end`, for the batch of the step that reads the token before it."""
        return self.plan.learning_rate.at(end) * self.plan.rate_factor(self.plan.step_of(end - 1))

    def rate_form(self, end: int) -> tuple[object, ...]:
        """The formula of `rate` at `end`; constant up to the next of `rate_breaks`."""
        return self.plan.learning_rate.form(end), self.plan.rate_factor(self.plan.step_of(end - 1))

    def rate_breaks(self) -> list[int]:
        """Every position at which the formula of the rate may change."""
        return [*self.plan.learning_rate.breaks(), *(at + 1 for at in self.batch_changes())]

    def batch_changes(self) -> list[int]:
        """The positions at which the batch changes inside the span."""
        changes = [self.plan.clock.position(change.step) for change in self.plan.batch_changes]
        return [position for position in changes if position < self.stop]

    def tokens(self, begin: int, end: int) -> dict[str, int]:
        """Tokens of every source read between two positions of the span (complete windows)."""
        begin, end = max(begin, self.plan.start), min(end, self.stop)
        if begin >= end:
            return {}
        before, after = self.plan.windows_read(begin), self.plan.windows_read(end)
        windows = {name: count - before.get(name, 0) for name, count in after.items()}
        return {name: count * self.plan.sequence_length for name, count in windows.items() if count}


Lineage = tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Overlap:
    """Positions from `begin` to `end` in which one lineage is in the span `old` and the other in `new`."""

    begin: int
    end: int
    old: Span
    new: Span

    def common(self, position: int) -> int:
        """The later of both plans' last step boundaries up to `position`, at least `begin`."""
        return max(self.old.boundary(position), self.new.boundary(position), self.begin)


def overlaps(old: Lineage, new: Lineage) -> Iterator[Overlap]:
    """The overlaps of two lineages in order, from the later of their starts to the earlier of their ends."""
    for old_span in old:
        for new_span in new:
            begin = max(old_span.plan.start, new_span.plan.start)
            end = min(old_span.stop, new_span.stop)
            if begin < end:
                yield Overlap(begin, end, old_span, new_span)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The result of a search for a first difference, in tokens.

    `position` is a token that certainly differs, or None where none was found though the parameters differ; everything
    before `same_until` is the same. With `exact` nothing before `position` differs.
    """

    position: int | None
    same_until: int
    exact: bool


def first_result(results: Iterable[SearchResult | None]) -> SearchResult | None:
    """The first result with a position, of searches in ascending ranges; not exact if an earlier one was undecided."""
    undecided: SearchResult | None = None
    for result in results:
        if result is None:
            continue
        if undecided is not None:
            result = SearchResult(result.position, undecided.same_until, False)
        if result.position is not None:
            return result
        undecided = result
    return undecided
