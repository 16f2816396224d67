"""The waist of the house: what a machine runs, as plain numbers, every decision a function of (plan, step).

A stage plan knows no paths, no machine and no YAML. Steps are optimizer updates counted from the curriculum's
root, from 0; positions are tokens from the root; a stage covers the half-open range of steps
`[first_step, first_step + steps)`. From a step follow, by arithmetic alone, its learning rate and, for each of
its slots, the source, the pass over it and the window that is read.

The order in three layers (docs/decisions/0003-closed-form-order.md):

    sequence j of the stage ── pieces ──> sequence i of a blend
    sequence i of a blend   ── tree or ramp ──> item k of a source (its k-th window over the whole lineage)
    item k of a source      ── segments, permutation ──> (pass, window)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curriculum import fs
from curriculum.errors import PlanError
from curriculum.plan.arrays import each
from curriculum.plan.learning_rate import LearningRate
from curriculum.plan.mixing import Ramp, Tree
from curriculum.plan.permutation import ORDER_VERSION, rotation
from curriculum.plan.ranks import share_of_rank
from curriculum.plan.source import Segment as Segment
from curriculum.plan.source import SourcePlan as SourcePlan

FORMAT = 1

Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class MixturePhase:
    """Proportions from which sequences draw: constant, or a ramp from one set of weights to another.

    `base` counts the items of each source that the lineage had used when this blend's sequence 0 began.
    A ramp goes over `ramp` sequences from `before` (a tree already `before_index` sequences along) to `weights`.
    """

    weights: Mapping[str, int]
    base: Mapping[str, int]
    before: Mapping[str, int] | None = None
    before_index: int = 0
    ramp: int = 0

    @cached_property
    def mixer(self) -> Tree | Ramp:
        after = Tree(self.weights)
        return after if self.before is None else Ramp(Tree(self.before), self.before_index, after, self.ramp)

    def items(self, index: int) -> dict[str, int]:
        """Items of every source used by the lineage before this blend's sequence `index`."""
        counts = self.mixer.counts(index)
        return {name: self.base.get(name, 0) + counts.get(name, 0) for name in sorted({*self.base, *counts})}

    def items_of(self, source: str, index: int) -> int:
        """`items` for one source."""
        drawn = self.mixer.count(source, index) if source in self.mixer.names else 0
        return self.base.get(source, 0) + int(drawn)


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureSegment:
    """From the stage's sequence `first` on, sequences come from blend number `blend`, starting at its `index`."""

    first: int
    blend: int
    index: int


@dataclass(frozen=True, slots=True)
class Draws:
    """What fills a step's slots, in slot order; `source` indexes `names`, all arrays have shape `[slots]`."""

    names: tuple[str, ...]
    source: NDArray[np.int32]
    item: Integers
    pass_number: Integers
    window: Integers

    def rank(self, rank: int, ranks: int) -> Draws:
        """The contiguous slots of `rank` of `ranks`; the slots must divide evenly."""
        share = share_of_rank(len(self.window), ranks)
        if not 0 <= rank < ranks:
            raise PlanError(f"there is no rank {rank} of {ranks}", hint="ranks are counted from 0")
        return self.part(rank * share, (rank + 1) * share)

    def part(self, begin: int, end: int) -> Draws:
        """The draws from number `begin` up to but not including `end`."""
        part = slice(begin, end)
        return Draws(
            self.names, self.source[part], self.item[part], self.pass_number[part], self.window[part]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """The branch point: the fingerprint of all history up to `position` tokens."""

    fingerprint: str
    position: int


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage, compiled. Lengths in tokens unless the name says steps or sequences."""

    seed: int
    model: Mapping[str, Any]
    tokenizer: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    learning_rate: LearningRate
    sequence_length: int
    batch_sequences: int
    first_step: int
    steps: int
    start: int
    sources: Mapping[str, SourcePlan]
    blends: tuple[MixturePhase, ...]
    pieces: tuple[MixtureSegment, ...]
    read_before: Mapping[str, int]
    parent: Parent | None = None
    reset_optimizer: bool = False
    mask_documents: bool = False
    order_version: int = ORDER_VERSION
    labels: Mapping[str, Any] = field(default_factory=dict)

    # --- the clock ---------------------------------------------------------------------------------------

    @property
    def batch_tokens(self) -> int:
        return self.batch_sequences * self.sequence_length

    @property
    def sequences(self) -> int:
        return self.steps * self.batch_sequences

    @property
    def end(self) -> int:
        """Position of the stage's last step boundary, which is the next stage's start."""
        return self.start + self.steps * self.batch_tokens

    @property
    def last_step(self) -> int:
        """The first step that is no longer this stage's."""
        return self.first_step + self.steps

    def position_after(self, step: int) -> int:
        """Tokens from the root once `step` has been taken."""
        return self.start + (step - self.first_step + 1) * self.batch_tokens

    def step_at(self, position: int) -> int:
        """The first step not yet taken at `position`, which must be one of this stage's step boundaries."""
        steps, rest = divmod(position - self.start, self.batch_tokens)
        if rest or not 0 <= steps <= self.steps:
            raise PlanError(f"{position:,} tokens is not a step boundary of this stage")
        return self.first_step + steps

    def lr(self, step: int) -> float:
        """The learning rate of `step`: the curve's value at the position where the step ends."""
        return self.learning_rate.at(self.position_after(step))

    # --- the order ---------------------------------------------------------------------------------------

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.sources))

    def draws(self, step: int) -> Draws:
        """The sources and windows that fill the slots of `step`; the set never depends on ranks or machine."""
        return self.draws_of(step, step + 1)

    def draws_of(self, first: int, last: int, slots: Integers | None = None) -> Draws:
        """The draws of steps `first` up to but not including `last`, laid end to end; of `slots` alone if stated.

        Many steps at once cost little more than one: a small batch's arithmetic is mostly the calling of numpy.
        """
        for step in (first, last - 1):
            if not self.first_step <= step < self.last_step:
                raise PlanError(
                    f"step {step:,} is not in this stage ({self.first_step:,} to {self.last_step - 1:,})"
                )
        batch = self.batch_sequences
        mine = np.arange(batch, dtype=np.int64) if slots is None else slots
        turns = np.array([rotation(self.seed, step, batch) for step in range(first, last)], np.int64)
        begins = (np.arange(first, last, dtype=np.int64) - self.first_step) * batch
        return self.sequences_at((begins[:, None] + (mine + turns[:, None]) % batch).reshape(-1))

    def sequences_at(self, sequence: Integers) -> Draws:
        """The draws of the stage's sequences numbered `sequence` (shape `[n]`)."""
        source = np.empty(sequence.shape, np.int32)
        item = np.empty(sequence.shape, np.int64)
        firsts = np.array([piece.first for piece in self.pieces], np.int64)
        for at, inside in each(np.searchsorted(firsts, sequence, side="right") - 1):
            piece = self.pieces[at]
            drawn, ordinal = self.blends[piece.blend].mixer.draw(sequence[inside] - piece.first + piece.index)
            number, base = self._drawn_from[piece.blend]
            source[inside] = number[drawn]
            item[inside] = base[drawn] + ordinal
        pass_number = np.empty_like(item)
        window = np.empty_like(item)
        for at, mine in each(source):
            name = self.names[at]
            pass_number[mine], window[mine] = self.sources[name].place(
                item[mine], seed=self.seed, source=name
            )
        return Draws(self.names, source, item, pass_number, window)

    @cached_property
    def _drawn_from(self) -> list[tuple[NDArray[np.int32], Integers]]:
        """For each blend, in its mixer's numbers: the number of a source in `names`, and the items used before."""
        number = {name: at for at, name in enumerate(self.names)}
        return [
            (
                np.array([number[name] for name in blend.mixer.names], np.int32),
                np.array([blend.base.get(name, 0) for name in blend.mixer.names], np.int64),
            )
            for blend in self.blends
        ]

    def items(self, sequence: int) -> dict[str, int]:
        """How far the lineage has come in every source before the stage's sequence number `sequence`."""
        piece = next(piece for piece in reversed(self.pieces) if piece.first <= sequence)
        return self.blends[piece.blend].items(piece.index + sequence - piece.first)

    def windows_read(self, position: int) -> dict[str, int]:
        """Windows of every source read since the root by `position` (a position inside this stage), exactly."""
        sequence = (position - self.start) // self.sequence_length
        total = dict(self.read_before)
        for at, piece in enumerate(self.pieces):
            until = self.pieces[at + 1].first if at + 1 < len(self.pieces) else self.sequences
            length = min(until, sequence) - piece.first
            if length <= 0:
                break
            blend = self.blends[piece.blend]
            begin, end = blend.mixer.counts(piece.index), blend.mixer.counts(piece.index + length)
            for name, count in end.items():
                total[name] = total.get(name, 0) + count - begin.get(name, 0)
        return dict(sorted(total.items()))

    # --- identity ----------------------------------------------------------------------------------------

    @cached_property
    def fingerprint(self) -> str:
        """Digest of everything that decides what is trained; labels, machine and cadence are not in it."""
        return self.history(self.end)

    def history(self, position: int) -> str:
        """Digest of everything that decided what was trained up to `position`, a step boundary of this stage.

        A change strictly ahead of `position` leaves it as it is.
        """
        steps = self.step_at(position) - self.first_step
        sequences = steps * self.batch_sequences
        pieces = [piece for piece in self.pieces if piece.first < max(sequences, 1)]
        blends = [self.blends[piece.blend] for piece in pieces]
        drawn = {name for blend in blends for name in (*blend.weights, *(blend.before or ()))}
        reached = self.items(sequences)
        sources = {
            name: replace(
                source,
                segments=tuple(s for s in source.segments if s.first_item < max(reached.get(name, 0), 1)),
            )
            for name, source in self.sources.items()
            if name in drawn
        }
        value = {
            **fs.fields_of(self),
            "format": FORMAT,
            "steps": steps,
            "learning_rate": self.learning_rate.until(position),
            "pieces": [replace(piece, blend=at) for at, piece in enumerate(pieces)],
            "blends": blends,
            "sources": sources,
        }
        del value["labels"]
        return fs.digest(value)

    def with_text_of(self, ran: StagePlan) -> StagePlan:
        """This plan with what only prepared text can tell taken from one of the same stage that ran."""
        sources = {
            name: ran.sources[name]
            if name in ran.sources and any(segment.digest is None for segment in source.segments)
            else source
            for name, source in self.sources.items()
        }
        tokenizer = self.tokenizer if self.tokenizer.get("digest") else ran.tokenizer
        return replace(self, sources=sources, tokenizer=tokenizer)

    # --- JSON --------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        value = {**fs.fields_of(self), "format": FORMAT}
        return json.loads(fs.canonical_json(value))  # type: ignore[no-any-return]

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> StagePlan:
        if value.get("format") != FORMAT:
            raise PlanError(f"this plan has format {value.get('format')!r}; this version reads {FORMAT}")
        if value["order_version"] != ORDER_VERSION:
            raise PlanError(
                f"this plan was made for order version {value['order_version']}; this version computes {ORDER_VERSION}",
                hint="finish the run with the version of curriculum that began it",
            )
        return fs.from_json(StagePlan, value, ignore_unknown=True)

    @staticmethod
    def load(path: Path) -> StagePlan:
        """Read a plan file; PlanError when it is not one, or was changed by hand since it was written."""
        try:
            value = fs.unseal(
                fs.parse_json(fs.read_bytes(path)),
                {*StagePlan.__dataclass_fields__, "format", "fingerprint"},
            )
            plan = StagePlan.from_json(value)
        except (OSError, ValueError, KeyError) as error:
            raise PlanError(
                f"`{path}` is not a readable plan: {error}",
                hint="restore the file; a plan is compiled from stages/ and mixtures/, never edited",
            ) from None
        if value.get("fingerprint") != plan.fingerprint:
            raise PlanError(
                f"`{path}` does not match its own fingerprint: it was changed after it was written",
                hint="restore the file; a plan is compiled from stages/ and mixtures/, never edited",
            )
        return plan

    def save(self, path: Path, *, replace: bool = False) -> None:
        """Write the plan with its fingerprint, durably; an existing one is replaced only when asked, in one step."""
        value = fs.seal({**self.to_json(), "fingerprint": self.fingerprint})
        fs.write_json(path, value, replace=replace)


OPEN = "not imported yet"
"""What a plan says of its start until the directory's bytes were read once."""
