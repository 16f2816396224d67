"""A sample of a source says what preparing all of it takes, and leaves nothing but that."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from texts import write_texts

from curriculum.data.manifest import Manifest
from curriculum.data.preparation_rate import PreparationRate, rates
from curriculum.errors import DataError
from runner.prepare import formats, sample
from runner.prepare.corpus import Corpus
from runner.prepare.job import prepare
from runner.prepare.sample import measure_sample


def rows(count: int, seed: int) -> list[dict[str, str]]:
    draw = random.Random(seed)
    return [{"text": "".join(draw.choices("abcdefgh ", k=1300)), "other": "x" * 50} for _ in range(count)]


WRITERS = {
    "jsonl": lambda path, rows: path.write_text("".join(json.dumps(row) + "\n" for row in rows)),
    "jsonl.gz": lambda path, rows: path.write_bytes(
        gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    ),
    "parquet": lambda path, rows: pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=200),
}


def only_rate(folder: Path) -> PreparationRate:
    ((_, rate),) = rates(folder)
    return rate


@pytest.mark.promise(
    "The cost of a corpus in core-hours and disk is estimated from a measured sample before it is paid"
)
@pytest.mark.parametrize("ending", WRITERS)
def test_the_tokens_and_the_disk_of_the_whole_follow_from_a_part_of_its_files(
    tmp_path: Path, request_for: Any, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    (tmp_path / "texts").mkdir()
    for number in range(4):
        WRITERS[ending](tmp_path / "texts" / f"{number}.{ending}", rows(600, number))
    request = request_for(rates=str(tmp_path / "rates"), output=str(tmp_path / "data" / "whole"))
    monkeypatch.setattr(sample, "SAMPLE_BYTES", 1 << 20)
    monkeypatch.setitem(Corpus.__init__.__kwdefaults__, "batch_bytes", 1 << 16)
    monkeypatch.setattr(formats, "HEAD_BYTES", 1 << 12)
    monkeypatch.setattr(formats, "BLOCK", 1 << 14)
    measure_sample(request)
    found = only_rate(tmp_path / "rates")
    assert not found.whole
    assert found.core_seconds > 0
    assert list((tmp_path / "data").iterdir()) == []
    prepare(request)
    whole = only_rate(tmp_path / "rates")
    assert whole.whole
    manifest = Manifest.load(Path(request.output))
    assert whole.tokens == sum(split.tokens for split in manifest.splits.values()) == whole.expected_tokens
    assert whole.stored_bytes == whole.total_bytes == found.total_bytes
    assert found.text_bytes < whole.text_bytes / 2
    assert found.expected_tokens == pytest.approx(whole.tokens, rel=0.2)
    assert found.disk_bytes / found.tokens == pytest.approx(whole.disk_bytes / whole.tokens, rel=0.1)
    measure_sample(request)
    assert only_rate(tmp_path / "rates") == whole  # what is known of all is not replaced


def test_a_small_source_is_sampled_to_its_end(tmp_path: Path, request_for: Any) -> None:
    write_texts(tmp_path / "texts", 40)
    measure_sample(request_for(rates=str(tmp_path / "rates")))
    rate = only_rate(tmp_path / "rates")
    assert (rate.documents, rate.stored_bytes) == (40, rate.total_bytes)
    assert rate.expected_tokens == rate.tokens


def test_a_source_without_text_is_refused(tmp_path: Path, request_for: Any) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text(" \n")
    with pytest.raises(DataError, match="no text was found where `texts` was sampled"):
        measure_sample(request_for(rates=str(tmp_path / "rates")))


def test_what_was_started_before_or_appended_is_no_measurement(tmp_path: Path, request_for: Any) -> None:
    write_texts(tmp_path / "texts", 40)
    request = request_for(rates=str(tmp_path / "rates"))
    prepare(replace(request, rates=""))
    write_texts(tmp_path / "texts", 6, first=100)
    prepare(replace(request, append=True))
    assert list(rates(tmp_path / "rates")) == []
