"""The epoch segments of a source: its first pass, the next ones, appended text, excluded shards, and a part of a text.

Text that is appended to does not move what is planned, and no window is read a second time before every window was
read once: the pass in force when a new *state* of the text arrives runs to its end unchanged, then reads the
appended windows as a segment of its own; from the next pass on all windows are one permutation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from curriculum.plan.source import EpochPart, Segment

ExcludedWindows = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class PreparedState:
    """A dataset after one of its preparations: the windows and the digest of everything prepared up to then."""

    windows: int
    digest: str | None


def first_segments(
    states: Sequence[PreparedState], out_of: int | None, excluded: ExcludedWindows
) -> tuple[Segment, ...]:
    """The segments of a source that no earlier stage of the lineage reads."""
    first = _union(states[:1], 0, 0, out_of, excluded)
    return extend((first,), states, 0, excluded)


def next_epoch(
    old: Sequence[Segment], used: int, states: Sequence[PreparedState], out_of: int | None, excluded: ExcludedWindows
) -> tuple[Segment, ...]:
    """`old` up to item `used`, then a new pass over all windows."""
    last = in_force(old, used)
    passes = -(-(used - last.first_item) // last.windows) if last.windows else 0
    fresh = _union(states, used, last.pass_number + passes, out_of, excluded)
    return (*(s for s in old if s.first_item < used), fresh)


def extend(
    old: Sequence[Segment], states: Sequence[PreparedState], used: int, excluded: ExcludedWindows, since: int = 0
) -> tuple[Segment, ...]:
    """`old`, extended by every state that it does not contain yet; they arrive when `used` items were read.

    Segments before item `since` have windows of another length: they stay, and nothing is counted in them.
    """
    earlier = tuple(segment for segment in old if segment.first_item < since)
    segments = tuple(old)[len(earlier) :]
    contained = [at for at, state in enumerate(states) if any(s.digest == state.digest for s in segments)]
    for at in range(max(contained, default=len(states) - 1) + 1, len(states)):
        segments = _append(segments, states[: at + 1], used, excluded)
    return (*earlier, *segments)


def ending_early(old: Sequence[Segment], used: int, windows: int) -> tuple[Segment, ...]:
    """`old`, whose first epoch reads no more than `windows` of its windows if it is the one under way at item `used`.

    Of what is read and of what is left the same part is in every later epoch: each window is read as often as if the
    text, and what was read of it, had been that part from the root on.
    """
    first, last = old[0], old[-1]
    if not in_first_epoch(old, used) or not 0 < windows < last.windows:
        return tuple(old)
    read = used if last.part is None else last.part.kept + used - last.part.read
    kept = read * windows // last.windows
    part = EpochPart(windows=first.windows, read=used, kept=kept)
    ends, number = used + windows - kept, first.pass_number + 1
    return first, replace(first, first_item=ends, pass_number=number, windows=windows, part=part)


def in_first_epoch(segments: Sequence[Segment], used: int) -> bool:
    """Whether the first `used` items are less than one epoch of one text, of which a part may be taken."""
    first, last = segments[0], segments[-1]
    return used < first.windows and (first is last or (last.part is not None and used <= last.first_item))


def in_force(segments: Sequence[Segment], used: int) -> Segment:
    """The segment of the last of `used` items."""
    return next((s for s in reversed(segments) if s.first_item < used), segments[0])


def _append(
    segments: tuple[Segment, ...], states: Sequence[PreparedState], used: int, excluded: ExcludedWindows
) -> tuple[Segment, ...]:
    current = in_force(segments, used)
    repeats = max(0, -(-(used - current.first_item) // current.windows) - 1)
    number = current.pass_number + repeats
    kept = [s for s in segments if s.first_item <= current.first_item or s.pass_number <= number]
    last = kept[-1]
    # A segment of appended windows is read once; a repeating one ends with the pass in force.
    end = last.first_item + (number - last.pass_number + 1) * last.windows
    before = states[-2].windows
    own = tuple(windows for windows in excluded if windows[0] >= before)
    appended = Segment(
        first_item=end,
        pass_number=number,
        windows=states[-1].windows - before - sum(count for _, count in own),
        first_window=before,
        name=f"{len(states) - 1}",
        digest=states[-1].digest,
        without=own,
    )
    union = _union(states, end + appended.windows, number + 1, None, excluded)
    return (*kept, appended, union)


def _union(
    states: Sequence[PreparedState], first_item: int, pass_number: int, out_of: int | None, excluded: ExcludedWindows
) -> Segment:
    """All windows of the last state as one permutation; `out_of` where a size takes fewer, spread evenly."""
    windows = states[-1].windows
    inside = tuple(entry for entry in excluded if entry[0] < (out_of or windows))
    lost = sum(count for _, count in inside)
    segment = Segment(
        first_item=first_item,
        pass_number=pass_number,
        windows=windows,
        name="0" if len(states) == 1 else f"0-{len(states) - 1}",
        digest=states[-1].digest,
        without=inside,
    )
    if out_of is None:
        return replace(segment, windows=windows - lost)
    return replace(segment, windows=min(windows, out_of - lost), out_of=out_of - lost)
