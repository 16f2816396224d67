"""A document is found by its id through one sorted file, whatever its size, and a damaged one costs time only."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from texts import write_texts

from curriculum.data import dataset as data_dataset, document_lookup
from curriculum.data.dataset import Dataset
from curriculum.data.document_lookup import RECORD, DocumentLookup, line_hashes, merge, name_of, write_shard
from curriculum.data.manifest import HELD_OUT, TRAIN, Manifest
from curriculum.data.progress import read_progress
from curriculum.data.shard import MappedShard, id_line
from runner.prepare.job import prepare


def index(folder: Path, shards: list[list[bytes]]) -> DocumentLookup:
    """The merged index of shards with these lines."""
    parts = [folder / f"{number}.lookup" for number in range(len(shards))]
    for part, lines in zip(parts, shards, strict=True):
        write_shard(part, line_hashes(lines))
    merge(parts, [len(lines) for lines in shards], folder / "merged")
    return DocumentLookup(folder / "merged", sum(map(len, shards)))


@given(
    shards=st.lists(st.lists(st.binary(max_size=3), min_size=1, max_size=30), min_size=1, max_size=5),
    together=st.integers(1, 40),
)
@settings(max_examples=80, deadline=None)
def test_every_line_is_found_with_all_its_numbers_however_many_are_merged_at_a_time(
    shards: list[list[bytes]], together: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("index")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document_lookup, "TOGETHER", together)
        found = index(folder, shards)
    lines = [line for shard in shards for line in shard]
    assert found.whole
    for line in set(lines):
        assert found.find(line) == [number for number, other in enumerate(lines) if other == line]
    assert found.find(b"no such line") == []
    records = np.fromfile(folder / "merged", RECORD)
    assert records.nbytes == 12 * len(lines)
    assert (np.diff(records["key"].astype(object)) >= 0).all()


def test_numbers_beyond_32_bits_are_kept() -> None:
    hashes = line_hashes([b"a", b"b"])
    records = document_lookup._records(hashes, np.array([3 << 32 | 7, 5], np.uint64))
    lookup = DocumentLookup(Path("nowhere"), 2)
    lookup._data = records.tobytes()
    assert lookup.find(b"a") == [3 << 32 | 7]
    assert lookup.find(b"b") == [5]


@pytest.mark.promise(
    "A document is found by its id through an index of 12 bytes a document, without a search of the ids"
)
def test_prepared_and_appended_text_is_found_without_a_search_of_its_ids(
    tmp_path: Path, request_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_texts(tmp_path / "texts", 40)
    request = request_for()
    prepare(request)
    write_texts(tmp_path / "texts", 10, first=100)
    prepare(replace(request, append=True))
    folder = Path(request.output)
    manifest = Manifest.load(folder)
    assert {name_of(split, n) for split in (TRAIN, HELD_OUT) for n in range(2)} <= manifest.sidecars.keys()
    assert not list(folder.rglob("*.ids.lookup"))
    opened = {split: Dataset.open(folder, split=split, sequence_length=16) for split in (TRAIN, HELD_OUT)}
    monkeypatch.setattr(MappedShard, "find", None)
    monkeypatch.setattr(data_dataset, "DIGESTED_DOCUMENTS", 0)
    found = 0
    for split, dataset in opened.items():
        for number, shard in enumerate(dataset.mapped):
            for document in range(shard.record.documents):
                expected = dataset.document(number, document)
                assert dataset.find_documents(expected.id) == [expected]
                found += 1
        assert dataset.find_documents(f"no such document of {split}") == []
    assert found == 50


def test_an_id_twice_in_two_shards_is_found_twice(tmp_path: Path, request_for: Any) -> None:
    (tmp_path / "texts").mkdir()
    for number in range(3):
        rows = [{"text": f"text {number} of words", "id": "same"}, {"text": f"other {number}", "id": f"own-{number}"}]
        (tmp_path / "texts" / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    request = request_for(id="id", held_out=None)
    prepare(request)
    dataset = Dataset.open(request.output, sequence_length=16)
    assert [(span.shard, span.document) for span in dataset.find_documents("same")] == [(0, 0), (1, 0), (2, 0)]
    assert len(dataset.find_documents("own-1")) == 1
    assert read_progress(Path(request.progress)).repeated_ids == {TRAIN: (2, "same")}


def test_ids_with_one_hash_that_are_not_the_same_are_no_repeated_ids(
    tmp_path: Path, request_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_texts(tmp_path / "texts", 40)
    monkeypatch.setattr(document_lookup, "line_hashes", lambda lines: np.full(len(lines), 7 << 8, np.uint64))
    prepare(request_for())
    assert not read_progress(Path(request_for().progress)).repeated_ids


@given(
    ids=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=40),
    together=st.integers(1, 10),
    compared=st.integers(0, 10),
)
@settings(max_examples=80, deadline=None)
def test_documents_with_the_hash_of_an_earlier_one_are_counted_however_many_are_merged_at_a_time(
    ids: list[str], together: int, compared: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("index")
    lines = [id_line(name) for name in ids]
    write_shard(folder / "shard", line_hashes(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document_lookup, "TOGETHER", together)
        patch.setattr(document_lookup, "COMPARED", compared)
        repeated = merge([folder / "shard"], [len(ids)], folder / "merged")
    assert repeated.count == len(ids) - len(set(ids))
    assert len(repeated.pairs) == min(compared, repeated.count)
    assert all(ids[first] == ids[second] and first < second for first, second in repeated.pairs)


@pytest.mark.parametrize("damage", ["cut off", "missing", "other"])
def test_an_index_that_is_cut_off_missing_or_wrong_costs_a_search_and_loses_nothing(
    tmp_path: Path, request_for: Any, damage: str
) -> None:
    write_texts(tmp_path / "texts", 40)
    request = request_for()
    prepare(request)
    path = Path(request.output) / name_of(TRAIN, 0)
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-5] if damage == "cut off" else b"\xff" * len(data))
    dataset = Dataset.open(request.output, sequence_length=16)
    name = dataset.document(1, 0).id
    assert dataset.find_documents(name) == [dataset.document(1, 0)]


def test_an_index_in_place_finds_documents_of_token_files(tmp_path: Path, tokenizer_file: str) -> None:
    from curriculum.data.requests import PrepareRequest
    from curriculum.data.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(tokenizer_file)
    ids = [*tokenizer.encode("the people of the state"), tokenizer.eos_id]
    (tmp_path / "tokens").mkdir()
    for number in range(2):
        np.array(ids * 30, "<u2").tofile(tmp_path / "tokens" / f"{number}.bin")
    request = PrepareRequest(
        dataset="lent",
        read={"tokenised": "tokens", "format": "flat", "dtype": "uint16"},
        root=str(tmp_path),
        tokenizer_file=tokenizer_file,
        output=str(tmp_path / "data" / "out"),
        progress=str(tmp_path / "progress.jsonl"),
        sequence_length=8,
    )
    prepare(request)
    dataset = Dataset.open(request.output, sequence_length=8)
    assert name_of(TRAIN, 0) in Manifest.load(Path(request.output)).sidecars
    (span,) = dataset.find_documents("1.bin:7")
    assert (span.shard, span.document, span.tokens) == (1, 6, len(ids))


def test_a_line_is_hashed_as_it_is_written() -> None:
    assert len({*line_hashes([id_line("a"), id_line("a:1"), id_line("ä")]).tolist()}) == 3
