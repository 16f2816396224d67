"""Which blend of sources each sequence of a stage is drawn from, going on exactly where its parent stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from curriculum import config
from curriculum.compiler.lineage import Setting
from curriculum.compiler.scaling import Scaler
from curriculum.errors import PlanError
from curriculum.plan.mixing import Ramp, Tree, integer_weights
from curriculum.plan.stage import MixturePhase, MixtureSegment, StagePlan
from curriculum.units import show_count


@dataclass(frozen=True, slots=True)
class Before:
    """Where the lineage's mixture stood when this stage began: the blend in force, and items used of each source."""

    blend: MixturePhase | None
    index: int
    items: Mapping[str, int]

    @staticmethod
    def of(parent: StagePlan | None, stop: int) -> Before:
        """After `parent` up to position `stop`; nothing at all before a root."""
        if parent is None:
            return Before(None, 0, {})
        plan = parent
        sequence = (stop - plan.start) // plan.sequence_length
        piece = next(p for p in reversed(plan.pieces) if p.first <= max(sequence - 1, 0))
        blend = plan.blends[piece.blend]
        index = piece.index + sequence - piece.first
        return Before(blend, index, blend.items(index))


def blends_of(
    before: Before, weights: dict[str, int], ramp: int, *, goes_on: bool = False
) -> tuple[tuple[MixturePhase, ...], list[MixtureSegment]]:
    """The stage's blends and their pieces, before any skip is cut out.

    `goes_on` is whether a ramp that was left half-way is followed to its end, sequence by sequence as its own stage
    would: where a stage says nothing of its mixture. One that names the mixture again is at it from the start.
    """
    old = before.blend
    if old is not None and goes_on and before.index < old.ramp:
        steady, after = _after(old)
        return (old, steady), [
            MixtureSegment(first=0, blend=0, index=before.index),
            MixtureSegment(first=old.ramp - before.index, blend=1, index=after),
        ]
    if old is not None and ramp == 0 and dict(old.weights) == weights:
        # The same mixture goes on counting where the parent stopped; a ramp left half-way is over.
        if old.before is None:
            return (old,), [MixtureSegment(first=0, blend=0, index=before.index)]
        mixer = old.mixer
        assert isinstance(mixer, Ramp)
        after = int(mixer.after_index(before.index))
        counts = Tree(weights).counts(after)
        base = {name: before.items.get(name, 0) - counts.get(name, 0) for name in {*before.items, *counts}}
        return (MixturePhase(weights=weights, base=base),), [MixtureSegment(first=0, blend=0, index=after)]
    if old is None or ramp == 0:
        return (MixturePhase(weights=weights, base=before.items),), [
            MixtureSegment(first=0, blend=0, index=0)
        ]
    if old.before is None:
        from_weights, from_index = dict(old.weights), before.index
    else:
        mixer = old.mixer
        assert isinstance(mixer, Ramp)
        from_weights, from_index = integer_weights(mixer.shares(before.index), lossy=True), 0
    rising = MixturePhase(
        weights=weights, base=before.items, before=from_weights, before_index=from_index, ramp=ramp
    )
    steady, after = _after(rising)
    return (rising, steady), [
        MixtureSegment(first=0, blend=0, index=0),
        MixtureSegment(first=ramp, blend=1, index=after),
    ]


def _after(rising: MixturePhase) -> tuple[MixturePhase, int]:
    """The blend that follows a ramp once it is over, and the index at which it goes on."""
    mixer = rising.mixer
    assert isinstance(mixer, Ramp)
    after = int(mixer.after_index(rising.ramp))
    reached = rising.items(rising.ramp)
    counts = Tree(rising.weights).counts(after)
    base = {name: reached[name] - counts.get(name, 0) for name in reached}
    return MixturePhase(weights=rising.weights, base=base), after


def without_skipped(
    setting: Setting,
    scaler: Scaler,
    virtual: list[MixtureSegment],
    bounds: tuple[int, int, int],
    sequence_length: int,
    batch: int,
) -> tuple[MixtureSegment, ...]:
    """Cut skipped ranges out: from the step boundary at or past `from`, draws go on where `to` would have been.

    Each entry is read on the clock, and cuts what the entries before it have left: the clock, the learning rate
    and the stage's end stay, the data moves up. `bounds` are where the stage is declared to start (scaled), where
    it starts, and where it is declared to end.
    """
    declared_start, start, declared_end = bounds
    pieces = list(virtual)
    batch_tokens = batch * sequence_length
    taken: dict[int, config.SkipEntry] = {}
    for entry in sorted(setting.skip, key=lambda entry: (entry.from_, entry.to)):
        begin, end = scaler.tokens(entry.from_), scaler.tokens(entry.to)
        if not declared_start <= begin < end <= declared_end:
            raise PlanError(
                f"`skip` from {show_count(entry.from_)} to {show_count(entry.to)} does not lie inside stage "
                f"`{setting.stage}`",
                place=setting.place("skip"),
                hint="give positions from the root, inside the stage, `from` before `to`",
            )
        # Where a stage is declared to start, the step that went past it is still the stage's before.
        first = max(0, -((start - begin) // batch_tokens)) * batch
        if first in taken:
            raise PlanError(
                f"two entries of `skip` begin at the same step: from {show_count(taken[first].from_)} and from "
                f"{show_count(entry.from_)}",
                place=setting.place("skip"),
                hint="make one entry of the two",
            )
        taken[first] = entry
        length = -(-(end - begin) // batch_tokens) * batch
        ahead = [p for p in pieces if p.first <= first]
        moved: list[MixtureSegment] = []
        for at, piece in enumerate(pieces):
            stop = pieces[at + 1].first if at + 1 < len(pieces) else None
            inside = max(piece.first, first + length)
            if stop is None or inside < stop:
                moved.append(
                    MixtureSegment(
                        first=inside - length, blend=piece.blend, index=piece.index + inside - piece.first
                    )
                )
        pieces = [*(p for p in ahead if p.first < first), *moved]
    return tuple(pieces)
