"""The batches of a step: the plan's windows in the plan's slots, dealt to ranks and read ahead of the loop."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranks as steps
from numpy.typing import NDArray

from curriculum.errors import DataError, PlanError
from curriculum.plan.stage import StagePlan
from runner import dataloader

WINDOWS = {"code": 40, "prose": 50}


@dataclass
class Text:
    """Stands for a prepared text: token 0 of a row says whose it is, token 1 which window."""

    number: int
    windows: int = 50
    digest: str = "d"
    reads: list[int] = field(default_factory=list)
    readers: list[str] = field(default_factory=list)
    broken_at: int | None = None

    @property
    def digests(self) -> frozenset[str]:
        return frozenset({self.digest})

    checked = False
    length = steps.LENGTH

    @property
    def mapped(self) -> list[Text]:
        """It is its own and only shard."""
        return [self]

    @property
    def view(self) -> NDArray[np.uint16]:
        rows = np.zeros((self.windows, steps.LENGTH + 1), np.uint16)
        rows[:, 0], rows[:, 1] = self.number, np.arange(self.windows)
        return rows

    def locate(self, windows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return np.zeros_like(windows), windows

    def check(self, windows: NDArray[np.int64]) -> bool:
        self.reads.append(len(windows))
        self.readers.append(threading.current_thread().name)
        if self.broken_at is not None and len(self.reads) > self.broken_at:
            raise DataError("a block holds other bytes than were prepared")
        return False


def texts() -> dict[str, Any]:
    return {name: Text(number, WINDOWS[name]) for number, name in enumerate(sorted(WINDOWS))}


@pytest.fixture
def plan() -> StagePlan:
    return steps.small_plan(batch=16, steps=12)


def test_every_slot_holds_the_window_that_the_plan_draws_for_it(plan: StagePlan) -> None:
    for step in range(plan.steps):
        draws = plan.draws(step)
        batch = dataloader.read(plan, texts(), step, 0, 1)
        assert batch.tokens.shape == (16, steps.LENGTH + 1)
        assert batch.tokens[:, 0].tolist() == draws.source.tolist() == batch.source.tolist()
        assert batch.tokens[:, 1].tolist() == draws.window.tolist()


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_the_ranks_slots_laid_end_to_end_are_the_steps_slots(plan: StagePlan, ranks: int) -> None:
    for step in (0, 5, 11):
        whole = dataloader.read(plan, texts(), step, 0, 1)
        parts = [dataloader.read(plan, texts(), step, rank, ranks) for rank in range(ranks)]
        assert {len(part.tokens) for part in parts} == {16 // ranks}
        assert np.array_equal(np.concatenate([part.tokens for part in parts]), whole.tokens)
        assert np.array_equal(np.concatenate([part.source for part in parts]), whole.source)


def test_a_batch_that_cannot_be_dealt_evenly_is_refused(plan: StagePlan) -> None:
    with pytest.raises(PlanError, match="16 sequences cannot be divided evenly among 3"):
        dataloader.read(plan, texts(), 0, 0, 3)


def test_a_source_is_read_once_a_step_however_many_slots_it_fills(plan: StagePlan) -> None:
    sources = texts()
    dataloader.read(plan, sources, 0, 0, 1)
    assert [text.reads for text in sources.values()] == [[4], [12]]


def test_batches_come_in_the_order_of_steps_from_any_step_to_any_other(plan: StagePlan) -> None:
    found = list(dataloader.batches(plan, texts(), first_step=3, last_step=9, rank=1, ranks=2))
    assert [batch.step for batch in found] == [3, 4, 5, 6, 7, 8]
    for batch in found:
        assert np.array_equal(batch.tokens, dataloader.read(plan, texts(), batch.step, 1, 2).tokens)


def test_no_steps_give_no_batches(plan: StagePlan) -> None:
    assert list(dataloader.batches(plan, texts(), first_step=4, last_step=4)) == []


def test_an_error_of_the_reader_is_raised_where_the_batch_is_taken_after_the_good_ones(plan: StagePlan) -> None:
    sources = texts()
    sources["prose"].broken_at = 2
    batches = dataloader.batches(plan, sources, first_step=0, last_step=12)
    assert [next(batches).step for _ in range(3)] == [0, 1, 2]  # one alone, then two together
    with pytest.raises(DataError, match="a block holds other bytes"):
        next(batches)


@pytest.mark.parametrize(("drawn", "read"), [(1, 1), (16, 1), (48, 1), (48, 600), (10**6, 256), (10**6, 10**6)])
@pytest.mark.parametrize("ranks", [1, 2])
def test_steps_that_are_drawn_and_read_together_are_those_read_alone(
    plan: StagePlan, monkeypatch: pytest.MonkeyPatch, drawn: int, read: int, ranks: int
) -> None:
    monkeypatch.setattr(dataloader, "SEQUENCES_DRAWN", drawn)
    monkeypatch.setattr(dataloader, "TOKENS_READ", read)
    pieces = list(dataloader.read_steps(plan, texts(), 1, 12, dataloader.slots_of(16, ranks - 1, ranks)))
    assert len(pieces[0]) == 1, "the first is not kept waiting"
    most = max(1, read // (16 // ranks * steps.LENGTH))
    assert max(map(len, pieces)) <= most
    found = [batch for piece in pieces for batch in piece]
    assert [batch.step for batch in found] == list(range(1, 12))
    for batch in found:
        alone = dataloader.read(plan, texts(), batch.step, ranks - 1, ranks)
        assert np.array_equal(batch.tokens, alone.tokens)
        assert np.array_equal(batch.source, alone.source)
        assert np.array_equal(batch.tokens[:, 1], plan.draws(batch.step).rank(ranks - 1, ranks).window)


def test_the_reader_keeps_a_few_batches_ahead_and_no_more(plan: StagePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataloader, "TOKENS_READ", 1)  # each step alone
    monkeypatch.setattr(dataloader, "SEQUENCES_DRAWN", 1)
    sources = texts()
    batches = dataloader.batches(plan, sources, first_step=0, last_step=12)
    next(batches)
    most = 1 + dataloader.AHEAD  # taken, and waiting
    deadline = time.monotonic() + 10
    while len(sources["prose"].reads) < most and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(sources["prose"].reads) == most
    batches.close()


@pytest.mark.promise(
    "A busy loop has its batches read ahead by a thread; a loop that waits for each batch reads without it"
)
def test_a_busy_loop_has_its_batches_read_by_the_thread_and_one_that_asks_at_once_reads_for_itself(
    plan: StagePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataloader, "TOKENS_READ", 1)  # each step alone
    monkeypatch.setattr(dataloader, "SEQUENCES_DRAWN", 1)
    monkeypatch.setattr(dataloader, "PAUSE", 0.09)
    sources = texts()
    for batch in dataloader.batches(plan, sources, first_step=0, last_step=12):
        time.sleep(0.3 if batch.step >= 6 else 0.02)
    readers = sources["prose"].readers
    assert readers[:6] == ["MainThread"] * 6
    assert readers[7:] == ["batches"] * 5


def test_closing_early_ends_the_readers_thread(plan: StagePlan) -> None:
    batches = dataloader.batches(plan, texts(), first_step=0, last_step=12)
    next(batches)
    assert "batches" in {thread.name for thread in threading.enumerate()}
    batches.close()
    assert "batches" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"digest": "another"}, "is not the text that the plan of `prose` was made for"),
        ({"windows": 49}, "holds 49 windows, the plan of `prose` reads 50"),
    ],
    ids=["other text", "too little text"],
)
def test_text_that_the_plan_was_not_made_for_is_refused_before_the_first_step(
    plan: StagePlan, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str
) -> None:
    known = {
        name: replace(source, segments=(replace(source.segments[0], digest="d"),))
        for name, source in plan.sources.items()
    }
    plan = replace(plan, sources=known)
    opened = texts()
    monkeypatch.setattr(dataloader.Dataset, "open", lambda folder, **_: opened[folder.name])
    folders = {"code": "data/code", "prose": "data/prose"}
    assert dataloader.open_sources(plan, folders) == opened
    opened["prose"] = replace(opened["prose"], **change)
    with pytest.raises(DataError, match=message):
        dataloader.open_sources(plan, folders)


def test_sources_are_opened_for_training_at_the_plans_length_and_vocabulary(
    plan: StagePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def opened(folder: Path, **how: Any) -> Text:
        asked.append((str(folder), how))
        return Text(0)

    monkeypatch.setattr(dataloader.Dataset, "open", opened)
    dataloader.open_sources(plan, {"code": "a", "prose": "b"})
    digest = plan.tokenizer.get("digest")
    how = {"split": "train", "sequence_length": steps.LENGTH, "vocab_size": 101, "tokenizer_digest": digest}
    assert sorted(asked, key=lambda entry: entry[0]) == [("a", how), ("b", how)]
