"""Records: sealed, numbered, never overwritten, and recomputed to the digit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from public_runs import STUDIES, trial_evidence

from curriculum.errors import DataError
from curriculum.studies import record
from curriculum.studies.decide import decide
from curriculum.studies.decision import Keep, Question

SOURCES = ("slimpajama", "starcoder-python-jupyter", "proof-pile-2")
QUESTION = Question("trial", "mixture", {SOURCES[2]: 1.0}, {SOURCES[0]: Keep("before", 0.0)}, SOURCES, resamples=2)


def content(question: Question = QUESTION) -> dict[str, object]:
    evidence = trial_evidence()
    return record.content(
        "trial", "about: trial\n", question, evidence, decide(question, evidence), {"a.csv": "0" * 64}
    )


def test_a_decision_is_recorded_once_and_another_gets_the_next_number(tmp_path: Path) -> None:
    first = record.write(tmp_path, content())
    assert first.address == "trial@0001"
    assert record.write(tmp_path, content()).number == 1
    before = first.path.read_bytes()
    second = record.write(tmp_path, content(replace(QUESTION, pull=0.1)))
    assert second.address == "trial@0002"
    assert first.path.read_bytes() == before
    newest = record.newest(tmp_path)
    assert newest is not None
    assert newest.number == 2


@pytest.mark.promise("A record of a decision is recomputed from its evidence to the digit")
def test_a_record_agrees_with_what_is_computed_again_and_names_what_differs(tmp_path: Path) -> None:
    written = record.write(tmp_path, content())
    again = record.read(tmp_path, 1)
    assert record.differences(again, content()) == []
    assert record.differences(written, content(replace(QUESTION, pull=0.1))) == ["question", "decision"]


def test_a_record_that_was_edited_is_refused(tmp_path: Path) -> None:
    written = record.write(tmp_path, content())
    value = json.loads(written.path.read_text())
    value["decision"]["word"] = "shown"
    written.path.write_text(json.dumps(value))
    with pytest.raises(DataError, match="does not match its seal"):
        record.read(tmp_path, 1)


@pytest.mark.promise("A record of a decision stays readable by later versions")
@pytest.mark.parametrize("path", sorted((STUDIES / "records").glob("*.json")), ids=lambda path: path.stem)
def test_a_record_of_an_earlier_version_is_read_as_it_was_written(path: Path, tmp_path: Path) -> None:
    (tmp_path / record.DECISIONS).mkdir()
    shutil.copy(path, tmp_path / record.DECISIONS / "0001.json")
    found = record.read(tmp_path, 1)
    assert record.plain(found.question) == found.content["question"]
    assert record.plain(found.decision) | {"word": found.decision.word} == found.content["decision"]
    runs = {arm: one["runs"] for arm, one in found.content["evidence"]["arms"].items() if one["role"] != record.CURVE}
    assert {arm: len(found.evidence.runs(arm)) for arm in runs} == {arm: len(each) for arm, each in runs.items()}


def test_a_record_of_a_format_that_this_version_does_not_read_is_refused(tmp_path: Path) -> None:
    record.write(tmp_path, content() | {"format": record.FORMAT + 1})
    with pytest.raises(DataError, match=f"has format {record.FORMAT + 1}; this version reads {record.FORMAT}"):
        record.read(tmp_path, 1)


def test_there_is_no_newest_record_before_the_first(tmp_path: Path) -> None:
    assert record.newest(tmp_path) is None
