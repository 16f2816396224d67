"""The record of what was trained: one line a checkpoint, none twice, none past the checkpoint that is gone on from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from curriculum.artifacts import ledger
from curriculum.artifacts.ledger import Entry
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.compiler.compile import compile_curriculum
from curriculum.config.project import Project
from curriculum.errors import RunFailed


def entry(position: int, **windows: int) -> Entry:
    return Entry(
        generation=0,
        position=position,
        step=position // 32,
        checkpoint=f"g0-{position:016d}",
        fingerprint="f",
        windows=windows or {"prose": position // 16},
    )


@pytest.fixture
def written(tmp_path: Path) -> StageFolder:
    """A stage folder with entries at 64, 128 and 192."""
    for position in (64, 128, 192):
        ledger.append(StageFolder(tmp_path), entry(position))
    return StageFolder(tmp_path)


def positions(folder: StageFolder) -> list[int]:
    return [found.position for found in ledger.read(folder)]


def test_entries_come_back_in_the_order_they_were_made(written: StageFolder) -> None:
    assert ledger.read(written) == [entry(64), entry(128), entry(192)]


def test_a_stage_that_saved_nothing_has_an_empty_ledger(tmp_path: Path) -> None:
    assert ledger.read(StageFolder(tmp_path)) == []
    ledger.cut_back(StageFolder(tmp_path).ledger, 0)
    assert list(tmp_path.iterdir()) == []


def test_the_last_entry_is_not_made_twice_and_one_that_counts_otherwise_is(written: StageFolder) -> None:
    ledger.append(written, entry(192))
    assert positions(written) == [64, 128, 192]
    ledger.append(written, entry(192, prose=1))
    assert positions(written) == [64, 128, 192, 192]


@pytest.mark.parametrize(
    ("position", "kept"), [(0, []), (64, [64]), (127, [64]), (128, [64, 128]), (500, [64, 128, 192])]
)
def test_lines_past_the_checkpoint_that_is_gone_on_from_are_cut_away(
    written: StageFolder, position: int, kept: list[int]
) -> None:
    ledger.cut_back(written.ledger, position)
    assert positions(written) == kept


def test_after_a_torn_line_was_cut_back_the_next_entry_stands_on_a_line_of_its_own(written: StageFolder) -> None:
    path = written.ledger
    path.write_bytes(path.read_bytes()[:-7])
    ledger.cut_back(path, 192)
    ledger.append(written, entry(192))
    ledger.append(written, entry(256))
    assert positions(written) == [64, 128, 192, 256]


def test_a_ledger_with_nothing_to_cut_is_not_written_again(
    written: StageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("written again")

    monkeypatch.setattr(os, "rename", refuse)
    ledger.cut_back(written.ledger, 192)
    with pytest.raises(AssertionError, match="written again"):
        ledger.cut_back(written.ledger, 191)
    assert positions(written) == [64, 128, 192], "a cut that fails leaves the old lines"


@pytest.mark.promise("A trainer whose count of windows differs from the plan stops before it saves")
def test_a_count_that_is_not_the_plan_s_is_refused_by_name_and_an_equal_one_is_not() -> None:
    project = Project(Path(__file__).resolve().parents[3])
    plan = compile_curriculum(project, "v1.1-math-code", "rehearsal").stages[1].plan
    position = plan.start + 60 * plan.batch_tokens
    counted = plan.windows_read(position)
    ledger.check(plan, position, counted)
    ledger.check(plan, position, {**counted, "unread": 0})
    with pytest.raises(RunFailed, match="`proof-pile-2`"):
        ledger.check(plan, position, {**counted, "proof-pile-2": counted["proof-pile-2"] + 1})
    with pytest.raises(RunFailed, match="`slimpajama` 0 instead of"):
        ledger.check(plan, position, {n: c for n, c in counted.items() if n != "slimpajama"})
