"""A stage's clock: which step begins where, and which sequences it reads, with a batch that may grow inside the stage.

Steps and sequences count from the stage's start, positions are tokens from the root. Between two changes of the batch
everything is a division, so any step or position is found without a visit of those before it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from curriculum.plan.arrays import Integers


@dataclass(frozen=True, slots=True)
class BatchChange:
    """From the stage's step number `step` on (0: its first) a step takes `sequences`."""

    step: int
    sequences: int


@dataclass(frozen=True)
class BatchClock:
    """Steps of `changes[0].sequences` sequences from position `start` on, until the next of `changes`."""

    start: int
    sequence_length: int
    changes: tuple[BatchChange, ...]

    def __post_init__(self) -> None:
        steps = [change.step for change in self.changes]
        if not steps or steps[0] != 0 or any(a >= b for a, b in pairwise(steps)):
            raise ValueError(f"changes of a batch begin at step 0 and follow each other, not at the steps {steps}")
        if any(change.sequences < 1 for change in self.changes):
            raise ValueError("a batch has at least one sequence")

    @cached_property
    def _steps(self) -> list[int]:
        return [change.step for change in self.changes]

    @cached_property
    def _sequences(self) -> list[int]:
        """The sequences before each change."""
        counts = [0]
        for change, after in pairwise(self.changes):
            counts.append(counts[-1] + (after.step - change.step) * change.sequences)
        return counts

    @property
    def grows(self) -> bool:
        return len(self.changes) > 1

    def batch(self, step: int) -> int:
        """Sequences of `step`."""
        return self.changes[self._at_step(step)].sequences

    def sequences_before(self, step: int) -> int:
        """The number of the first sequence of `step`."""
        at = self._at_step(step)
        return self._sequences[at] + (step - self.changes[at].step) * self.changes[at].sequences

    def position(self, step: int) -> int:
        """Where `step` begins."""
        return self.start + self.sequences_before(step) * self.sequence_length

    def step_of(self, position: int) -> int:
        """The step that reads the token at `position`."""
        return self.step_of_sequence((position - self.start) // self.sequence_length)

    def step_from(self, position: int) -> int:
        """The first step that begins at or past `position`."""
        step = self.step_of(position)
        return step if self.position(step) >= position else step + 1

    def step_of_sequence(self, sequence: int) -> int:
        """The step that reads the sequence."""
        at = max(0, bisect_right(self._sequences, sequence) - 1)
        return self.changes[at].step + (sequence - self._sequences[at]) // self.changes[at].sequences

    def steps_of_sequences(self, sequences: Integers) -> Integers:
        """`step_of_sequence` of each; the shape stays."""
        if not self.grows:
            return sequences // self.changes[0].sequences
        at = np.maximum(np.searchsorted(np.array(self._sequences), sequences, side="right") - 1, 0)
        first = np.array(self._steps, np.int64)[at]
        batch = np.array([change.sequences for change in self.changes], np.int64)[at]
        steps: Integers = first + (sequences - np.array(self._sequences, np.int64)[at]) // batch
        return steps

    def sequences_before_each(self, steps: Integers) -> Integers:
        """`sequences_before` of each step; the shape stays."""
        if not self.grows:
            return steps * self.changes[0].sequences
        at = np.maximum(np.searchsorted(np.array(self._steps), steps, side="right") - 1, 0)
        inside = (steps - np.array(self._steps, np.int64)[at]) * self.batches(steps)
        return np.array(self._sequences, np.int64)[at] + inside

    def batches(self, steps: Integers) -> Integers:
        """The batch of each step; the shape stays."""
        at = np.maximum(np.searchsorted(np.array(self._steps), steps, side="right") - 1, 0)
        sequences: Integers = np.array([change.sequences for change in self.changes], np.int64)[at]
        return sequences

    def parts(self, first: int, last: int) -> Iterator[tuple[int, int, int]]:
        """`(begin, end, batch)` of the ranges of the steps `first` up to, not including, `last` with one batch."""
        ends = [*self._steps[1:], max(last, self._steps[-1])]
        for change, end in zip(self.changes, ends, strict=True):
            begin, stop = max(first, change.step), min(last, end)
            if begin < stop:
                yield begin, stop, change.sequences

    def _at_step(self, step: int) -> int:
        return max(0, bisect_right(self._steps, step) - 1)


def batch_clock(
    start: int, sequence_length: int, batch: int, levels: Sequence[tuple[int, int]], declared_end: int
) -> tuple[BatchClock, int]:
    """The clock of a stage and its number of steps: the last is the first that ends at or past `declared_end`.

    `levels` are `(position, batch)`, ascending: from the first step boundary at or past the position on, that batch.
    Of levels that are reached at one boundary the last counts.
    """
    changes = [BatchChange(0, batch)]
    for position, sequences in levels:
        clock = BatchClock(start, sequence_length, tuple(changes))
        step = max(clock.step_from(position), changes[-1].step)
        if clock.position(step) >= declared_end:
            break
        if changes[-1].step == step:
            changes.pop()
        if not changes or changes[-1].sequences != sequences:
            changes.append(BatchChange(step, sequences))
    clock = BatchClock(start, sequence_length, tuple(changes))
    return clock, clock.step_from(declared_end)
