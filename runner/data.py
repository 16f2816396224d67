"""The tokens of each step, assembled ahead of the loop by one thread. There is no state to save.

1. `plan.draws(step)` names source and window of every slot; this rank keeps its contiguous slots.
2. Each source's memory-mapped shards give the windows' rows, gathered without Python per token.
3. A thread keeps the next batches ready; the loop takes them in order.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curriculum.errors import DataError
from curriculum.plan import StagePlan, share_of_rank
from curriculum.shards.reader import Dataset

AHEAD = 3


@dataclass(frozen=True, slots=True)
class Batch:
    """One rank's slots of a step: `tokens` has shape `[slots, sequence_length + 1]`, `source` indexes `names`."""

    step: int
    tokens: NDArray[np.int64]
    source: NDArray[np.int32]
    names: tuple[str, ...]


def slots_of(batch: int, rank: int, ranks: int, groups: int | None = None) -> NDArray[np.int64]:
    """The slots of a step that `rank` takes, in its order: a contiguous part, or every `ranks`-th of `groups` parts."""
    share_of_rank(batch, ranks)
    return np.arange(batch, dtype=np.int64).reshape(groups or ranks, -1)[rank::ranks].reshape(-1)


def open_sources(plan: StagePlan, folders: Mapping[str, str]) -> dict[str, Dataset]:
    """The prepared text of every source of the plan; DataError when it is not the text the plan was made for."""
    datasets = {}
    for name, source in plan.sources.items():
        dataset = Dataset.open(
            Path(folders[name]),
            split="train",
            sequence_length=plan.sequence_length,
            vocab_size=int(plan.model["vocab_size"]),
        )
        for segment in source.segments:
            if segment.digest is not None and segment.digest not in dataset.digests:
                raise DataError(
                    f"the text in `{folders[name]}` is not the text that the plan of `{name}` was made for",
                    hint="put the prepared text back; `curriculum verify` names every difference",
                )
            if segment.last_window > dataset.windows:
                raise DataError(
                    f"`{folders[name]}` holds {dataset.windows:,} windows, the plan of `{name}` reads "
                    f"{segment.last_window:,}",
                    hint="prepare the text again with `curriculum prepare`",
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
    draws = plan.draws(step)
    slots = slots_of(plan.batch_sequences, rank, ranks, groups)
    source, window = draws.source[slots], draws.window[slots]
    tokens = np.empty((len(window), plan.sequence_length + 1), np.int64)
    for number, name in enumerate(draws.names):
        mine = np.flatnonzero(source == number)
        if len(mine):
            tokens[mine] = datasets[name].read(window[mine])
    return Batch(step, tokens, source, draws.names)


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
    """Batches of the half-open range of steps, read ahead by one thread; its errors are raised here."""
    ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=AHEAD)
    over = threading.Event()

    def put(item: Batch | BaseException) -> bool:
        while not over.is_set():
            try:
                ready.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def assemble() -> None:
        try:
            for step in range(first_step, last_step):
                if not put(read(plan, datasets, step, rank, ranks, groups)):
                    return
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=assemble, name="batches", daemon=True)
    thread.start()
    try:
        for _ in range(first_step, last_step):
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        over.set()
        thread.join()
