"""All differences of two lineages, each with its first step, derived from their parameters without a replay.

Lineages are aligned by position in tokens, so that other names or another division into stages are no difference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from curriculum.plan.diff.learning_rate import first_rate_difference
from curriculum.plan.diff.timeline import Lineage, Overlap, SearchResult, overlaps
from curriculum.plan.diff.tokens import first_token_difference, text_differences
from curriculum.plan.stage import OPEN, StagePlan

TOKENS, RATE, BATCH, END = "the tokens read", "the learning rate", "the batch", "the end"
START, HISTORY, RESET = "the start", "the history before", "the optimizer's reset"
WEIGHTS = "the weights it starts from"
AVERAGE = "the average of checkpoints"
SETTINGS: tuple[tuple[str, Callable[[StagePlan], Any]], ...] = (
    ("the sequence length", lambda plan: plan.sequence_length),
    ("the seed", lambda plan: plan.seed),
    ("the model", lambda plan: dict(plan.model)),
    ("the tokenizer", lambda plan: dict(plan.tokenizer)),
    ("the optimizer", lambda plan: dict(plan.optimizer)),
    ("document masking", lambda plan: plan.mask_documents),
)


@dataclass(frozen=True, slots=True)
class AttributeDifference:
    """An attribute that differs: from the steps that begin at `position` (tokens); everything before is the same.

    `step` and `new_step` count from the root of either curriculum; they are equal as long as the batches are. If not
    `exact`, that step certainly differs and the first one that does is after `same_until`.
    """

    what: str
    position: int
    step: int
    new_step: int
    same_until: int
    exact: bool = True


@dataclass(frozen=True, slots=True)
class SharedSteps:
    """Steps that are the same in both, in a stage of each; `whole` when both stages end at `end`."""

    old: str
    new: str
    steps: int
    begin: int
    end: int
    whole: bool


@dataclass(frozen=True, slots=True)
class TokenDifference:
    """Tokens of a source from the first difference on, up to each curriculum's own end."""

    source: str
    old: int
    new: int

    @property
    def difference(self) -> int:
        return self.new - self.old


@dataclass(frozen=True, slots=True)
class PlanDiff:
    """The result of a comparison of two curricula; without `parts` they are the same everywhere.

    `undecided` are attributes whose parameters differ, but whose values were equal wherever they were compared.
    The fields are the keys of the JSON that `diff` prints.
    """

    parts: tuple[AttributeDifference, ...]
    undecided: tuple[str, ...]
    shared: tuple[SharedSteps, ...]
    moved: tuple[TokenDifference, ...]
    begin: int
    same_until: int
    old_end: int
    new_end: int
    old_stage: str | None
    new_stage: str | None

    @property
    def same(self) -> bool:
        return not self.parts


def compare(old: Lineage, new: Lineage) -> PlanDiff:
    """Every attribute in which two lineages differ, with its first step, from the later of their starts on.

    Both have at least one span. A lineage may begin in the middle, as a single plan does: the history before is then
    compared by its fingerprint.
    """
    begin = max(old[0].plan.start, new[0].plan.start)
    old_end, new_end = old[-1].stop, new[-1].stop
    differences: dict[str, AttributeDifference] = {}
    doubts: dict[str, int] = {}

    def add(what: str, overlap: Overlap, result: SearchResult) -> None:
        if result.position is None:
            doubts.setdefault(what, result.same_until)
        elif what not in differences:
            doubt = doubts.pop(what, None)
            exact = result.exact and doubt is None
            position = overlap.common(result.position)
            differences[what] = AttributeDifference(
                what,
                position,
                overlap.old.step(result.position),
                overlap.new.step(result.position),
                same_until=position if exact else result.same_until if doubt is None else doubt,
                exact=exact,
            )

    aligned = list(overlaps(old, new))
    if not aligned:
        differences[START] = _at(START, begin, old, new)
    elif not _same_history(old, new, begin):
        what = HISTORY if begin else WEIGHTS
        differences[what] = _at(what, begin, old, new)
    for overlap in aligned:
        old_plan, new_plan = overlap.old.plan, overlap.new.plan
        at_begin = SearchResult(overlap.begin, overlap.begin, True)
        if (changed := _first_batch_difference(overlap)) is not None:
            add(BATCH, overlap, SearchResult(changed, changed, True))
        for what, setting in SETTINGS:
            if setting(old_plan) != setting(new_plan):
                add(what, overlap, at_begin)
        resets = [plan.reset_optimizer and plan.start == overlap.begin for plan in (old_plan, new_plan)]
        if resets[0] != resets[1]:
            add(RESET, overlap, at_begin)
        if TOKENS not in differences and (result := first_token_difference(overlap)) is not None:
            add(TOKENS, overlap, result)
        if old_plan.sequence_length == new_plan.sequence_length and old_plan.sources != new_plan.sources:
            for name, position in text_differences(overlap).items():
                add(f"the text of `{name}`", overlap, SearchResult(position, position, True))
        if RATE not in differences and (result := first_rate_difference(overlap)) is not None:
            add(RATE, overlap, result)
    averages = [
        {(span.plan.start, span.plan.average) for span in lineage if span.plan.average} for lineage in (old, new)
    ]
    if different := averages[0] ^ averages[1]:
        differences[AVERAGE] = _at(AVERAGE, min(position for position, _ in different), old, new)
    if aligned and old_end != new_end:
        differences[END] = _at(END, min(old_end, new_end), old, new)
    parts = sorted(differences.values(), key=lambda part: part.position)
    same_until = min((part.same_until for part in parts), default=min(old_end, new_end))
    if parts:
        same_until = min(same_until, *(at for at in doubts.values()), min(old_end, new_end))
    return PlanDiff(
        parts=tuple(parts),
        undecided=tuple(sorted(doubts)),
        shared=_shared(aligned, same_until),
        moved=_moved(old, new, same_until) if parts else (),
        begin=begin,
        same_until=same_until,
        old_end=old_end,
        new_end=new_end,
        old_stage=_stage_at(old, same_until) if parts else None,
        new_stage=_stage_at(new, same_until) if parts else None,
    )


def _first_batch_difference(overlap: Overlap) -> int | None:
    """The first position of the overlap at which the two take steps of different sizes."""
    changes = {at for span in (overlap.old, overlap.new) for at in span.batch_changes()}
    for position in sorted({overlap.begin, *(at for at in changes if overlap.begin < at < overlap.end)}):
        old, new = (span.plan.batch_of(span.step(position)) for span in (overlap.old, overlap.new))
        if old != new:
            return position
    return None


def _same_history(old: Lineage, new: Lineage, begin: int) -> bool:
    """Whether the histories before `begin` are equal; an import with unknown digests counts as equal to any."""
    digests = {_history(lineage, begin) for lineage in (old, new)}
    return len(digests) == 1 or (begin == 0 and OPEN in digests)


def _history(lineage: Lineage, position: int) -> str | None:
    """Digest of all that was trained before `position`; None where the lineage has no step boundary there."""
    for span in lineage:
        if span.plan.start == position:
            return span.plan.parent.fingerprint if span.plan.parent else None
        if span.plan.start < position <= span.stop and span.boundary(position) == position:
            return span.plan.history(position)
    return None


def _at(what: str, position: int, old: Lineage, new: Lineage) -> AttributeDifference:
    steps = []
    for lineage in (old, new):
        span = next((span for span in lineage if position <= span.stop), lineage[-1])
        steps.append(span.step(min(max(position, span.plan.start), span.stop)))
    return AttributeDifference(what, position, steps[0], steps[1], same_until=position)


def _stage_at(lineage: Lineage, position: int) -> str | None:
    return next((span.name for span in lineage if position < span.stop), None)


def _shared(aligned: Sequence[Overlap], until: int) -> tuple[SharedSteps, ...]:
    shared = []
    for overlap in aligned:
        end = min(overlap.end, until)
        steps = overlap.old.step(end) - overlap.old.step(overlap.begin)
        if end > overlap.begin:
            whole = end == overlap.old.stop == overlap.new.stop
            shared.append(SharedSteps(overlap.old.name, overlap.new.name, steps, overlap.begin, end, whole))
    return tuple(shared)


def _moved(old: Lineage, new: Lineage, begin: int) -> tuple[TokenDifference, ...]:
    before, after = Counter[str](), Counter[str]()
    for lineage, total in ((old, before), (new, after)):
        for span in lineage:
            total.update(span.tokens(begin, span.stop))
    return tuple(TokenDifference(name, before[name], after[name]) for name in sorted({*before, *after}))
