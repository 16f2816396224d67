"""Too little text, or text in another column: what there is and what would do."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from texts import write_texts

from curriculum.data.manifest import HELD_OUT, TRAIN, Manifest
from curriculum.data.progress import describe_unread, read_progress
from curriculum.data.requests import TokenizerRequest
from curriculum.errors import DataError
from runner.prepare.job import prepare
from runner.prepare.tokenizer import train_tokenizer


def test_a_held_out_split_of_under_64_windows_is_refused_and_the_share_it_names_would_do(
    tmp_path: Path, request_for: Any
) -> None:
    write_texts(tmp_path / "texts", 40)
    request = request_for(held_out={"share": "1%"}, sequence_length=32)
    with pytest.raises(DataError, match=r"has \d+ windows of 32 tokens; 64 are the least") as refusal:
        prepare(request)
    assert not Path(request.output).exists()
    share = (refusal.value.hint or "").removeprefix("`held_out: ").removesuffix("` would do")
    enough = replace(request, held_out={"share": share})
    prepare(enough)
    windows = Manifest.load(Path(enough.output)).splits[HELD_OUT].windows(32)
    assert 64 <= windows < 80


def test_a_text_that_no_share_would_do_for_learns_what_it_has_and_what_it_needs(
    tmp_path: Path, request_for: Any
) -> None:
    write_texts(tmp_path / "texts", 40)
    with pytest.raises(DataError, match="0 windows of 4000 tokens; 64 are the least") as refusal:
        prepare(request_for(sequence_length=4000))
    said = re.findall(r"[0-9,]*[0-9]", refusal.value.what.splitlines()[1])
    held_out, documents, some, tokens, needed = (int(digits.replace(",", "")) for digits in said)
    assert documents == 40
    assert 0 < held_out < 20
    assert 0 < some < tokens
    assert needed == 64 * 4000 + 1
    hint = refusal.value.hint or ""
    assert "at `held_out: 20%` about 1,280,005 tokens are needed" in hint
    assert "at 50%, the most, 512,002" in hint
    assert refusal.value.entry == ("sources", "texts", "held_out")


def test_no_share_is_named_that_sources_yaml_would_refuse_or_that_leaves_nothing_to_train_on(
    tmp_path: Path, request_for: Any
) -> None:
    write_texts(tmp_path / "texts", 40)
    prepare(request_for(held_out=None, output=str(tmp_path / "all")))
    tokens = Manifest.load(tmp_path / "all").splits[TRAIN].tokens
    length = int(tokens * 0.7) // 64  # only some 70% would hold out 64 windows
    with pytest.raises(DataError, match="64 are the least") as refusal:
        prepare(request_for(sequence_length=length, tasks=1))
    assert "would do" not in (refusal.value.hint or "")
    (tmp_path / "one").mkdir()
    for number in range(20):  # whichever half of all hashes it falls in, it is one document
        (tmp_path / "one" / "a.txt").write_text(f"{number} " + "the people of the state " * 2000)
        with pytest.raises(DataError) as refusal:
            prepare(request_for(read={"folder": "one"}, output=str(tmp_path / f"one-{number}"), tasks=1))
        assert "would do" not in (refusal.value.hint or "")
        assert "into more files or rows" in (refusal.value.hint or "")


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_text_in_another_column_is_reported_with_the_file_and_the_columns_by_the_sample_and_by_a_preparation(
    kind: str, tmp_path: Path, request_for: Any
) -> None:
    (tmp_path / "texts").mkdir()
    rows = [{"id": n, "content": f"the people of the state {n}"} for n in range(9)]
    if kind == "jsonl":
        (tmp_path / "texts" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "texts" / "a.parquet")
    training = TokenizerRequest(
        reads={"texts": {"folder": "texts"}}, vocab_size=300, output=str(tmp_path / "t.json"), root=str(tmp_path)
    )
    for refused in (lambda: train_tokenizer(training), lambda: prepare(request_for())):
        with pytest.raises(DataError) as refusal:
            refused()
        assert refusal.value.what == (
            f"`texts` has no text in the column `text`, from `a.{kind}:1` on; its columns are `content`, `id`"
        )
        assert refusal.value.hint == "name the one that holds the text under `read:`, as in `text: content`"
        assert refusal.value.entry == ("sources", "texts", "read")


def test_documents_that_are_no_text_are_counted_and_the_first_named_in_the_last_line_of_progress(
    tmp_path: Path, request_for: Any
) -> None:
    write_texts(tmp_path / "texts", 40)
    for name in ("0a", "0b", "0c"):
        (tmp_path / "texts" / f"{name}.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "texts" / "void.txt").write_text("")
    request = request_for(tasks=2)
    prepare(request)
    unread = read_progress(Path(request.progress)).unread
    assert unread == {"empty": (1, "void.txt"), "not UTF-8": (3, "0a.txt")}
    assert describe_unread(unread) == "1 empty (the first: void.txt), 3 not UTF-8 (the first: 0a.txt)"
    chosen = request_for(output=str(tmp_path / "chosen"), progress=str(tmp_path / "chosen.jsonl"))
    (tmp_path / "texts" / "rows.jsonl").write_text('{"text": "the law", "lang": "fr"}\n')
    prepare(replace(chosen, drop={"lang": ["fr"]}, read={"folder": "texts", "exclude": ["0?.txt", "void.txt"]}))
    assert not read_progress(Path(chosen.progress)).unread  # what a person leaves out is no surprise


@pytest.mark.promise(
    "Where too little is held out because rows were left out, the refusal counts them and names the cause"
)
@pytest.mark.parametrize(
    ("row", "changes", "counted", "hint"),
    [
        ({"content": "TEXT"}, {}, "30 no text column (the first: 0.jsonl:1)", "`text: content`"),
        ({"text": ["TEXT"]}, {}, "30 with a list instead of text (the first: 0.jsonl:1)", "under `read:`"),
        ({"text": "TEXT", "lang": "fr"}, {"drop": {"lang": "fr"}}, "30 for lang is fr", "by filters, 30: see"),
    ],
)
def test_too_little_held_out_because_rows_were_left_out_counts_them_and_names_the_cause(
    tmp_path: Path, request_for: Any, row: dict[str, Any], changes: dict[str, Any], counted: str, hint: str
) -> None:
    write_texts(tmp_path / "plain", 60)
    texts = [json.dumps(path.read_text())[1:-1] for path in sorted((tmp_path / "plain").iterdir())]
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "0.jsonl").write_text("".join(json.dumps(row).replace("TEXT", t) + "\n" for t in texts[:30]))
    (tmp_path / "texts" / "1.jsonl").write_text("".join(f'{{"text": "{text}"}}\n' for text in texts[30:]))
    prepare(request_for(held_out=None, output=str(tmp_path / "all"), **changes))
    tokens = Manifest.load(tmp_path / "all").splits[TRAIN].tokens
    length = int(tokens * 0.3) // 64  # 20% of half of the rows do not do, 20% of all would
    with pytest.raises(DataError, match="64 are the least") as refusal:
        prepare(request_for(sequence_length=length, **changes))
    assert f"left out: {counted}; its columns are " in refusal.value.what
    assert hint in (refusal.value.hint or "")


@pytest.mark.parametrize(
    ("line", "counted", "hint"),
    [
        (b"{'text': 'single quotes'}", "2 not JSON", "`format: text`"),
        ('{"text": "é"}'.encode("latin-1"), "2 not UTF-8", "iconv"),
        (b'{"text": [5, 6, 7]}', "2 with a list of numbers instead of text", "`read: {tokenised: FOLDER}`"),
    ],
)
def test_rows_none_of_which_is_text_are_refused_with_what_helps_against_their_reason(
    tmp_path: Path, request_for: Any, line: bytes, counted: str, hint: str
) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.jsonl").write_bytes(line + b"\n" + line + b"\n")
    with pytest.raises(DataError) as refusal:
        prepare(request_for())
    assert refusal.value.what == f"`texts` has no text to read: {counted} (the first: a.jsonl:1)"
    assert hint in (refusal.value.hint or "")
