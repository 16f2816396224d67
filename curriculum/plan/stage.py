"""A compiled stage, the contract between compiler and runner: every training decision as a function of (plan, step).

A stage plan holds numbers only: no paths, no machine, no YAML. Steps are optimizer updates counted from the
curriculum's root, from 0; positions are tokens from the root; a stage covers the half-open range of steps
`[first_step, first_step + steps)`. A step determines in closed form its learning rate and, for each of its slots, the
source, the epoch (`pass`) and the window that is read.

The order has three layers (docs/decisions/0003-closed-form-order.md):

    sequence j of the stage           ── mixture segments ──>      sequence i of a mixture phase
    sequence i of a mixture phase     ── tree or ramp ──>          item k of a source (its k-th window over the lineage)
    item k of a source                ── segments, permutation ──> (epoch, window)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curriculum import fs
from curriculum.errors import PlanError
from curriculum.plan.arrays import Integers, positions_by_value
from curriculum.plan.batch_clock import BatchChange, BatchClock
from curriculum.plan.learning_rate import LearningRate
from curriculum.plan.mixing import Ramp, Tree
from curriculum.plan.permutation import ORDER_VERSION, rotations
from curriculum.plan.ranks import require_rank, share_of_rank
from curriculum.plan.source import SourcePlan, locate_items

FORMAT = 1

OPEN = "not imported yet"
"""The `fingerprint` of a plan's parent while the digests of an imported directory are not known."""


@dataclass(frozen=True, kw_only=True)
class MixturePhase:
    """The proportions from which sequences are drawn: constant, or a linear ramp from one set of weights to another.

    `base` counts the items of each source that the lineage had used before sequence 0 of this phase.
    A ramp goes over `ramp` sequences from `before` (a tree continued at its index `before_index`) to `weights`.
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
        """Items of every source used by the lineage before this phase's sequence `index`."""
        counts = self.mixer.counts(index)
        return {name: self.base.get(name, 0) + counts.get(name, 0) for name in sorted({*self.base, *counts})}

    def items_of(self, source: str, index: int) -> int:
        """`items` for one source."""
        drawn = self.mixer.count(source, index) if source in self.mixer.names else 0
        return self.base.get(source, 0) + int(drawn)


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureSegment:
    """From the stage's sequence `first` on, sequences are those of phase number `blend`, from its `index` on."""

    first: int
    blend: int
    index: int


@dataclass(frozen=True, slots=True)
class Draws:
    """Source, item, epoch and window of each slot, in slot order; `source` indexes `names`, arrays are `[slots]`."""

    names: tuple[str, ...]
    source: NDArray[np.int32]
    item: Integers
    pass_number: Integers
    window: Integers

    def rank(self, rank: int, ranks: int) -> Draws:
        """The contiguous slots of `rank` of `ranks`; the slots must divide evenly."""
        share = share_of_rank(len(self.window), ranks)
        require_rank(rank, ranks)
        slots = slice(rank * share, (rank + 1) * share)
        return Draws(self.names, self.source[slots], self.item[slots], self.pass_number[slots], self.window[slots])


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """The branch point: the fingerprint of all history up to `position` tokens."""

    fingerprint: str
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberCheckpoint:
    """A checkpoint of an average: its history up to `position` (tokens), and how much its weights count.

    With `ema` it is the moving average that the checkpoint keeps that counts.
    """

    fingerprint: str
    position: int
    weight: int
    ema: bool = field(default=False, metadata=fs.ADDED_LATER)


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One compiled stage. Lengths in tokens unless the name says steps or sequences.

    `batch_sequences` is the batch of the first step, and `batch_changes` are those inside the stage. With a
    `rate_exponent` the curve's rate holds for a batch of `rate_batch`, and that of another is multiplied by their ratio
    to that power. The `optimizer` states the half-life of its `ema` in tokens. An `average` has no step: its weights
    are those of several checkpoints, of which the first is its parent, and its optimizer's state is new.
    The fields are the keys of plan.json, hence `blends` for its mixture phases and `pieces` for its mixture segments.
    """

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
    batch_changes: tuple[BatchChange, ...] = field(default=(), metadata=fs.ADDED_LATER)
    rate_batch: float | None = field(default=None, metadata=fs.ADDED_LATER)
    rate_exponent: float | None = field(default=None, metadata=fs.ADDED_LATER)
    average: tuple[MemberCheckpoint, ...] = field(default=(), metadata=fs.ADDED_LATER)
    order_version: int = ORDER_VERSION
    labels: Mapping[str, Any] = field(default_factory=dict)

    # --- the clock ---------------------------------------------------------------------------------------

    @cached_property
    def clock(self) -> BatchClock:
        """The stage's clock, whose steps count from the stage's first."""
        changes = (BatchChange(0, self.batch_sequences), *self.batch_changes)
        return BatchClock(self.start, self.sequence_length, changes)

    @property
    def batches(self) -> tuple[int, ...]:
        """The sequences of a step, each number once, in the order of the steps that take them."""
        return tuple(dict.fromkeys(change.sequences for change in self.clock.changes))

    @property
    def batch_tokens(self) -> int:
        """Tokens of the stage's first step, and of every step where the batch does not change inside the stage."""
        return self.batch_sequences * self.sequence_length

    @property
    def sequences(self) -> int:
        return self.clock.sequences_before(self.steps)

    @property
    def end(self) -> int:
        """Position of the stage's last step boundary, which is the next stage's start."""
        return self.clock.position(self.steps)

    @property
    def stop_step(self) -> int:
        """The end of the stage's range of steps, exclusive."""
        return self.first_step + self.steps

    def batch_of(self, step: int) -> int:
        """Sequences of `step`."""
        return self.clock.batch(step - self.first_step)

    def tokens_of(self, step: int) -> int:
        """Tokens of `step`."""
        return self.batch_of(step) * self.sequence_length

    def position_before(self, step: int) -> int:
        """Tokens from the root where `step` begins."""
        return self.clock.position(step - self.first_step)

    def position_after(self, step: int) -> int:
        """Tokens from the root once `step` has been taken."""
        return self.clock.position(step - self.first_step + 1)

    def step_of(self, position: int) -> int:
        """The step that reads the token at `position`."""
        return self.first_step + self.clock.step_of(position)

    def step_at(self, position: int) -> int:
        """The step that begins at `position`; PlanError unless that is one of this stage's step boundaries."""
        step = self.clock.step_of(position)
        if self.clock.position(step) != position or not 0 <= step <= self.steps:
            raise PlanError(f"{position:,} tokens is not a step boundary of this stage")
        return self.first_step + step

    def lr(self, step: int) -> float:
        """The learning rate of `step`: the curve's value at the position where the step ends, scaled by the batch."""
        return self.learning_rate.at(self.position_after(step)) * self.rate_factor(step)

    def rate_factor(self, step: int) -> float:
        """What the curve's rate is multiplied by for the batch of `step`: 1 without an exponent."""
        if self.rate_exponent is None or self.rate_batch is None:
            return 1.0
        return float((self.batch_of(step) / self.rate_batch) ** self.rate_exponent)

    def average_decay(self, step: int) -> float | None:
        """What `step` leaves of the moving average that is kept of the weights; None where none is kept."""
        half_life = self.optimizer.get("ema")
        return None if half_life is None else float(0.5 ** (self.tokens_of(step) / half_life))

    # --- the order ---------------------------------------------------------------------------------------

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.sources))

    def draws(self, step: int) -> Draws:
        """The draws of the slots of `step`; they do not depend on ranks or machine."""
        return self.draws_of(step, step + 1)

    def draws_of(self, first: int, last: int, slots: Callable[[int], Integers] | None = None) -> Draws:
        """The concatenated draws of steps `first` up to, not including, `last`; only of a batch's `slots` if given.

        Many steps at once cost little more than one: for a small batch most of the time is numpy's call overhead.
        """
        for step in (first, last - 1):
            if not self.first_step <= step < self.stop_step:
                raise PlanError(f"step {step:,} is not in this stage ({self.first_step:,} to {self.stop_step - 1:,})")
        parts = []
        for begin, end, batch in self.clock.parts(first - self.first_step, last - self.first_step):
            steps = np.arange(begin, end, dtype=np.int64)[:, None] + self.first_step
            slot = np.arange(batch, dtype=np.int64) if slots is None else slots(batch)
            parts.append(self.sequences_in(steps, slot).reshape(-1))
        return self.draws_at(parts[0] if len(parts) == 1 else np.concatenate(parts))

    def sequences_in(self, step: Integers, slot: Integers) -> Integers:
        """The number in the stage of the sequence that each `slot` of each `step` reads; the shapes broadcast."""
        batch = self.clock.batches(step - self.first_step) if self.batch_changes else self.batch_sequences
        return self.clock.sequences_before_each(step - self.first_step) + (slot + self.rotations(step)) % batch

    def rotations(self, step: Integers) -> Integers:
        """By how many slots each `step` rotates its sequences; the shape stays."""
        steps, inverse = np.unique(step, return_inverse=True)
        batch = self.clock.batches(steps - self.first_step) if self.batch_changes else self.batch_sequences
        return rotations(self.seed, steps, batch)[inverse].reshape(step.shape)

    def draws_at(self, sequence: Integers) -> Draws:
        """The draws of the stage's sequences numbered `sequence` (shape `[n]`)."""
        source = np.empty(sequence.shape, np.int32)
        item = np.empty(sequence.shape, np.int64)
        firsts = np.array([segment.first for segment in self.pieces], np.int64)
        for at, inside in positions_by_value(np.searchsorted(firsts, sequence, side="right") - 1):
            segment = self.pieces[at]
            in_mixer, ordinal = self.blends[segment.blend].mixer.draw(sequence[inside] - segment.first + segment.index)
            number, base = self._mixer_sources[segment.blend]
            source[inside] = number[in_mixer]
            item[inside] = base[in_mixer] + ordinal
        sources = [(name, self.sources[name]) for name in self.names]
        return Draws(self.names, source, item, *locate_items(sources, source, item, seed=self.seed))

    @cached_property
    def _mixer_sources(self) -> list[tuple[NDArray[np.int32], Integers]]:
        """For each phase, by its mixer's source numbers: the number of a source in `names`, and its `base`."""
        number = {name: at for at, name in enumerate(self.names)}
        return [
            (
                np.array([number[name] for name in phase.mixer.names], np.int32),
                np.array([phase.base.get(name, 0) for name in phase.mixer.names], np.int64),
            )
            for phase in self.blends
        ]

    def items(self, sequence: int) -> dict[str, int]:
        """Items of every source used by the lineage before the stage's sequence number `sequence`."""
        segment = next(segment for segment in reversed(self.pieces) if segment.first <= sequence)
        return self.blends[segment.blend].items(segment.index + sequence - segment.first)

    def mixture_spans(self, first: int = 0, stop: int | None = None) -> Iterator[tuple[MixtureSegment, int, int]]:
        """`(segment, begin, end)` of every mixture segment's sequences among `first` up to, not including, `stop`."""
        stop = self.sequences if stop is None else stop
        ends = [*(segment.first for segment in self.pieces[1:]), self.sequences]
        for segment, end in zip(self.pieces, ends, strict=True):
            begin, end = max(first, segment.first), min(stop, end)
            if begin < end:
                yield segment, begin, end

    def windows_read(self, position: int) -> dict[str, int]:
        """Windows of every source read since the root by `position` (a position inside this stage), exactly."""
        total = dict(self.read_before)
        for segment, begin, end in self.mixture_spans(stop=(position - self.start) // self.sequence_length):
            mixer = self.blends[segment.blend].mixer
            before, after = mixer.counts(segment.index), mixer.counts(segment.index + end - begin)
            for name, count in after.items():
                total[name] = total.get(name, 0) + count - before.get(name, 0)
        return dict(sorted(total.items()))

    # --- identity ----------------------------------------------------------------------------------------

    @cached_property
    def fingerprint(self) -> str:
        """Digest of everything that decides what is trained: all but labels, machine and cadence."""
        return self.history(self.end)

    def history(self, position: int) -> str:
        """Digest of everything that decided what was trained up to `position`, a step boundary of this stage.

        A change strictly ahead of `position` leaves it as it is.
        """
        steps = self.step_at(position) - self.first_step
        sequences = self.clock.sequences_before(steps)
        segments = [segment for segment in self.pieces if segment.first < max(sequences, 1)]
        phases = [self.blends[segment.blend] for segment in segments]
        names = {name for phase in phases for name in (*phase.weights, *(phase.before or ()))}
        items = self.items(sequences)
        sources = {
            name: replace(
                source,
                segments=tuple(s for s in source.segments if s.first_item < max(items.get(name, 0), 1)),
                reseeds=tuple(r for r in source.reseeds if r.first_item < items.get(name, 0)),
            )
            for name, source in self.sources.items()
            if name in names
        }
        value = {
            **fs.fields_of(self),
            "format": FORMAT,
            "steps": steps,
            "learning_rate": self.learning_rate.until(position),
            "pieces": [replace(segment, blend=at) for at, segment in enumerate(segments)],
            "blends": phases,
            "sources": sources,
        }
        del value["labels"]
        if self.batch_changes:
            value["batch_changes"] = [change for change in self.batch_changes if change.step < steps]
            if not value["batch_changes"]:
                del value["batch_changes"]
        return fs.digest(value)

    def with_text_of(self, stored: StagePlan) -> StagePlan:
        """This plan with the digests of unprepared text and tokenizer taken from a stored plan of the same stage."""
        sources = {
            name: replace(stored.sources[name], reseeds=source.reseeds)
            if name in stored.sources and any(segment.digest is None for segment in source.segments)
            else source
            for name, source in self.sources.items()
        }
        tokenizer = self.tokenizer if self.tokenizer.get("digest") else stored.tokenizer
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
                hint="finish the run with the version of curriculum that started it",
            )
        return fs.from_json(StagePlan, value, ignore_unknown=True)

    @staticmethod
    def load(path: Path) -> StagePlan:
        """Read a plan file; PlanError when it is not one, or was changed after it was written."""
        try:
            value = fs.read_sealed(path, {*StagePlan.__dataclass_fields__, "format", "fingerprint"})
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
        """Write the plan with its fingerprint, atomically; an existing file is an error unless `replace`."""
        fs.write_sealed(path, {**self.to_json(), "fingerprint": self.fingerprint}, replace=replace)
