"""Two lineages on one clock: where both are, by position in tokens, however each is cut into stages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from curriculum.plan.stage import StagePlan


@dataclass(frozen=True, slots=True)
class Span:
    """A stage's plan as far as a lineage goes through it: up to the position `stop`, a step boundary."""

    name: str
    plan: StagePlan
    stop: int

    def step(self, position: int) -> int:
        """The step that reads the token at `position`; at the stretch's end, the step that would be next."""
        return self.plan.first_step + (position - self.plan.start) // self.plan.batch_tokens

    def boundary(self, position: int) -> int:
        """Where the step that reads the token at `position` begins."""
        return position - (position - self.plan.start) % self.plan.batch_tokens

    def tokens(self, begin: int, end: int) -> dict[str, int]:
        """Tokens of every source that lie between two positions (whole windows), as far as the stretch goes."""
        begin, end = max(begin, self.plan.start), min(end, self.stop)
        if begin >= end:
            return {}
        before, after = self.plan.windows_read(begin), self.plan.windows_read(end)
        read = {name: count - before.get(name, 0) for name, count in after.items()}
        return {name: count * self.plan.sequence_length for name, count in read.items() if count}


Lineage = tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Overlap:
    """Positions from `begin` to `end` in which one lineage is in stretch `old` and the other in `new`."""

    begin: int
    end: int
    old: Span
    new: Span

    def common(self, position: int) -> int:
        """The last position up to `position` at which both are about to begin a step, or the later of the two."""
        return max(self.old.boundary(position), self.new.boundary(position), self.begin)


def overlaps(old: Lineage, new: Lineage) -> Iterator[Overlap]:
    """Walk both lineages, from where the later of the two begins to where the first of them ends."""
    mine, theirs = list(old), list(new)
    while mine and theirs:
        begin = max(mine[0].plan.start, theirs[0].plan.start)
        end = min(mine[0].stop, theirs[0].stop)
        if begin < end:
            yield Overlap(begin, end, mine[0], theirs[0])
        first, second = mine[0].stop, theirs[0].stop
        if first == end:
            mine.pop(0)
        if second == end:
            theirs.pop(0)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """A first difference on the token clock.

    `position` is that of a token that is surely affected, or None where none was met though the parameters
    differ; everything before `same_until` is the same. With `exact` nothing before `position` differs.
    """

    position: int | None
    same_until: int
    exact: bool
