"""The mixture phases of a stage: which mixture each sequence is drawn from, continued from the parent's last draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from curriculum import config
from curriculum.compiler.lineage import Setting
from curriculum.compiler.resolve import ResolvedStage
from curriculum.compiler.scaling import Scaler
from curriculum.errors import PlanError
from curriculum.plan.mixing import Ramp, Tree, integer_weights
from curriculum.plan.stage import MixturePhase, MixtureSegment, StagePlan
from curriculum.units import Length, show_count, show_exact


@dataclass(frozen=True, slots=True)
class MixtureState:
    """A lineage's mixture at a stage's start: the phase in force, the next index in it, items used of each source."""

    phase: MixturePhase | None
    index: int
    items: Mapping[str, int]


def mixture_state(parent: StagePlan | None, stop: int) -> MixtureState:
    """The state after `parent` up to position `stop`; an empty one before a root."""
    if parent is None:
        return MixtureState(None, 0, {})
    sequence = (stop - parent.start) // parent.sequence_length
    segment = next(s for s in reversed(parent.pieces) if s.first <= max(sequence - 1, 0))
    phase = parent.blends[segment.blend]
    index = segment.index + sequence - segment.first
    return MixtureState(phase, index, phase.items(index))


def mixture_phases(
    stage: ResolvedStage,
    scaler: Scaler,
    state: MixtureState,
    parent: StagePlan | None,
    declared_start: int,
    notes: list[str],
) -> tuple[tuple[MixturePhase, ...], tuple[MixtureSegment, ...], int]:
    """The stage's phases, their segments without what `skip` cuts out, and the sequences of its ramp.

    `declared_start` is where the parent is declared to be left, in tokens at this size.
    """
    setting, clock = stage.setting, stage.clock
    ramp = _ramp(stage, scaler, notes)
    continues = (
        parent is not None
        and not setting.own_mixture
        and setting.ramp is None
        and clock.sequence_length == parent.sequence_length
    )
    phases, segments = _phases(state, dict(stage.mixture.weights), ramp, continues=continues)
    if (continues or stage.ramp_of) and len(phases) > 1:
        rest = segments[1].first
        ramp = min(rest, clock.sequences)
        if ramp < rest:
            beyond = show_count((rest - ramp) * clock.sequence_length)
            notes.append(f"the ramp that it follows still has {beyond} tokens to go where it ends")
    return phases, _without_skips(stage, scaler, segments, declared_start), ramp


def ramp_tokens(setting: Setting, ramp: Length, scaler: Scaler) -> tuple[int, int]:
    """The tokens of a `ramp` at the size, by the stage's lengths alone and with the floor of the size."""
    floor = scaler.size.at_least.ramp if scaler.size.at_least else None
    stated = scaler.length(setting, ramp, "ramp")
    return stated, max(stated, scaler.small(setting, floor) if floor is not None else 0)


def _ramp(stage: ResolvedStage, scaler: Scaler, notes: list[str]) -> int:
    """The sequences of the stage's own ramp, at least the size's floor; PlanError when the stage is shorter.

    The ramp of a stage before it may end after the stage does.
    """
    setting, clock = stage.ramp_of or stage.setting, stage.clock
    if setting.ramp is None:
        return 0
    stated, tokens = ramp_tokens(setting, setting.ramp, scaler)
    floor = scaler.size.at_least.ramp if scaler.size.at_least else None
    lengthened = stated < tokens
    if lengthened:
        notes.append(f"the ramp of {show_count(stated)} tokens is lengthened to {floor} ({show_count(tokens)})")
    sequences = -(-tokens // clock.sequence_length)
    if sequences > clock.sequences and stage.ramp_of is None:
        length = clock.sequences * clock.sequence_length
        raise PlanError(
            f"the ramp of {sequences * clock.sequence_length:,} tokens is longer than its stage, which has {length:,}",
            place=setting.place("ramp"),
            hint=f"at this size a ramp takes at least {floor} (`at_least:` in sizes.yaml); lengthen the stage"
            if lengthened
            else f"a ramp of at most {show_exact(int(length / scaler.scale))} tokens fits",
        )
    return sequences


def _phases(
    state: MixtureState, weights: dict[str, int], ramp: int, *, continues: bool
) -> tuple[tuple[MixturePhase, ...], list[MixtureSegment]]:
    """The stage's phases and their segments, before `skip`.

    With `continues`, which is where a stage states no mixture, a ramp that its parent leaves unfinished is followed
    to its end, sequence by sequence. A stage that names the same mixture starts with its steady shares.
    """
    old = state.phase
    if old is not None and continues and state.index < old.ramp:
        steady, after = _after(old)
        return (old, steady), [
            MixtureSegment(first=0, blend=0, index=state.index),
            MixtureSegment(first=old.ramp - state.index, blend=1, index=after),
        ]
    if old is not None and ramp == 0 and dict(old.weights) == weights:
        # The same mixture continues to count where the parent stopped; an unfinished ramp is over.
        if old.before is None:
            return (old,), [MixtureSegment(first=0, blend=0, index=state.index)]
        mixer = old.mixer
        assert isinstance(mixer, Ramp)
        after = int(mixer.after_index(state.index))
        counts = Tree(weights).counts(after)
        base = {name: state.items.get(name, 0) - counts.get(name, 0) for name in {*state.items, *counts}}
        return (MixturePhase(weights=weights, base=base),), [MixtureSegment(first=0, blend=0, index=after)]
    if old is None or ramp == 0:
        return (MixturePhase(weights=weights, base=state.items),), [MixtureSegment(first=0, blend=0, index=0)]
    if old.before is None:
        from_weights, from_index = dict(old.weights), state.index
    else:
        mixer = old.mixer
        assert isinstance(mixer, Ramp)
        from_weights, from_index = integer_weights(mixer.shares(state.index), lossy=True), 0
    rising = MixturePhase(weights=weights, base=state.items, before=from_weights, before_index=from_index, ramp=ramp)
    steady, after = _after(rising)
    return (rising, steady), [
        MixtureSegment(first=0, blend=0, index=0),
        MixtureSegment(first=ramp, blend=1, index=after),
    ]


def _after(rising: MixturePhase) -> tuple[MixturePhase, int]:
    """The steady phase after a ramp, and the index at which it continues."""
    mixer = rising.mixer
    assert isinstance(mixer, Ramp)
    after = int(mixer.after_index(rising.ramp))
    reached = rising.items(rising.ramp)
    counts = Tree(rising.weights).counts(after)
    base = {name: reached[name] - counts.get(name, 0) for name in reached}
    return MixturePhase(weights=rising.weights, base=base), after


def _without_skips(
    stage: ResolvedStage, scaler: Scaler, segments: list[MixtureSegment], declared_start: int
) -> tuple[MixtureSegment, ...]:
    """The segments without the ranges of `skip`: from the step boundary at or past `from`, draws continue with `to`'s.

    Each entry is a range of the clock, and cuts what the entries before it left: the clock, the learning rate and
    the stage's end stay, the data moves up.
    """
    setting, clock = stage.setting, stage.clock
    entries: dict[int, config.SkipEntry] = {}
    for entry in sorted((*stage.due, *setting.skip), key=lambda entry: (entry.from_, entry.to)):
        begin, end = scaler.tokens(entry.from_), scaler.tokens(entry.to)
        if entry not in stage.due and not declared_start <= begin < end <= clock.declared_end:
            raise PlanError(
                f"`skip` from {show_count(entry.from_)} to {show_count(entry.to)} is not inside stage "
                f"`{setting.stage}`",
                place=setting.place("skip"),
                hint="give positions from the root, inside the stage, `from` before `to`",
            )
        # At the declared start, the step that passes it still belongs to the parent.
        step = max(0, clock.batches.step_from(begin))
        first, batch = clock.batches.sequences_before(step), clock.batches.batch(step)
        if first in entries:
            raise PlanError(
                f"two entries of `skip` begin at the same step: from {show_count(entries[first].from_)} and from "
                f"{show_count(entry.from_)}",
                place=setting.place("skip"),
                hint="make one entry of the two",
            )
        entries[first] = entry
        batch_tokens = batch * clock.sequence_length
        length = -(-(end - begin) // batch_tokens) * batch
        moved: list[MixtureSegment] = []
        for at, segment in enumerate(segments):
            stop = segments[at + 1].first if at + 1 < len(segments) else None
            inside = max(segment.first, first + length)
            if stop is None or inside < stop:
                index = segment.index + inside - segment.first
                moved.append(MixtureSegment(first=inside - length, blend=segment.blend, index=index))
        segments = [*(segment for segment in segments if segment.first < first), *moved]
    return tuple(segments)
