"""The tokens of numbered samples; where they are asked for in ascending order, many are located at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from curriculum.data.dataset import Dataset, gather
from curriculum.plan.arrays import Integers
from curriculum.plan.stage import StagePlan
from curriculum.stream.reader import Located, locate

MOST: Final = 1 << 14
"""Samples located together at most, 16 bytes each. For few of them most of the time is numpy's call overhead."""


class SampleReader:
    """The tokens of a stage's samples, by their number in the stage, from 0.

    A request that continues the last one, as those of a DataLoader's worker do, is answered from samples located
    ahead, twice as many each time; any other request is located alone. What is read does not depend on that.
    """

    def __init__(self, plan: StagePlan, datasets: Mapping[str, Dataset]) -> None:
        self._plan, self._datasets = plan, datasets
        self._ahead: tuple[int, Located] | None = None
        self._expected, self._count = 0, 1

    def __call__(self, number: Integers) -> Integers:
        """The samples `number` (shape `[n]`, n >= 1, each below `plan.sequences`): `[n, sequence_length + 1]`."""
        shards, shard, window = self._located(number)
        return next(gather(shards, shard, window, len(number)))

    def _located(self, number: Integers) -> Located:
        first, end = int(number.min()), int(number.max()) + 1
        begin, ahead = self._ahead or (0, None)
        if ahead is None or first < begin or begin + len(ahead[1]) < end:
            if not 0 <= first - self._expected < MOST or end - first > MOST:
                self._expected, self._count = end, end - first
                return self._locate(number)
            self._count = min(2 * max(self._count, end - first), MOST)
            stop = min(first + max(self._count, end - first), self._plan.sequences)
            begin, ahead = first, self._locate(np.arange(first, stop, dtype=np.int64))
            self._ahead = begin, ahead
        self._expected = end
        rows, (shards, shard, window) = number - begin, ahead
        return shards, shard[rows], window[rows]

    def _locate(self, number: Integers) -> Located:
        plan = self._plan
        step = plan.clock.steps_of_sequences(number)
        slot = number - plan.clock.sequences_before_each(step)
        return locate(self._datasets, plan.draws_at(plan.sequences_in(step + plan.first_step, slot)))
