"""The order of a lineage as steps and as numbered samples, for a training loop of any kind.

Steps are optimizer updates and samples are sequences, both counted from the curriculum's root, from 0; the samples of a
step are in slot order. One number, the step or the sample, is all the state there is: it means the same for every
stage, batch size, rank and worker.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from curriculum import fs
from curriculum.data.dataset import Dataset
from curriculum.errors import PlanError
from curriculum.plan.arrays import positions_by_value
from curriculum.plan.ranks import require_rank, share_of_rank
from curriculum.plan.stage import StagePlan
from curriculum.stream import reader
from curriculum.stream.batch import Batch, witness
from curriculum.stream.samples import SampleReader
from curriculum.units import show_exact


@dataclass(frozen=True)
class StreamStage:
    """One stage of a stream: the steps in [first_step, last_step).

    `folders` are those of its sources' prepared text.
    """

    name: str
    plan: StagePlan
    last_step: int
    folders: Mapping[str, str]

    @property
    def first_step(self) -> int:
        return self.plan.first_step

    @property
    def batch_size(self) -> int:
        """Sequences of every step; PlanError where they change inside the stage."""
        sizes = {batch for _, batch in self.batch_parts(self.first_step, self.last_step)}
        if len(sizes) > 1:
            raise PlanError(
                f"the batch of `{self.name}` changes from {min(sizes):,} to {max(sizes):,} sequences inside it",
                hint="`stream.batch_size(step)` has that of a step",
            )
        return sizes.pop()

    @cached_property
    def first_sample(self) -> int:
        """Sequences read since the root before the stage."""
        return sum(self.plan.read_before.values())

    @property
    def last_sample(self) -> int:
        return self.sample(self.last_step)

    def batch_parts(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """`(steps, batch)` of each part of the stage's steps in [first, last) that has one batch."""
        first, last = max(first, self.first_step), min(last, self.last_step)
        for begin, end, batch in self.plan.clock.parts(first - self.first_step, last - self.first_step):
            yield end - begin, batch

    def sample(self, step: int) -> int:
        """The number of the first sample of `step`, counted from the root."""
        return self.first_sample + self.plan.clock.sequences_before(step - self.first_step)

    @cached_property
    def datasets(self) -> dict[str, Dataset]:
        """The opened sources; DataError where the text is not the one that the plan was made for."""
        return reader.open_sources(self.plan, self.folders)

    @cached_property
    def sample_reader(self) -> SampleReader:
        return SampleReader(self.plan, self.datasets)

    def __getstate__(self) -> dict[str, Any]:
        return {name: vars(self)[name] for name in ("name", "plan", "last_step", "folders")}


class Stream:
    """The tokens and learning rates of a lineage or of one stage of it.

    Pickles as plans and paths; a process opens the files when it first reads. `last_step` and `last_sample` are the
    first that are no longer in it.
    """

    def __init__(self, stages: tuple[StreamStage, ...]) -> None:
        self.stages = stages
        self.first_step, self.last_step = stages[0].first_step, stages[-1].last_step
        self.first_sample, self.last_sample = stages[0].first_sample, stages[-1].last_sample
        self.names = tuple(sorted({name for stage in stages for name in stage.plan.names}))
        self.vocab_size = int(stages[-1].plan.model["vocab_size"])
        eos = stages[-1].plan.tokenizer.get("eos")
        self.eos_id = None if eos is None else int(eos)

    def __repr__(self) -> str:
        names = " -> ".join(stage.name for stage in self.stages)
        return f"<stream of {names}: steps {self.first_step:,} to {self.last_step - 1:,}>"

    @property
    def sequence_length(self) -> int:
        """Inputs of a sample; PlanError where the stages differ in it."""
        lengths = sorted({stage.plan.sequence_length for stage in self.stages})
        if len(lengths) > 1:
            raise PlanError(
                f"the stages have sequences of {' and '.join(map(str, lengths))} tokens",
                hint="take them one by one: `stream.stage(NAME)`",
            )
        return lengths[0]

    @cached_property
    def fingerprint(self) -> str:
        """A digest of all that decides what is read and at which learning rates."""
        return fs.digest([self.first_step, self.stages[-1].plan.history(self.position(self.last_step))])

    def stage(self, name: str) -> Stream:
        """The part that stage `name` trains: `CURRICULUM/STAGE`, or the stage alone where that names one."""
        matches = [stage for stage in self.stages if name in (stage.name, stage.name.rpartition("/")[2])]
        if len(matches) != 1:
            raise PlanError(
                f"{'several stages are' if matches else 'there is no stage'} named `{name}`",
                hint=f"the stages: {', '.join(stage.name for stage in self.stages)}",
            )
        return Stream((matches[0],))

    # --- the clock ---------------------------------------------------------------------------------------

    def batch_size(self, step: int) -> int:
        """Sequences of `step` over all ranks."""
        return self._of_step(step).plan.batch_of(step)

    def lr(self, step: int) -> float:
        return self._of_step(step).plan.lr(step)

    def position(self, step: int) -> int:
        """Tokens since the root before `step`, which may be `last_step`."""
        plan = self._of_step(step, end=True).plan
        return plan.position_after(step - 1)

    def step_at(self, position: int) -> int:
        """The step that begins at `position`, a step boundary."""
        for stage in self.stages:
            if stage.plan.start <= position < stage.plan.position_after(stage.last_step - 1):
                return stage.plan.step_at(position)
        if position == self.position(self.last_step):
            return self.last_step
        raise PlanError(f"position {position:,} is not in {self!r}")

    def sample(self, step: int) -> int:
        """The number of the first sample of `step`, which may be `last_step`."""
        stage = self._of_step(step, end=True)
        return stage.sample(step)

    def step_of(self, sample: int) -> int:
        """The step that reads sample number `sample`."""
        stage = self.stages[int(self._stage_of_samples(np.array([sample], np.int64))[0])]
        return stage.first_step + stage.plan.clock.step_of_sequence(int(sample) - stage.first_sample)

    # --- the tokens --------------------------------------------------------------------------------------

    def batch(self, step: int, *, rank: int = 0, world_size: int = 1) -> Batch:
        """What `rank` of `world_size` data-parallel ranks reads in `step`: a contiguous part of its slots."""
        stage = self._of_step(step)
        return reader.read(stage.plan, stage.datasets, step, rank, world_size)

    def batches(
        self,
        start: int | None = None,
        stop: int | None = None,
        *,
        rank: int = 0,
        world_size: int = 1,
        micro_batch: int | None = None,
        groups: Mapping[int, int] | None = None,
        read_ahead: bool = True,
    ) -> Generator[Batch, None, None]:
        """The steps from `start` up to, not including, `stop`, in order, in micro-batches of `micro_batch` sequences.

        To resume is to begin at another `start`. With `read_ahead` a thread reads. `groups`, by batch, is into how
        many groups of neighbouring slots a step is cut; a rank then takes every `world_size`-th of them and not one
        contiguous part. PlanError, before anything is read, where a step's batch does not divide.
        """
        start, stop = self.first_step if start is None else start, self.last_step if stop is None else stop
        if not self.first_step <= start <= stop <= self.last_step:
            raise PlanError(f"steps {start:,} to {stop:,} are not all in {self!r}")
        require_rank(rank, world_size)
        parts = []
        for stage in self.stages:
            first, last = max(start, stage.first_step), min(stop, stage.last_step)
            if first < last:
                for _, batch in stage.batch_parts(first, last):
                    share_of_rank(batch, world_size, micro_batch)
                parts.append((stage, first, last, micro_batch))
        return self._batches(parts, rank, world_size, groups, read_ahead)

    def _batches(
        self,
        parts: list[tuple[StreamStage, int, int, int | None]],
        rank: int,
        world_size: int,
        groups: Mapping[int, int] | None,
        read_ahead: bool,
    ) -> Generator[Batch, None, None]:
        for stage, first, last, micro_batch in parts:
            read = reader.batches(
                stage.plan,
                stage.datasets,
                first_step=first,
                last_step=last,
                rank=rank,
                ranks=world_size,
                groups=groups,
                read_ahead=read_ahead,
            )
            with contextlib.closing(read):
                for batch in read:
                    if micro_batch is None or len(batch.tokens) == micro_batch:
                        yield batch
                    else:
                        yield from batch.micro_batches(micro_batch)

    def samples(self, numbers: ArrayLike) -> NDArray[np.int64]:
        """The tokens of numbered samples, in any order: `[n, sequence_length + 1]`; many at once cost far less each."""
        number = np.asarray(numbers).reshape(-1)
        if number.size and number.dtype.kind not in "iu":
            raise PlanError(
                f"{number[0]} is no sample number", hint="samples are counted in whole numbers from the root"
            )
        number = number.astype(np.int64, copy=False)
        stages = self._stage_of_samples(number)
        if number.size and (len(self.stages) == 1 or stages.min() == stages.max()):  # not copied together
            return self._read_samples(self.stages[int(stages[0])], number)
        tokens = np.empty((len(number), self.sequence_length + 1), np.int64)
        for at, rows in positions_by_value(stages):
            tokens[rows] = self._read_samples(self.stages[at], number[rows])
        return tokens

    def _read_samples(self, stage: StreamStage, number: NDArray[np.int64]) -> NDArray[np.int64]:
        return stage.sample_reader(number - stage.first_sample)

    def witness(self, step: int) -> int:
        """The digest of the inputs of `step`, whatever their order: see `curriculum.stream.witness`."""
        return witness(self.batch(step).inputs)

    def _of_step(self, step: int, *, end: bool = False) -> StreamStage:
        if end and step == self.last_step:
            return self.stages[-1]
        if not self.first_step <= step < self.last_step:
            raise PlanError(f"step {show_exact(step)} is not in {self!r}", hint="steps are counted from the root")
        return self.stages[bisect_right([stage.first_step for stage in self.stages], step) - 1]

    def _stage_of_samples(self, number: NDArray[np.int64]) -> NDArray[np.int64]:
        if number.size and (number.min() < self.first_sample or number.max() >= self.last_sample):
            raise PlanError(
                f"samples {number.min():,} to {number.max():,} are not all in {self!r}",
                hint=f"it has the samples {self.first_sample:,} to {self.last_sample - 1:,}, counted from the root",
            )
        return np.searchsorted([stage.first_sample for stage in self.stages], number, side="right") - 1


def load(plan: Path | str, data: Mapping[str, Path | str]) -> Stream:
    """The stream of a plan.json, without its project; `data` names the folder of prepared text of each source."""
    path = Path(plan)
    stage = StagePlan.load(path)
    missing = sorted(set(stage.names) - set(data))
    if missing:
        raise PlanError(f"`{path}` reads `{missing[0]}`, for which no folder is given", hint="name it in `data`")
    folders = {name: str(data[name]) for name in stage.names}
    return Stream((StreamStage(path.parent.name, stage, stage.stop_step, folders),))
