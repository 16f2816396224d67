"""The first step at which two lineages train at different learning rates, from the forms of their curves.

A step trains at its curve's value where it ends. Between the breaks of both curves each follows one form, and equal
forms have equal values. Where the forms differ, the values at the steps' ends are compared one by one from the break
on; usually the first already differs. Curves that diverge more slowly than a float resolves (a slightly different
horizon, right after the warm-up) are then bounded from above by bisection.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from curriculum.plan.diff.timeline import Overlap, SearchResult, Span, first_result

VALUES_COMPARED = 1 << 14
"""At most so many steps' ends are compared one by one in each pair of forms."""


def first_rate_difference(overlap: Overlap) -> SearchResult | None:
    """The last token before the first step's end of either lineage at which the two rates differ, or None."""
    old, new = overlap.old, overlap.new
    breaks = {b for span in (old, new) for b in span.rate_breaks() if overlap.begin < b <= overlap.end}
    bounds = [overlap.begin + 1, *sorted(breaks - {overlap.begin + 1}), overlap.end + 1]
    return first_result(
        _search(overlap, low, high) for low, high in pairwise(bounds) if old.rate_form(low) != new.rate_form(low)
    )


def _search(overlap: Overlap, low: int, high: int) -> SearchResult | None:
    """The first end of a step from `low` on, before `high`, at which the rates differ."""
    old, new = overlap.old, overlap.new
    same_until = overlap.common(low - 1)
    for number, end in enumerate(_ends(overlap, low, high)):
        if old.rate(end) != new.rate(end):
            return SearchResult(end - 1, same_until, True)
        if number >= VALUES_COMPARED:
            break
        same_until = end
    else:
        return None

    def nearest(position: int) -> int:
        """The last step's end up to `position`; rates between steps' ends are never used."""
        return max(same_until, overlap.old.boundary(position))

    def apart(position: int) -> bool:
        return old.rate(position) != new.rate(position)

    left, right = same_until, same_until
    while not apart(right):
        if right == nearest(high - 1):
            return SearchResult(None, same_until, False)
        left = right
        right = nearest(
            min(
                high - 1,
                same_until
                + 2 * max(right - same_until, max(overlap.old.plan.batches) * overlap.old.plan.sequence_length),
            )
        )
    while right - left > overlap.old.plan.tokens_of(overlap.old.plan.step_of(left)):
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


def _next_end(span: Span, position: int) -> int:
    return span.plan.position_after(span.plan.step_of(position))
