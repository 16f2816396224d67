"""How a source's windows are cut into segments: begun, restarted, grown by appended shards, with shards left out.

Text that is prepared in *parts* (a first preparation, then what was appended) is read so that nothing planned
moves and nothing is read twice before everything was read once: the pass that is under way when a part arrives
goes on to its end as it was, then reads the appended windows as a segment of its own; from the next pass on all
windows are one order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from curriculum.plan.source import Segment

ExcludedWindows = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Part:
    """Prepared text as it was after a preparation: its windows up to then, and the digest of the whole up to then."""

    windows: int
    digest: str | None


def first_segments(parts: Sequence[Part], out_of: int | None, holes: ExcludedWindows) -> tuple[Segment, ...]:
    """The segments of a source that no stage has read yet."""
    first = _whole(parts[:1], 0, 0, out_of, holes)
    return extend((first,), parts, 0, holes)


def next_epoch(
    old: Sequence[Segment], used: int, parts: Sequence[Part], out_of: int | None, holes: ExcludedWindows
) -> tuple[Segment, ...]:
    """The next pass begins after `used` items, over all windows there are."""
    last = in_force(old, used)
    turns = -(-(used - last.first_item) // last.windows) if last.windows else 0
    fresh = _whole(parts, used, last.pass_number + turns, out_of, holes)
    return (*(s for s in old if s.first_item < used), fresh)


def extend(
    old: Sequence[Segment], parts: Sequence[Part], used: int, holes: ExcludedWindows
) -> tuple[Segment, ...]:
    """`old`, going on with every part that it does not know yet; they arrive when `used` items were read."""
    segments = tuple(old)
    known = [at for at, part in enumerate(parts) if any(s.digest == part.digest for s in segments)]
    for at in range(max(known, default=len(parts) - 1) + 1, len(parts)):
        segments = _with(segments, parts[: at + 1], used, holes)
    return segments


def in_force(segments: Sequence[Segment], used: int) -> Segment:
    """The segment that the last of `used` items was of."""
    return next((s for s in reversed(segments) if s.first_item < used), segments[0])


def _with(
    segments: tuple[Segment, ...], parts: Sequence[Part], used: int, holes: ExcludedWindows
) -> tuple[Segment, ...]:
    now = in_force(segments, used)
    turn = max(0, -(-(used - now.first_item) // now.windows) - 1)
    number = now.pass_number + turn
    kept = [s for s in segments if s.first_item <= now.first_item or s.pass_number <= number]
    last = kept[-1]
    # A segment of its own is read once; one that goes round ends with the pass that is under way.
    rounds = number - last.pass_number + 1
    end = last.first_item + rounds * last.windows
    before = parts[-2].windows
    own = tuple(hole for hole in holes if hole[0] >= before)
    arrived = Segment(
        first_item=end,
        pass_number=number,
        windows=parts[-1].windows - before - sum(count for _, count in own),
        first_window=before,
        name=f"{len(parts) - 1}",
        digest=parts[-1].digest,
        without=own,
    )
    union = _whole(parts, end + arrived.windows, number + 1, None, holes)
    return (*kept, arrived, union)


def _whole(
    parts: Sequence[Part], first_item: int, pass_number: int, out_of: int | None, holes: ExcludedWindows
) -> Segment:
    """One order of all windows of `parts`; `out_of` of them, spread evenly, where a size takes fewer."""
    windows = parts[-1].windows
    inside = tuple(hole for hole in holes if hole[0] < (out_of or windows))
    lost = sum(count for _, count in inside)
    segment = Segment(
        first_item=first_item,
        pass_number=pass_number,
        windows=windows,
        name="0" if len(parts) == 1 else f"0-{len(parts) - 1}",
        digest=parts[-1].digest,
        without=inside,
    )
    if out_of is None:
        return replace(segment, windows=windows - lost)
    return replace(segment, windows=min(windows, out_of - lost), out_of=out_of - lost)
