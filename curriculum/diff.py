"""The first step at which two plans of a stage part, found from their parameters; nothing is replayed up to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from curriculum.plan import StagePlan
from curriculum.planner import CompiledStage

# Functions whose parameters differ may still agree for a while; this many steps are compared one by one.
STEPS_COMPARED = 4096


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs, and the first step and position (tokens read before it) that it touches."""

    step: int
    position: int
    what: tuple[str, ...]


def first_difference(old: StagePlan, new: StagePlan) -> Difference | None:
    """The first step of two plans of the same stage that is not the same in both, or None."""
    if old.fingerprint == new.fingerprint:
        return None
    everywhere = [
        label
        for label, field in (
            ("the seed", "seed"),
            ("the model", "model"),
            ("the tokenizer", "tokenizer"),
            ("the optimizer", "optimizer"),
            ("the sequence length", "sequence_length"),
            ("the batch", "batch_sequences"),
            ("the start", "start"),
            ("the history before this stage", "parent"),
            ("the optimizer's reset", "reset_optimizer"),
            ("document masking", "mask_documents"),
        )
        if getattr(old, field) != getattr(new, field)
    ]
    texts = [
        f"the text of `{name}`"
        for name in sorted(set(old.sources) & set(new.sources))
        if old.sources[name] != new.sources[name]
    ]
    if everywhere:
        return Difference(old.first_step, old.start, (*everywhere, *texts))
    found: dict[str, int] = {}
    if old.learning_rate != new.learning_rate:
        found["the learning rate"] = _first_step(
            old, new, old.first_step, lambda step: old.lr(step) == new.lr(step)
        )
    for text in texts:
        found[text] = old.first_step
    if old.blends != new.blends or old.pieces != new.pieces:
        begin = old.first_step + _parting_sequence(old, new) // old.batch_sequences
        found["the mixture"] = _first_step(old, new, begin, lambda step: _same_draws(old, new, step))
    if old.steps != new.steps:
        found["the stage's end"] = min(old.last_step, new.last_step)
    step = min(found.values())
    what = tuple(label for label, at in sorted(found.items(), key=lambda entry: entry[1]))
    return Difference(step, old.start + (step - old.first_step) * old.batch_tokens, what)


@dataclass(frozen=True, slots=True)
class Parting:
    """Where two lineages part; None for `difference` means they never do."""

    shared: tuple[str, ...]
    old: str | None
    new: str | None
    difference: Difference | None


def first_parting(old: Sequence[CompiledStage], new: Sequence[CompiledStage]) -> Parting:
    """Walk two lineages from their roots to the first stage that is not the same in both."""
    shared: list[str] = []
    for mine, theirs in zip(old, new, strict=False):
        stop = min(mine.stop, theirs.stop)
        same_start = mine.plan.start == theirs.plan.start
        if mine.plan.fingerprint == theirs.plan.fingerprint and mine.stop == theirs.stop:
            shared.append(mine.name)
            continue
        if mine.plan.fingerprint == theirs.plan.fingerprint:
            step = mine.plan.step_at(stop)
            return Parting(
                tuple(shared),
                mine.name,
                theirs.name,
                Difference(step, stop, ("one of them leaves the stage",)),
            )
        found = first_difference(mine.plan, theirs.plan) if same_start else None
        if found is None:
            found = Difference(mine.plan.first_step, mine.plan.start, ("the start",))
        return Parting(tuple(shared), mine.name, theirs.name, found)
    if len(old) == len(new):
        return Parting(tuple(shared), None, None, None)
    longer = old[len(new)] if len(old) > len(new) else new[len(old)]
    ended = Difference(longer.plan.first_step, longer.plan.start, ("one of them has ended",))
    return Parting(tuple(shared), None, longer.name, ended)


def _first_step(old: StagePlan, new: StagePlan, begin: int, same: Callable[[int], bool]) -> int:
    end = min(old.last_step, new.last_step)
    for step in range(begin, min(end, begin + STEPS_COMPARED)):
        if not same(step):
            return step
    return min(end, begin + STEPS_COMPARED)


def _parting_sequence(old: StagePlan, new: StagePlan) -> int:
    """The first sequence of the stage from which the pieces are no longer the same functions."""
    for mine, theirs in zip(old.pieces, new.pieces, strict=False):
        if (mine.first, mine.index, old.blends[mine.blend]) != (
            theirs.first,
            theirs.index,
            new.blends[theirs.blend],
        ):
            return min(mine.first, theirs.first)
    shorter = min(len(old.pieces), len(new.pieces))
    longer = old if len(old.pieces) > shorter else new
    return longer.pieces[shorter].first if len(longer.pieces) > shorter else old.sequences


def _same_draws(old: StagePlan, new: StagePlan, step: int) -> bool:
    mine, theirs = old.draws(step), new.draws(step)
    if [mine.names[s] for s in mine.source] != [theirs.names[s] for s in theirs.source]:
        return False
    return np.array_equal(mine.window, theirs.window) and np.array_equal(mine.pass_number, theirs.pass_number)
