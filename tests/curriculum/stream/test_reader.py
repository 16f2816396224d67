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
from curriculum.stream import reader

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
        batch = reader.read(plan, texts(), step, 0, 1)
        assert batch.tokens.shape == (16, steps.LENGTH + 1)
        assert batch.tokens[:, 0].tolist() == draws.source.tolist() == batch.source.tolist()
        assert batch.tokens[:, 1].tolist() == draws.window.tolist()


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_the_ranks_slots_laid_end_to_end_are_the_steps_slots(plan: StagePlan, ranks: int) -> None:
    for step in (0, 5, 11):
        whole = reader.read(plan, texts(), step, 0, 1)
        parts = [reader.read(plan, texts(), step, rank, ranks) for rank in range(ranks)]
        assert {len(part.tokens) for part in parts} == {16 // ranks}
        assert np.array_equal(np.concatenate([part.tokens for part in parts]), whole.tokens)
        assert np.array_equal(np.concatenate([part.source for part in parts]), whole.source)


def test_a_batch_that_cannot_be_dealt_evenly_is_refused(plan: StagePlan) -> None:
    with pytest.raises(PlanError, match="16 sequences cannot be divided evenly among 3"):
        reader.read(plan, texts(), 0, 0, 3)


def test_a_source_is_read_once_a_step_however_many_slots_it_fills(plan: StagePlan) -> None:
    sources = texts()
    reader.read(plan, sources, 0, 0, 1)
    assert [text.reads for text in sources.values()] == [[4], [12]]


def test_batches_come_in_the_order_of_steps_from_any_step_to_any_other(plan: StagePlan) -> None:
    found = list(reader.batches(plan, texts(), first_step=3, last_step=9, rank=1, ranks=2))
    assert [batch.step for batch in found] == [3, 4, 5, 6, 7, 8]
    for batch in found:
        assert np.array_equal(batch.tokens, reader.read(plan, texts(), batch.step, 1, 2).tokens)


def test_no_steps_give_no_batches(plan: StagePlan) -> None:
    assert list(reader.batches(plan, texts(), first_step=4, last_step=4)) == []


def test_an_error_of_the_reader_is_raised_where_the_batch_is_taken_after_the_good_ones(plan: StagePlan) -> None:
    sources = texts()
    sources["prose"].broken_at = 2
    batches = reader.batches(plan, sources, first_step=0, last_step=12)
    assert [next(batches).step for _ in range(3)] == [0, 1, 2]  # one alone, then two together
    with pytest.raises(DataError, match="a block holds other bytes"):
        next(batches)


@pytest.mark.parametrize(("drawn", "read"), [(1, 1), (16, 1), (48, 1), (48, 600), (10**6, 256), (10**6, 10**6)])
@pytest.mark.parametrize("ranks", [1, 2])
def test_steps_that_are_drawn_and_read_together_are_those_read_alone(
    plan: StagePlan, monkeypatch: pytest.MonkeyPatch, drawn: int, read: int, ranks: int
) -> None:
    monkeypatch.setattr(reader, "SEQUENCES_DRAWN", drawn)
    monkeypatch.setattr(reader, "TOKENS_READ", read)
    pieces = list(reader.read_steps(plan, texts(), 1, 12, reader.slots_by_batch(ranks - 1, ranks)))
    assert len(pieces[0]) == 1, "the first is not kept waiting"
    most = max(1, read // (16 // ranks * steps.LENGTH))
    assert max(map(len, pieces)) <= most
    found = [batch for piece in pieces for batch in piece]
    assert [batch.step for batch in found] == list(range(1, 12))
    for batch in found:
        alone = reader.read(plan, texts(), batch.step, ranks - 1, ranks)
        assert np.array_equal(batch.tokens, alone.tokens)
        assert np.array_equal(batch.source, alone.source)
        assert np.array_equal(batch.tokens[:, 1], plan.draws(batch.step).rank(ranks - 1, ranks).window)


def test_the_reader_keeps_a_few_batches_ahead_and_no_more(plan: StagePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "TOKENS_READ", 1)  # each step alone
    monkeypatch.setattr(reader, "SEQUENCES_DRAWN", 1)
    sources = texts()
    batches = reader.batches(plan, sources, first_step=0, last_step=12)
    next(batches)
    most = 1 + reader.AHEAD  # taken, and waiting
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
    monkeypatch.setattr(reader, "TOKENS_READ", 1)  # each step alone
    monkeypatch.setattr(reader, "SEQUENCES_DRAWN", 1)
    monkeypatch.setattr(reader, "PAUSE", 0.09)
    sources = texts()
    for batch in reader.batches(plan, sources, first_step=0, last_step=12):
        time.sleep(0.3 if batch.step >= 6 else 0.02)
    readers = sources["prose"].readers
    assert readers[:6] == ["MainThread"] * 6
    assert readers[7:] == ["batches"] * 5


def test_closing_early_ends_the_readers_thread(plan: StagePlan) -> None:
    batches = reader.batches(plan, texts(), first_step=0, last_step=12)
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
    monkeypatch.setattr(reader.Dataset, "open", lambda folder, **_: opened[folder.name])
    folders = {"code": "data/code", "prose": "data/prose"}
    assert reader.open_sources(plan, folders) == opened
    opened["prose"] = replace(opened["prose"], **change)
    with pytest.raises(DataError, match=message):
        reader.open_sources(plan, folders)


def test_only_the_segments_that_the_stage_reads_are_counted_in_its_windows(
    plan: StagePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier pass counted shorter windows, so more of them."""
    prose = plan.sources["prose"]
    restarted = replace(plan, blends=tuple(replace(phase, base={**phase.base, "prose": 9}) for phase in plan.blends))
    earlier = replace(prose.segments[0], windows=100)
    later = replace(prose.segments[0], first_item=9, pass_number=1)
    restarted = replace(restarted, sources={**plan.sources, "prose": replace(prose, segments=(earlier, later))})
    opened = texts()
    monkeypatch.setattr(reader.Dataset, "open", lambda folder, **_: opened[folder.name])
    assert reader.open_sources(restarted, {"code": "data/code", "prose": "data/prose"}) == opened


def test_sources_are_opened_for_training_at_the_plans_length_and_vocabulary(
    plan: StagePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def opened(folder: Path, **how: Any) -> Text:
        asked.append((str(folder), how))
        return Text(0)

    monkeypatch.setattr(reader.Dataset, "open", opened)
    reader.open_sources(plan, {"code": "a", "prose": "b"})
    digest = plan.tokenizer.get("digest")
    how = {"split": "train", "sequence_length": steps.LENGTH, "vocab_size": 101, "tokenizer_digest": digest}
    assert sorted(asked, key=lambda entry: entry[0]) == [("a", how), ("b", how)]
