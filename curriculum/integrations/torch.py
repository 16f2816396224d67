"""A stream as PyTorch datasets, samplers, a loader and a learning-rate schedule.

Nothing here keeps an order of its own: each object turns sample numbers into tokens, and resuming is another first
step. Ranks are given to `BatchSampler`, `Batches` or `Loader`; a wrapper that deals batches to ranks again is refused.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, get_worker_info

from curriculum.errors import PlanError
from curriculum.plan.ranks import require_rank, share_of_rank
from curriculum.stream import Stream

Integers = NDArray[np.int64]
Shape = Callable[[Integers], Any]


# --- what a trainer wants of the rows: `[n, L + 1]` tokens, L inputs and their shifted targets ----------------


def tokens(rows: Integers) -> torch.Tensor:
    """The rows as they are, `[n, L + 1]`."""
    return torch.from_numpy(rows)


def pair(rows: Integers) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets, `[n, L]` each, contiguous."""
    return torch.from_numpy(rows[:, :-1].copy()), torch.from_numpy(rows[:, 1:].copy())


def causal_lm(rows: Integers) -> dict[str, torch.Tensor]:
    """The keywords of a transformers model: `shift_labels` holds the targets, so that no target is lost."""
    inputs, targets = pair(rows)
    return {"input_ids": inputs, "labels": targets, "shift_labels": targets}


def megatron(rows: Integers) -> dict[str, torch.Tensor]:
    """The batch of Megatron's GPT: every token counts, positions run through the sequence."""
    inputs, targets = pair(rows)
    positions = torch.arange(inputs.shape[1]).expand_as(inputs).contiguous()
    mask = torch.ones(targets.shape)
    return {"tokens": inputs, "labels": targets, "loss_mask": mask, "position_ids": positions}


ROW_BY_ROW: Final = (tokens, pair, causal_lm, megatron)
"""Those whose item of many rows is the items of some rows put together."""
TOGETHER: Final = 2 << 20
"""Bytes of tokens that a loader's worker sends at once."""


def _split(item: Any, rows: int) -> list[Any]:
    """An item of many rows as items of `rows` each, which share its memory."""
    if isinstance(item, torch.Tensor):
        return list(torch.split(item, rows))
    if isinstance(item, dict):
        parts = zip(*(_split(value, rows) for value in item.values()), strict=True)
        return [dict(zip(item, values, strict=True)) for values in parts]
    return [type(item)(values) for values in zip(*(_split(value, rows) for value in item), strict=True)]


# --- datasets and samplers ----------------------------------------------------------------------------------


class SampleNumber(int):
    """A sample's number since the root, as `BatchSampler` gives it; a plain index counts from the dataset's first."""


class SampleNumbers(list[int]):
    """The numbers of samples that follow each other; a worker is sent the first and the last alone."""

    def __init__(self, numbers: range) -> None:
        super().__init__(map(SampleNumber, numbers))

    def __reduce__(self) -> tuple[Any, ...]:
        if self and self == [*(numbers := range(int(self[0]), int(self[-1]) + 1))]:
            return SampleNumbers, (numbers,)
        return list, ([*self],)  # somebody changed it


class Samples(Dataset[Any]):
    """The samples of the steps in [first_step, last_step), by index: item `i` is the `i`-th of them, in slot order.

    An item is `[L + 1]` tokens; `__getitems__`, which DataLoader calls, gives whole lists of items, in ascending order
    only: a sampler that shuffles is refused. Also a random-access source of Grain: `len`, `[index]` and `repr`.
    """

    def __init__(self, stream: Stream, first_step: int | None = None, last_step: int | None = None) -> None:
        self.stream = stream
        self.first_step = stream.first_step if first_step is None else first_step
        self.last_step = stream.last_step if last_step is None else last_step
        self.first_sample, self.last_sample = stream.sample(self.first_step), stream.sample(self.last_step)

    def __repr__(self) -> str:
        return f"<samples {self.first_sample:,} to {self.last_sample - 1:,} of {self.stream!r}>"

    def __len__(self) -> int:
        return self.last_sample - self.first_sample

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[torch.Tensor]:
        numbers = [i if isinstance(i, SampleNumber) else self.first_sample + i for i in indices]
        if numbers and not self.first_sample <= min(numbers) <= max(numbers) < self.last_sample:
            raise IndexError(f"there are {len(self):,} samples")
        if any(after <= before for before, after in pairwise(numbers)):
            raise PlanError(
                "samples were asked for in another order than the plan's", hint="`shuffle=False`, in every sampler"
            )
        return list(torch.from_numpy(self.stream.samples(numbers)))


class MicroBatches:
    """The sample numbers of one rank's micro-batches, in order, over the steps in [first_step, last_step).

    Without `world_size` the process must be the only rank: PlanError where torch.distributed or its launcher has more.
    """

    def __init__(
        self,
        stream: Stream,
        first_step: int | None = None,
        last_step: int | None = None,
        *,
        rank: int = 0,
        world_size: int | None = None,
        micro_batch: int | None = None,
    ) -> None:
        self.stream = stream
        self.first_step = stream.first_step if first_step is None else first_step
        self.last_step = stream.last_step if last_step is None else last_step
        self.is_only_rank = world_size is None
        self.rank, self.world_size, self.micro_batch = rank, world_size or 1, micro_batch
        if not stream.first_step <= self.first_step <= self.last_step <= stream.last_step:
            raise PlanError(
                f"steps {self.first_step:,} to {self.last_step:,} are not all in {stream!r}",
                hint="`first_step` is the next step to take, `last_step` the one after the last, from the root on",
            )
        require_rank(rank, self.world_size)
        self._require_only_rank()
        for stage in stream.stages:
            for _, batch in stage.batch_parts(self.first_step, self.last_step):
                share_of_rank(batch, self.world_size, micro_batch)

    def _require_only_rank(self) -> None:
        if self.is_only_rank and (ranks := ranks_here()) > 1:
            raise PlanError(
                f"there are {ranks} ranks, and each would read every sequence",
                hint="give `rank` and `world_size`; `world_size=1` where all of them are to read the same",
            )

    def __len__(self) -> int:
        count = 0
        for stage in self.stream.stages:
            for steps, batch in stage.batch_parts(self.first_step, self.last_step):
                share = batch // self.world_size
                count += steps * (share // (self.micro_batch or share))
        return count

    def __iter__(self) -> Iterator[tuple[range, int]]:
        """The sample numbers of each micro-batch, and the step to resume from once it was trained on."""
        self._require_only_rank()
        for step in range(self.first_step, self.last_step):
            share = self.stream.batch_size(step) // self.world_size
            size = self.micro_batch or share
            first = self.stream.sample(step) + self.rank * share
            for begin in range(first, first + share, size):
                numbers = range(begin, begin + size)
                yield numbers, step + (numbers.stop == first + share)


class BatchSampler(Sampler[list[int]]):
    """The lists of samples that one rank takes in turn, for `DataLoader(Samples(stream), batch_sampler=...)`.

    Each list is one micro-batch, whatever the batch of its step is.
    """

    def __init__(
        self,
        stream: Stream,
        first_step: int | None = None,
        last_step: int | None = None,
        *,
        rank: int = 0,
        world_size: int | None = None,
        micro_batch: int | None = None,
    ) -> None:
        self._micro_batches = MicroBatches(
            stream, first_step, last_step, rank=rank, world_size=world_size, micro_batch=micro_batch
        )

    def __len__(self) -> int:
        return len(self._micro_batches)

    def __iter__(self) -> Iterator[list[int]]:
        for numbers, _ in self._micro_batches:
            yield SampleNumbers(numbers)

    @property
    def batch_size(self) -> int:
        """Read by accelerate, Lightning and Fabric before they deal a sampler's batches to ranks again: PlanError."""
        raise dealt_again()


class Batches(IterableDataset[Any]):
    """One rank's micro-batches, for `DataLoader(..., batch_size=None)`; `shape` makes an item of `[n, L + 1]` tokens.

    With W workers, worker w reads every W-th micro-batch from the w-th on, and DataLoader takes them in turn: the order
    is the same for any number of workers.
    """

    def __init__(
        self,
        stream: Stream,
        first_step: int | None = None,
        last_step: int | None = None,
        *,
        rank: int = 0,
        world_size: int | None = None,
        micro_batch: int | None = None,
        shape: Shape = pair,
    ) -> None:
        self.micro_batches = MicroBatches(
            stream, first_step, last_step, rank=rank, world_size=world_size, micro_batch=micro_batch
        )
        self.shape = shape
        self.together = 0  # bytes of what a worker reads at once; 0: a micro-batch

    def __len__(self) -> int:
        return len(self.micro_batches)

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        for at, group in enumerate(self.groups()):
            if at % workers == number:
                numbers = np.concatenate([np.arange(part.start, part.stop) for part, _ in group])
                yield self.shape(self.micro_batches.stream.samples(numbers))

    def groups(self) -> Iterator[list[tuple[range, int]]]:
        """The micro-batches that are read together, in order: one, or as many of a size and a stage as `together` has.

        Each with the step to resume from once it was trained on.
        """
        group: list[tuple[range, int]] = []
        most, end = 1, 0
        for numbers, step in self.micro_batches:
            if group and (len(group) == most or len(numbers) != len(group[0][0]) or numbers.start >= end):
                yield group
                group = []
            if not group and self.together:
                stage = next(one for one in self.micro_batches.stream.stages if numbers.start < one.last_sample)
                most, end = max(1, self.together // (len(numbers) * stage.plan.sequence_length * 8)), stage.last_sample
            group.append((numbers, step))
        if group:
            yield group

    def set_epoch(self, epoch: int) -> None:
        """Called on every rank by accelerate's loaders before they read: PlanError where there are several ranks."""
        if ranks_here() > 1:
            raise dealt_again()

    @property
    def generator(self) -> None:
        """Read by accelerate before it deals an iterable dataset's items to ranks again: PlanError."""
        raise dealt_again()


def dealt_again() -> PlanError:
    return PlanError(
        "this already is one rank's part of the plan's order; dealing it to ranks again would change it",
        hint="give it `rank` and `world_size`; leave its loader out of `prepare()`, and let Lightning and Fabric "
        "inject no sampler: `use_distributed_sampler=False`",
    )


def ranks_here() -> int:
    """The ranks of torch.distributed or, before it is initialised, of the launcher that started this process."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    return int(os.environ.get("WORLD_SIZE", 1))


class Loader(DataLoader[Any]):
    """A DataLoader over `Batches` whose state is one number: the samples read since the root by whole steps.

    The state of a loader that has given out a part of a step is the beginning of that step. `load_state_dict` goes to
    the number's step, or to the loader's own first step if that is later. Its length stays that of all its steps.
    Its workers send several small micro-batches at once, which takes most of the time of sending each.
    """

    def __init__(self, batches: Batches, **options: Any) -> None:
        if not isinstance(batches, Batches):
            raise PlanError(
                f"`Loader` was given a {type(batches).__name__}, not `Batches`",
                hint="as in `Loader(Batches(stream, micro_batch=8), num_workers=2)`",
            )
        self._micro_batches = batches.micro_batches
        self._first_step = self._step = batches.micro_batches.first_step
        self._length = len(batches)
        self._batches = copy.copy(batches)
        if options.get("num_workers") and batches.shape in ROW_BY_ROW and options.get("collate_fn") is None:
            self._batches.together = TOGETHER
        super().__init__(self._batches, batch_size=None, **options)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Any:
        return self._counted(super().__iter__())

    def _counted(self, items: Iterator[Any]) -> Iterator[Any]:
        for group, item in zip(self._batches.groups(), items, strict=True):
            parts = [item] if len(group) == 1 else _split(item, len(group[0][0]))
            for (_, step), part in zip(group, parts, strict=True):
                self._step = step
                yield part

    def state_dict(self) -> dict[str, int]:
        return {"samples": self._micro_batches.stream.sample(self._step)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        stream, sample = self._micro_batches.stream, state["samples"]
        first, last = self._first_step, self._micro_batches.last_step
        step = first
        if sample > stream.sample(first):
            step = last if sample >= stream.sample(last) else stream.step_of(sample)
            if step < last and sample != stream.sample(step):
                raise PlanError(
                    f"sample {sample:,} is inside step {step:,}", hint="a loader's state is the beginning of a step"
                )
        self._micro_batches.first_step = self._step = step


# --- the learning rate --------------------------------------------------------------------------------------


class PlannedLR(LRScheduler):
    """The plan's learning rate: `step()` after each update; at `last_epoch` n the rate is that of step `start + n`.

    It sets the rate itself, whatever the optimizer was made with, for every parameter group. PlanError where it is
    stepped further than the stream goes, as when it is stepped at every micro-batch.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, stream: Stream, start: int = 0) -> None:
        self.stream, self.start = stream, start
        super().__init__(optimizer)

    def get_lr(self) -> list[float | torch.Tensor]:
        step = self.start + self.last_epoch
        if step > self.stream.last_step:
            raise PlanError(
                f"the learning rate was asked for step {step:,}, but the last one is {self.stream.last_step - 1:,}",
                hint="step the schedule once an update, not once a micro-batch; `start` is the first update's step",
            )
        rate = self.stream.lr(min(max(step, self.stream.first_step), self.stream.last_step - 1))
        return [rate] * len(self.optimizer.param_groups)

    def state_dict(self) -> dict[str, Any]:
        return {"last_epoch": self.last_epoch, "start": self.start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.start, self.last_epoch = state_dict["start"], state_dict["last_epoch"]
        self._last_lr = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate


def any_rank(flag: bool) -> bool:
    """Whether `flag` is set on any rank of torch.distributed; the flag itself where that is not initialised."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return flag
    device = torch.device("cuda") if torch.distributed.get_backend() == "nccl" else torch.device("cpu")
    raised = torch.tensor(int(flag), device=device)
    torch.distributed.all_reduce(raised, torch.distributed.ReduceOp.MAX)
    return bool(raised)
