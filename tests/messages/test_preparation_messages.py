"""What a preparation refuses once it has begun: for every case here, to the letter, the refusal in
tests/messages/preparation, where what differs from run to run is left out.

`pytest tests/messages/test_preparation_messages.py --rewrite` rewrites them, to be read in the diff.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from texts import write_texts

from curriculum.data.requests import PrepareRequest
from curriculum.errors import LINES_AT_MOST, DataError
from runner.prepare import encoder_choice
from runner.prepare.encoder import EncoderUnavailable
from runner.prepare.job import prepare

MESSAGES = Path(__file__).parent / "preparation"
Preparation = Callable[[PrepareRequest, pytest.MonkeyPatch], None]


def appended_without_its_encoder(request: PrepareRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    write_texts(Path(request.root, "texts"), 40)
    prepare(request)
    write_texts(Path(request.root, "texts"), 6, first=100)

    def absent(*words: Any, **keys: Any) -> Any:
        raise EncoderUnavailable("gigatoken is not installed: No module named 'gigatoken'")

    monkeypatch.setattr(encoder_choice, "FastEncoder", absent)
    prepare(replace(request, append=True))


def only_one_document_and_that_too_long(request: PrepareRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.prepare.corpus.LONGEST_TEXT", 1000)
    write_texts(Path(request.root, "texts"), 1)
    prepare(request)


def json_over_several_lines_that_is_too_long(request: PrepareRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.prepare.corpus.LONGEST_JSON", 10)
    write_texts(Path(request.root, "texts"), 1)
    Path(request.root, "texts", "a.json").write_text('[\n{"text": "words"}\n]')
    prepare(request)


def a_shard_that_was_cut_off(request: PrepareRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    write_texts(Path(request.root, "texts"), 1)
    Path(request.root, "texts", "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "words"}\n' * 99)[:-20])
    prepare(request)


CASES: dict[str, Preparation] = {
    "a-shard-that-was-cut-off": a_shard_that_was_cut_off,
    "json-over-several-lines-that-is-too-long": json_over_several_lines_that_is_too_long,
    "appended-without-its-encoder": appended_without_its_encoder,
    "document-too-long": only_one_document_and_that_too_long,
}


@pytest.mark.parametrize("name", CASES)
def test_a_preparation_is_refused_on_one_screen(
    name: str, request_for: Any, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as refused:
        CASES[name](request_for(), monkeypatch)
    what, hint = (str(text).replace(str(tmp_path), "PROJECT") for text in (refused.value.what, refused.value.hint))
    message = re.sub(r"\d+(\.\d+)+", "N", DataError(what, hint=hint).render()) + "\n"
    if pytestconfig.getoption("--rewrite"):
        (MESSAGES / f"{name}.txt").write_text(message)
    assert message == (MESSAGES / f"{name}.txt").read_text()
    assert len(message.splitlines()) <= LINES_AT_MOST
    assert "hint: " in message


def test_every_case_has_its_message_and_every_message_its_case() -> None:
    assert sorted(path.stem for path in MESSAGES.glob("*.txt")) == sorted(CASES)
