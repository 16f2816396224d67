"""The tokens of each step, assembled ahead of the loop by one thread. There is no state to save.

1. `plan.draws_of(steps)` names source and window of this rank's slots, for many small steps at once.
2. Each source's memory-mapped shards give views of the windows, which one call copies and widens.
3. While the loop is busy a thread keeps the next batches ready; the loop takes them in order.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curriculum.data.dataset import Dataset, gather
from curriculum.data.shard import MappedShard
from curriculum.errors import DataError
from curriculum.plan.arrays import positions_by_value
from curriculum.plan.ranks import require_rank, share_of_rank
from curriculum.plan.stage import Draws, StagePlan
from curriculum.stream.batch import Batch, document_bounds, document_end

Integers = NDArray[np.int64]
SlotsOf = Callable[[int], Integers]
"""The slots that a rank takes, in its order, of a step of so many sequences."""
Located = tuple[list[MappedShard], Integers, Integers]

AHEAD = 2
PAUSE = 0.005
"""Seconds for which the loop must be busy before the thread reads ahead: short compared with any training step."""
TOKENS_READ = 1 << 18
"""Steps are read together up to this many tokens: a single small one would cost more in calls than in copying."""
SEQUENCES_DRAWN = 1 << 14
"""And drawn together up to this many sequences, for the same reason: 25 bytes each."""


def slots_of(batch: int, rank: int, ranks: int, groups: int | None = None) -> NDArray[np.int64]:
    """The slots of a step that `rank` takes, in its order: one contiguous share, or every `ranks`-th of `groups`."""
    share_of_rank(batch, ranks)
    require_rank(rank, ranks)
    return np.arange(batch, dtype=np.int64).reshape(groups or ranks, -1)[rank::ranks].reshape(-1)


def slots_by_batch(rank: int, ranks: int, groups: Mapping[int, int] | None = None) -> SlotsOf:
    """`slots_of` for the batch of a step; `groups` are those of each batch."""
    return lambda batch: slots_of(batch, rank, ranks, groups[batch] if groups is not None else None)


def open_dataset(plan: StagePlan, folder: str, split: str) -> Dataset:
    """A split of prepared text, checked against the plan's tokenizer and vocabulary; DataError as `Dataset.open`."""
    return Dataset.open(
        Path(folder),
        split=split,
        sequence_length=plan.sequence_length,
        vocab_size=int(plan.model["vocab_size"]),
        tokenizer_digest=plan.tokenizer.get("digest"),
    )


def open_sources(plan: StagePlan, folders: Mapping[str, str]) -> dict[str, Dataset]:
    """The prepared text of every source of the plan; DataError when it is not the text the plan was made for."""
    datasets, eos, used = {}, document_end(plan), plan.items(0)
    for name, source in plan.sources.items():
        dataset = open_dataset(plan, folders[name], "train")
        for segment in source.segments:
            if segment.digest is not None and segment.digest not in dataset.digests:
                raise DataError(
                    f"the text in `{folders[name]}` is not the text that the plan of `{name}` was made for",
                    hint="put the prepared text back; `curriculum verify` names every difference",
                )
        # Segments that earlier stages read to their end may count windows of another length.
        most = max(segment.stop_window for segment in source.segments_from(used.get(name, 0)))
        if most > dataset.windows:
            raise DataError(
                f"`{folders[name]}` holds {dataset.windows:,} windows, the plan of `{name}` reads {most:,}",
                hint="prepare the text again with `curriculum prepare`",
            )
        if eos is not None and dataset.manifest.policy.eos != eos:
            raise DataError(
                f"`mask_documents` needs the end of every document marked by token {eos}, which the text in "
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
    groups: Mapping[int, int] | None = None,
) -> Batch:
    """The batch of `step` for `rank` of `ranks`; together the ranks' slots are the step's, whatever `ranks` is."""
    return next(read_steps(plan, datasets, step, step + 1, slots_by_batch(rank, ranks, groups)))[0]


def read_steps(
    plan: StagePlan, datasets: Mapping[str, Dataset], first: int, last: int, slots: SlotsOf
) -> Iterator[list[Batch]]:
    """The `slots` of the steps in [first, last), several steps together if small.

    The first comes alone, so that it is ready at once; the number drawn together then doubles.
    """
    drawn = 1
    for start, stop, batch in plan.clock.parts(first - plan.first_step, last - plan.first_step):
        share = len(slots(batch))
        drawn_at_once = max(1, SEQUENCES_DRAWN // share)
        read_at_once = max(1, TOKENS_READ // (share * plan.sequence_length))
        begin, end_of_part = start + plan.first_step, stop + plan.first_step
        drawn = min(drawn, drawn_at_once)
        while begin < end_of_part:
            end = min(begin + drawn, end_of_part)
            draws = plan.draws_of(begin, end, slots)
            rows = read_at_once * share
            for at, tokens in enumerate(gather(*locate(datasets, draws), rows)):
                step = begin + at * read_at_once
                steps = range(step, min(step + read_at_once, end))
                yield _batches(plan, steps, tokens, draws.source[at * rows : (at + 1) * rows])
            begin, drawn = end, min(2 * drawn, drawn_at_once)


def locate(datasets: Mapping[str, Dataset], draws: Draws) -> Located:
    """The shards of the draws, and for every slot the number of its shard and its window in that shard."""
    shards: list[MappedShard] = []
    shard, window = np.empty_like(draws.window), np.empty_like(draws.window)
    for number, rows in positions_by_value(draws.source):
        dataset = datasets[draws.names[number]]
        at, window[rows] = dataset.locate(draws.window[rows])
        shard[rows] = at + len(shards)
        shards += dataset.mapped
    return shards, shard, window


def _batches(plan: StagePlan, steps: range, tokens: Integers, source: NDArray[np.int32]) -> list[Batch]:
    """The batches of `steps`, whose slots are concatenated in `tokens` and `source`."""
    eos, share = document_end(plan), len(tokens) // len(steps)
    batches = []
    for at, step in enumerate(steps):
        rows = slice(at * share, (at + 1) * share)
        bounds = None if eos is None else document_bounds(tokens[rows], eos)
        batches.append(Batch(step, plan.lr(step), tokens[rows], source[rows], plan.names, bounds))
    return batches


def batches(
    plan: StagePlan,
    datasets: Mapping[str, Dataset],
    *,
    first_step: int,
    last_step: int,
    rank: int = 0,
    ranks: int = 1,
    groups: Mapping[int, int] | None = None,
    read_ahead: bool = True,
) -> Generator[Batch, None, None]:
    """Batches of the steps in [first_step, last_step), in order; a read error is raised when its batch is due.

    One thread reads ahead, at most `AHEAD` reads, while the loop is busy. A loop that takes a batch before one is
    ready, or sooner than `PAUSE` after the last, reads itself: so the thread never costs more than it saves. Closing
    the generator ends the thread.
    """
    source = read_steps(plan, datasets, first_step, last_step, slots_by_batch(rank, ranks, groups))
    if not read_ahead:
        yield from itertools.chain.from_iterable(source)
        return
    ready: deque[list[Batch] | BaseException | None] = deque()
    reading = threading.Lock()  # its holder takes the next of `source`
    demand, closed = threading.Event(), threading.Event()

    def next_ready() -> list[Batch] | BaseException | None:
        try:
            return next(source, None)
        except BaseException as error:
            return error

    def fill() -> None:
        while not closed.is_set():
            demand.wait()
            demand.clear()
            closed.wait(PAUSE)
            while len(ready) < AHEAD and not demand.is_set() and not closed.is_set():
                with reading:
                    ready.append(next_ready())

    thread = threading.Thread(target=fill, name="batches", daemon=True)
    thread.start()
    try:
        while True:
            if not ready:
                with reading:
                    if not ready:
                        ready.append(next_ready())
            item = ready.popleft()
            demand.set()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield from item
    finally:
        closed.set()
        demand.set()
        thread.join()
