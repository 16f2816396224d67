"""Where two curricula part, and what is the same before: proven from their parameters, never by replaying.

Both lineages are walked on the token clock, so that other names or other cuts into stages are no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from curriculum.plan.diff.learning_rate import rate_parts
from curriculum.plan.diff.timeline import Lineage, Overlap, SearchResult, overlaps
from curriculum.plan.diff.tokens import texts_part, tokens_part
from curriculum.plan.stage import OPEN, StagePlan

TOKENS, RATE, BATCH, END = "the tokens read", "the learning rate", "the batch", "the end"
START, HISTORY, RESET = "the start", "the history before", "the optimizer's reset"
WEIGHTS = "the weights it starts from"
SETTINGS: tuple[tuple[str, Callable[[StagePlan], Any]], ...] = (
    (BATCH, lambda plan: plan.batch_sequences),
    ("the sequence length", lambda plan: plan.sequence_length),
    ("the seed", lambda plan: plan.seed),
    ("the model", lambda plan: dict(plan.model)),
    ("the tokenizer", lambda plan: dict(plan.tokenizer)),
    ("the optimizer", lambda plan: dict(plan.optimizer)),
    ("document masking", lambda plan: plan.mask_documents),
)


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs, and from which step on: `position` (tokens) is where the steps begin, all before is the same.

    Steps count from the root, in either curriculum; they are equal as long as the batches are. Where not `exact`,
    the step given surely differs and the first that does lies somewhere after `same_until`.
    """

    what: str
    position: int
    step: int
    new_step: int
    same_until: int
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Shared:
    """Steps that are the same in both, in a stage of each; `whole` when both leave their stage at `end`."""

    old: str
    new: str
    steps: int
    begin: int
    end: int
    whole: bool


@dataclass(frozen=True, slots=True)
class Moved:
    """Tokens of a source after the parting, up to each curriculum's own end."""

    source: str
    old: int
    new: int

    @property
    def difference(self) -> int:
        return self.new - self.old


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two curricula on one clock. No `parts`: they are the same everywhere.

    `undecided` names what has other parameters but showed no other value wherever it was compared.
    """

    parts: tuple[Difference, ...]
    undecided: tuple[str, ...]
    shared: tuple[Shared, ...]
    moved: tuple[Moved, ...]
    begin: int
    same_until: int
    old_end: int
    new_end: int
    old_stage: str | None
    new_stage: str | None

    @property
    def same(self) -> bool:
        return not self.parts


def compare(old: Lineage, new: Lineage) -> Comparison:
    """Everything in which two lineages differ, each with its first step, from the later of their starts on.

    Both hold at least one stretch. A lineage may begin in the middle (a single plan does): what came before is
    then compared by its fingerprint.
    """
    begin = max(old[0].plan.start, new[0].plan.start)
    old_end, new_end = old[-1].stop, new[-1].stop
    found: dict[str, Difference] = {}
    doubts: dict[str, int] = {}

    def add(what: str, overlap: Overlap, place: SearchResult) -> None:
        if place.position is None:
            doubts.setdefault(what, place.same_until)
        elif what not in found:
            doubt = doubts.pop(what, None)
            exact = place.exact and doubt is None
            position = overlap.common(place.position)
            found[what] = Difference(
                what,
                position,
                overlap.old.step(place.position),
                overlap.new.step(place.position),
                same_until=position if exact else place.same_until if doubt is None else doubt,
                exact=exact,
            )

    walked = list(overlaps(old, new))
    if not walked:
        found[START] = _at(START, begin, old, new)
    elif not _same_history(old, new, begin):
        what = HISTORY if begin else WEIGHTS
        found[what] = _at(what, begin, old, new)
    for overlap in walked:
        mine, theirs, here = (
            overlap.old.plan,
            overlap.new.plan,
            SearchResult(overlap.begin, overlap.begin, True),
        )
        for what, setting in SETTINGS:
            if setting(mine) != setting(theirs):
                add(what, overlap, here)
        resets = [plan.reset_optimizer and plan.start == overlap.begin for plan in (mine, theirs)]
        if resets[0] != resets[1]:
            add(RESET, overlap, here)
        if TOKENS not in found and (place := tokens_part(overlap)) is not None:
            add(TOKENS, overlap, place)
        if mine.sequence_length == theirs.sequence_length and mine.sources != theirs.sources:
            for name, position in texts_part(overlap).items():
                add(f"the text of `{name}`", overlap, SearchResult(position, position, True))
        if RATE not in found and (place := rate_parts(overlap)) is not None:
            add(RATE, overlap, place)
    if walked and old_end != new_end:
        found[END] = _at(END, min(old_end, new_end), old, new)
    parts = sorted(found.values(), key=lambda part: part.position)
    same_until = min((part.same_until for part in parts), default=min(old_end, new_end))
    if parts:
        same_until = min(same_until, *(at for at in doubts.values()), min(old_end, new_end))
    return Comparison(
        parts=tuple(parts),
        undecided=tuple(sorted(doubts)),
        shared=_shared(walked, same_until),
        moved=_moved(old, new, same_until) if parts else (),
        begin=begin,
        same_until=same_until,
        old_end=old_end,
        new_end=new_end,
        old_stage=_stage_at(old, same_until) if parts else None,
        new_stage=_stage_at(new, same_until) if parts else None,
    )


def _same_history(old: Lineage, new: Lineage, begin: int) -> bool:
    """An import whose weights were never read here may be the same as any other."""
    digests = {_history(lineage, begin) for lineage in (old, new)}
    return len(digests) == 1 or (begin == 0 and OPEN in digests)


def _history(lineage: Lineage, position: int) -> str | None:
    """Digest of all that was trained before `position`; None where the lineage has no step boundary there."""
    for stretch in lineage:
        if stretch.plan.start == position:
            return stretch.plan.parent.fingerprint if stretch.plan.parent else None
        if stretch.plan.start < position <= stretch.stop and stretch.boundary(position) == position:
            return stretch.plan.history(position)
    return None


def _at(what: str, position: int, old: Lineage, new: Lineage) -> Difference:
    steps = []
    for lineage in (old, new):
        stretch = next((s for s in lineage if position <= s.stop), lineage[-1])
        steps.append(stretch.step(min(max(position, stretch.plan.start), stretch.stop)))
    return Difference(what, position, steps[0], steps[1], same_until=position)


def _stage_at(lineage: Lineage, position: int) -> str | None:
    return next((stretch.name for stretch in lineage if position < stretch.stop), None)


def _shared(walked: Sequence[Overlap], until: int) -> tuple[Shared, ...]:
    shared = []
    for overlap in walked:
        end = min(overlap.end, until)
        steps = overlap.old.step(end) - overlap.old.step(overlap.begin)
        if end > overlap.begin:
            whole = end == overlap.old.stop == overlap.new.stop
            shared.append(Shared(overlap.old.name, overlap.new.name, steps, overlap.begin, end, whole))
    return tuple(shared)


def _moved(old: Lineage, new: Lineage, begin: int) -> tuple[Moved, ...]:
    totals: list[dict[str, int]] = []
    for lineage in (old, new):
        total: dict[str, int] = {}
        for stretch in lineage:
            for name, tokens in stretch.tokens(begin, stretch.stop).items():
                total[name] = total.get(name, 0) + tokens
        totals.append(total)
    names = sorted({*totals[0], *totals[1]})
    return tuple(Moved(name, totals[0].get(name, 0), totals[1].get(name, 0)) for name in names)
