"""The files with an entry a document are the same however many documents are sorted at a time."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from texts import digests, write_texts

from curriculum.data import document_lookup, overlap
from curriculum.data.tokenizer import Tokenizer
from runner.prepare import document_files, in_place, job
from runner.prepare.corpus import Corpus
from runner.prepare.job import prepare


@pytest.mark.promise("The memory of a task stays bounded at any number of documents, and the bytes are the same")
def test_documents_sorted_in_runs_give_the_bytes_of_one_run(
    tmp_path: Path, request_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_texts(tmp_path / "texts", 40)
    request = request_for(tasks=2)
    prepare(request)
    sorted_at_a_time = []
    write_shard = document_lookup.write_shard

    def counting(path: Path, hashes: Any) -> None:
        sorted_at_a_time.append(len(hashes))
        write_shard(path, hashes)

    monkeypatch.setattr(document_lookup, "write_shard", counting)
    monkeypatch.setattr(document_lookup, "TOGETHER", 5)
    monkeypatch.setattr(overlap, "TOGETHER", 5)
    monkeypatch.setattr(document_files, "RUN", 3)
    monkeypatch.setattr(job, "Corpus", functools.partial(Corpus, batch_bytes=1))
    prepare(other := replace(request, output=str(tmp_path / "other")))
    assert set(sorted_at_a_time) <= {1, 2, 3}
    assert digests(request.output) == digests(other.output)


def test_tokens_in_place_are_indexed_in_runs_too(
    tmp_path: Path, tokenizer_file: str, request_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = Tokenizer.load(tokenizer_file)
    words = [[*tokenizer.encode(f"the people of state {number}"), tokenizer.eos_id] for number in range(30)]
    (tmp_path / "tokens").mkdir()
    np.array([token for ids in words for token in ids], "<u2").tofile(tmp_path / "tokens" / "0.bin")
    read = {"tokenised": "tokens", "format": "flat", "dtype": "uint16"}
    prepare(request := request_for(read=read, held_out=None))
    monkeypatch.setattr(document_files, "RUN", 4)
    monkeypatch.setattr(in_place, "RUN", 4)
    other = replace(request, output=str(tmp_path / "other"))
    left = tmp_path / "other.partial" / "tasks" / "00000" / "train" / "00000.ids"  # by a task that was killed
    left.parent.mkdir(parents=True)
    left.write_text("left")
    prepare(other)
    assert digests(request.output) == digests(other.output)
