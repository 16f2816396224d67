"""The tokens of each step, assembled ahead of the loop by one thread. There is no state to save.

1. `plan.draws_of(steps)` names source and window of this rank's slots, for many small steps at once.
2. Each source's memory-mapped shards give views of the windows, which one call copies and widens.
3. While the loop is busy a thread keeps the next batches ready; the loop takes them in order.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curriculum.data.dataset import Dataset, gather
from curriculum.data.shard import MappedShard
from curriculum.errors import DataError, PlanError
from curriculum.plan.arrays import positions_by_value
from curriculum.plan.ranks import share_of_rank
from curriculum.plan.stage import Draws, StagePlan

Integers = NDArray[np.int64]

AHEAD = 2
PAUSE = 0.005
"""Seconds for which the loop must be busy before the thread reads ahead: small beside any training step."""
TOKENS_READ = 1 << 18
"""Steps are read together up to this many tokens: a lone small one would cost more in calls than in copying."""
SEQUENCES_DRAWN = 1 << 14
"""And drawn together up to this many sequences, for the same reason: 25 bytes each."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One rank's slots of a step: `tokens` has shape `[slots, sequence_length + 1]`, `source` indexes `names`.

    `bounds` says where documents begin in the inputs (`document_bounds`), where the plan keeps them apart.
    """

    step: int
    tokens: NDArray[np.int64]
    source: NDArray[np.int32]
    names: tuple[str, ...]
    bounds: NDArray[np.int32] | None = None

    def bounds_of(self, begin: int, end: int) -> NDArray[np.int32] | None:
        """`bounds` of the slots from `begin` up to but not including `end`, laid end to end."""
        if self.bounds is None:
            return None
        length = self.tokens.shape[1] - 1
        first, last = np.searchsorted(self.bounds, (begin * length, end * length))
        return self.bounds[first : last + 1] - np.int32(begin * length)


def slots_of(batch: int, rank: int, ranks: int, groups: int | None = None) -> NDArray[np.int64]:
    """The slots of a step that `rank` takes, in its order: a contiguous part, or every `ranks`-th of `groups` parts."""
    share_of_rank(batch, ranks)
    return np.arange(batch, dtype=np.int64).reshape(groups or ranks, -1)[rank::ranks].reshape(-1)


def open_sources(plan: StagePlan, folders: Mapping[str, str]) -> dict[str, Dataset]:
    """The prepared text of every source of the plan; DataError when it is not the text the plan was made for."""
    datasets, mark = {}, document_mark(plan)
    for name, source in plan.sources.items():
        dataset = Dataset.open(
            Path(folders[name]),
            split="train",
            sequence_length=plan.sequence_length,
            vocab_size=int(plan.model["vocab_size"]),
            tokenizer_digest=plan.tokenizer.get("digest"),
        )
        for segment in source.segments:
            if segment.digest is not None and segment.digest not in dataset.digests:
                raise DataError(
                    f"the text in `{folders[name]}` is not the text that the plan of `{name}` was made for",
                    hint="put the prepared text back; `curriculum verify` names every difference",
                )
            if segment.stop_window > dataset.windows:
                raise DataError(
                    f"`{folders[name]}` holds {dataset.windows:,} windows, the plan of `{name}` reads "
                    f"{segment.stop_window:,}",
                    hint="prepare the text again with `curriculum prepare`",
                )
        if mark is not None and dataset.manifest.policy.eos != mark:
            raise DataError(
                f"`mask_documents` needs the end of every document marked by token {mark}, which the text in "
                f"`{folders[name]}` does not do",
                hint="prepare the text again with `curriculum prepare`, or leave `mask_documents` out",
            )
        datasets[name] = dataset
    return datasets


def read(
    plan: StagePlan,
    datasets: Mapping[str, Dataset],
    step: int,
    rank: int,
    ranks: int,
    groups: int | None = None,
) -> Batch:
    """The batch of `step` for `rank` of `ranks`; together the ranks' slots are the step's, whatever `ranks` is."""
    slots = slots_of(plan.batch_sequences, rank, ranks, groups)
    return next(read_steps(plan, datasets, step, step + 1, slots))[0]


def read_steps(
    plan: StagePlan, datasets: Mapping[str, Dataset], first: int, last: int, slots: Integers
) -> Iterator[list[Batch]]:
    """The `slots` of the steps from `first` up to but not including `last`, several steps together if small.

    The first comes alone, so that it is there at once; what is drawn together then doubles.
    """
    drawn_at_once = max(1, SEQUENCES_DRAWN // len(slots))
    read_at_once = max(1, TOKENS_READ // (len(slots) * plan.sequence_length))
    begin, drawn = first, 1
    while begin < last:
        end = min(begin + drawn, last)
        draws = plan.draws_of(begin, end, slots)
        rows = read_at_once * len(slots)
        for at, tokens in enumerate(gather(*_locate(datasets, draws), rows)):
            step = begin + at * read_at_once
            steps = range(step, min(step + read_at_once, end))
            yield _batches(plan, steps, tokens, draws.source[at * rows : (at + 1) * rows])
        begin, drawn = end, min(2 * drawn, drawn_at_once)


def _locate(datasets: Mapping[str, Dataset], draws: Draws) -> tuple[list[MappedShard], Integers, Integers]:
    """The shards that are drawn from, and for every slot the number of its shard and its window in there."""
    shards: list[MappedShard] = []
    shard, window = np.empty_like(draws.window), np.empty_like(draws.window)
    for number, mine in positions_by_value(draws.source):
        dataset = datasets[draws.names[number]]
        at, window[mine] = dataset.locate(draws.window[mine])
        shard[mine] = at + len(shards)
        shards += dataset.mapped
    return shards, shard, window


def _batches(plan: StagePlan, steps: range, tokens: Integers, source: NDArray[np.int32]) -> list[Batch]:
    """The batches of `steps`, whose slots lie end to end in `tokens` and `source`."""
    mark, share = document_mark(plan), len(tokens) // len(steps)
    batches = []
    for at, step in enumerate(steps):
        mine = slice(at * share, (at + 1) * share)
        bounds = None if mark is None else document_bounds(tokens[mine], mark)
        batches.append(Batch(step, tokens[mine], source[mine], plan.names, bounds))
    return batches


def document_mark(plan: StagePlan) -> int | None:
    """The token that ends a document, where the plan keeps documents apart; None where it does not.

    PlanError when it does, but its tokenizer has no such token.
    """
    if not plan.mask_documents:
        return None
    mark = plan.tokenizer.get("eos")
    if mark is None:
        raise PlanError(
            "`mask_documents` keeps documents apart, but this tokenizer marks no document's end",
            hint="leave `mask_documents` out of the stage file, or take a tokenizer with an end-of-text token",
        )
    return int(mark)


def document_bounds(tokens: NDArray[np.int64], mark: int) -> NDArray[np.int32]:
    """Where documents begin in the inputs of `tokens` (`[n, sequence_length + 1]`) laid end to end, and their end.

    `mark` ends a document, and so does a sequence's end. Often called `cu_seqlens`; shape `[documents + 1]`.
    """
    begins = np.ones((len(tokens), tokens.shape[1] - 1), bool)
    np.equal(tokens[:, :-2], mark, out=begins[:, 1:])
    return np.append(np.flatnonzero(begins), begins.size).astype(np.int32)


def batches(
    plan: StagePlan,
    datasets: Mapping[str, Dataset],
    *,
    first_step: int,
    last_step: int,
    rank: int = 0,
    ranks: int = 1,
    groups: int | None = None,
) -> Generator[Batch, None, None]:
    """Batches of the half-open range of steps, in order; an error of the reading is raised when its batch is due.

    One thread reads ahead, at most `AHEAD` times what is read at once, while the loop is busy. A loop that asks
    before anything is ready, or sooner than `PAUSE` after it last asked, reads for itself: so the thread never
    costs more than it saves. Closing the batches ends the thread.
    """
    source = read_steps(
        plan, datasets, first_step, last_step, slots_of(plan.batch_sequences, rank, ranks, groups)
    )
    ready: deque[list[Batch] | BaseException | None] = deque()
    reading = threading.Lock()  # whoever holds it takes the next of `source`
    taken, over = threading.Event(), threading.Event()

    def next_ready() -> list[Batch] | BaseException | None:
        try:
            return next(source, None)
        except BaseException as error:
            return error

    def read_ahead() -> None:
        while not over.is_set():
            taken.wait()
            taken.clear()
            over.wait(PAUSE)
            while len(ready) < AHEAD and not taken.is_set() and not over.is_set():
                with reading:
                    ready.append(next_ready())

    thread = threading.Thread(target=read_ahead, name="batches", daemon=True)
    thread.start()
    try:
        while True:
            if not ready:
                with reading:
                    if not ready:
                        ready.append(next_ready())
            item = ready.popleft()
            taken.set()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield from item
    finally:
        over.set()
        taken.set()
        thread.join()
