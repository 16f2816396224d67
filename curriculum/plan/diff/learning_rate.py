"""Where two lineages begin to train at another rate, from the forms of their curves.

A step trains at its curve's value where it ends. Between the breaks of both curves each follows one form; equal
forms are equal values, without looking. Where the forms differ, the values at the steps' ends are compared one by
one from the break on; the first that can differ nearly always does. Curves that part more slowly than a float
resolves (a horizon moved a little, right after the warm-up) are then bounded from above.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from curriculum.plan.diff.timeline import Overlap, SearchResult, Span

VALUES_COMPARED = 1 << 14
"""At most so many steps' ends are compared one by one in each pair of forms."""


def rate_parts(overlap: Overlap) -> SearchResult | None:
    """The last token before the first step's end of either lineage at which the two rates differ, or None."""
    mine, theirs = overlap.old.plan.learning_rate, overlap.new.plan.learning_rate
    breaks = {b for curve in (mine, theirs) for b in curve.breaks() if overlap.begin < b <= overlap.end}
    cuts = [overlap.begin + 1, *sorted(breaks - {overlap.begin + 1}), overlap.end + 1]
    doubtful: SearchResult | None = None
    for low, high in pairwise(cuts):
        if mine.form(low) == theirs.form(low):
            continue
        found = _search(overlap, low, high)
        if found is None:
            continue
        if doubtful is not None:
            found = SearchResult(found.position, doubtful.same_until, False)
        if found.position is not None:
            return found
        doubtful = found
    return doubtful


def _search(overlap: Overlap, low: int, high: int) -> SearchResult | None:
    """The first end of a step from `low` on, before `high`, at which the rates differ."""
    mine, theirs = overlap.old.plan.learning_rate, overlap.new.plan.learning_rate
    same_until = overlap.common(low - 1)
    for compared, end in enumerate(_ends(overlap, low, high)):
        if mine.at(end) != theirs.at(end):
            return SearchResult(end - 1, same_until, True)
        if compared >= VALUES_COMPARED:
            break
        same_until = end
    else:
        return None

    def nearest(position: int) -> int:
        """The last step's end up to `position`; ends at which no step ends say nothing about training."""
        return max(same_until, overlap.old.boundary(position))

    def apart(position: int) -> bool:
        return mine.at(position) != theirs.at(position)

    left, right = same_until, same_until
    while not apart(right):
        if right == nearest(high - 1):
            return SearchResult(None, same_until, False)
        left = right
        right = nearest(
            min(high - 1, same_until + 2 * max(right - same_until, overlap.old.plan.batch_tokens))
        )
    while right - left > overlap.old.plan.batch_tokens:
        middle = nearest((left + right) // 2)
        left, right = (left, middle) if apart(middle) else (middle, right)
    return SearchResult(right - 1, same_until, False)


def _ends(overlap: Overlap, low: int, high: int) -> Iterator[int]:
    """The positions from `low` up to, not with, `high` at which a step of either lineage ends, in order."""
    at = low - 1
    while True:
        at = min(_next_end(overlap.old, at), _next_end(overlap.new, at))
        if at >= high:
            return
        yield at


def _next_end(stretch: Span, position: int) -> int:
    return stretch.boundary(position) + stretch.plan.batch_tokens
