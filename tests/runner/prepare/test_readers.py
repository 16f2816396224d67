"""Documents out of files: every layout, every reason for leaving one out, and where each document stood."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import runner.prepare.corpus
import runner.prepare.readers
from curriculum.data.listing import SourceFile
from curriculum.data.manifest import TRAIN
from curriculum.errors import DataError
from runner.prepare.columns import look_up
from runner.prepare.corpus import Corpus
from runner.prepare.extract import chinese_docstrings
from runner.prepare.readers import list_sources, of_split
from runner.prepare.tally import Tally

ROWS = [{"text": f"document {n}", "name": f"own-{n}", "meta": {"set": "ab"[n % 2]}} for n in range(5)]


def lines(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def documents(corpus: Corpus, rank: int = 0, tasks: int = 1) -> list[tuple[str, str]]:
    """`(id, text)` of every document of a task."""
    return [
        (json.loads(line), text)
        for batch in corpus.batches(rank, tasks)
        for line, text in zip(batch.lines, batch.texts.strings(), strict=True)
    ]


def read(folder: Path, **options: Any) -> tuple[list[tuple[str, str]], Tally]:
    """`(id, text)` of every document below `folder`, and the tally."""
    tally = Tally()
    files, _ = list_sources({"folder": str(folder)})
    corpus = Corpus(files, tally=tally, **options)
    return documents(corpus), tally


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_every_layout_of_rows_gives_the_same_documents(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows{ending}"
    if ending == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif ending == ".jsonl.gz":
        path.write_bytes(gzip.compress(lines(ROWS[:2])) + gzip.compress(lines(ROWS[2:])))
    elif ending == ".jsonl.zst":
        first, second = (
            pa.compress(lines(ROWS[:2]), "zstd", asbytes=True),
            pa.compress(lines(ROWS[2:]), "zstd", asbytes=True),
        )
        path.write_bytes(first + second)
    else:
        path.write_bytes(lines(ROWS))
    assert read(tmp_path)[0] == [(f"rows{ending}:{n + 1}", f"document {n}") for n in range(5)]
    assert read(tmp_path, id="name")[0] == [(f"own-{n}", f"document {n}") for n in range(5)]


def test_a_plain_file_is_one_document_named_by_its_path_and_kept_to_the_byte(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.txt").write_bytes("Zeile\r\nzwei\u2028 ".encode())
    (tmp_path / "deep" / "a.md").write_bytes(b"# one")
    (tmp_path / ".hidden.txt").write_bytes(b"no")
    assert read(tmp_path)[0] == [("b.txt", "Zeile\r\nzwei\u2028 "), ("deep/a.md", "# one")]


def test_what_is_left_out_is_counted_by_reason_and_does_not_move_the_numbers_of_other_rows(tmp_path: Path) -> None:
    good = json.dumps({"text": "kept"}).encode()
    content = [
        b'{"text": ""}',
        b'{"text": " \\n"}',
        b"{broken",
        b'{"text": "\xff"}',
        b"",
        b"[1]",
        b"{}",
        b'{"text": 3}',
        b'{"text": null}',
    ]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join([*content, good]) + b"\n")
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    (tmp_path / "void.txt").write_bytes(b"")
    found, tally = read(tmp_path)
    assert found == [("rows.jsonl:10", "kept")]
    reasons = {reason: count for (_, reason), count in tally.dropped.items()}
    assert reasons == {
        "empty": 3,
        "not JSON": 1,
        "not UTF-8": 2,
        "no text column": 1,
        "with a list of numbers instead of an object": 1,
        "with a number instead of text": 1,
        "with null instead of text": 1,
    }


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        ({"text": ""}, "empty"),
        ({"text": " \n"}, "empty"),
        ({"text": "\ufeff"}, "empty"),
        ({"text": "\ufeff \t"}, "empty"),
        ({"text": None}, "with null instead of text"),
        ({"text": 3}, "with a number instead of text"),
        ({"content": "elsewhere"}, "no text column"),
        (["text"], "with a list instead of an object"),
        ("text", "with a string instead of an object"),
        ({"text": "half \ud83d"}, "with half a surrogate pair"),
        ({"text": "x" * 101}, "longer than 1 GiB"),
        ({"text": "\ufeffmarked"}, None),
        ({"text": "\tindented"}, None),
        ({"text": "größer"}, None),
    ],
)
def test_one_odd_row_among_plain_ones_is_counted_or_read_and_moves_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: Any, reason: str | None
) -> None:
    monkeypatch.setattr(runner.prepare.corpus, "LONGEST_TEXT", 100)
    rows = [{"text": "first", "a": 1}, {"text": "second", "b": 2}, odd, {"text": "last"}]
    (tmp_path / "rows.jsonl").write_bytes(content := lines(rows))
    found, tally = read(tmp_path)
    own = [] if reason else [("rows.jsonl:3", odd["text"].removeprefix("\ufeff"))]
    assert found == [("rows.jsonl:1", "first"), ("rows.jsonl:2", "second"), *own, ("rows.jsonl:4", "last")]
    assert tally.dropped == ({(TRAIN, reason): 1} if reason else {})
    assert tally.columns == {"text", "a", "b"} | (odd.keys() if isinstance(odd, dict) else set())
    assert tally.bytes == len(content) - content.count(b"\n")


def test_parquet_text_that_is_not_utf8_is_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    raw = pa.array([b"one", b"\xff\xfe", None, b"four"], pa.binary())
    column = pa.Array.from_buffers(pa.string(), 4, raw.buffers())
    pq.write_table(pa.table({"text": column, "other": [1, 2, 3, 4]}), tmp_path / "t.parquet")
    found, tally = read(tmp_path)
    assert found == [("t.parquet:1", "one"), ("t.parquet:4", "four")]
    assert {why: n for (_, why), n in tally.dropped.items()} == {"not UTF-8": 1, "with null instead of text": 1}


READ_WITHOUT_PANDAS = """
import sys
from curriculum.data.listing import SourceFile
from runner.prepare.corpus import Corpus
(batch,) = Corpus([SourceFile("t.parquet", sys.argv[1])]).batches()
assert batch.texts.strings() == ["one", "three"], batch
assert "pandas" not in sys.modules
"""


def test_a_table_with_an_empty_row_is_read_without_the_import_of_pandas(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["one", "", "three"]}), tmp_path / "t.parquet")
    words = [sys.executable, "-c", READ_WITHOUT_PANDAS, str(tmp_path / "t.parquet")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.promise("Batches stay small where some documents are much longer than those before them")
@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_batches_stay_near_their_size_where_documents_become_much_longer(tmp_path: Path, ending: str) -> None:
    tables = [pa.table({"text": [f"{group} short {n}" for n in range(300)]}) for group in range(5)]
    tables += [pa.table({"text": [f"{group} {n} " + "long " * 4000 for n in range(20)]}) for group in range(2)]
    opened = pq.ParquetWriter if ending == "parquet" else pa.ipc.new_file
    with opened(tmp_path / f"t.{ending}", tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)
    file = SourceFile(f"t.{ending}", str(tmp_path / f"t.{ending}"))
    batches = list(Corpus([file], batch_bytes=30_000).batches())
    assert max(len(batch.texts.data) for batch in batches) < 60_000
    assert len(batches) < 60  # the short ones are together
    texts = [text for table in tables for text in table["text"].to_pylist()]
    assert [text for batch in batches for text in batch.texts.strings()] == texts
    lines = [json.loads(line) for batch in batches for line in batch.lines]
    assert lines == [f"t.{ending}:{row}" for row in range(1, 1541)]


def test_a_missing_text_column_leaves_every_row_out_and_the_columns_are_remembered(tmp_path: Path) -> None:
    pq.write_table(pa.table({"content": ["a", "b"], "path": ["x", "y"]}), tmp_path / "t.parquet")
    found, tally = read(tmp_path)
    assert found == []
    assert sum(tally.dropped.values()) == 2
    assert tally.columns == {"content", "path"}


@pytest.mark.parametrize("ending", [".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_a_file_that_breaks_off_is_refused_by_name(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows{ending}"
    rows = [{"text": f"{n} {n * 7919 % 1000}"} for n in range(5000)]
    if ending == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif ending == ".jsonl.gz":
        path.write_bytes(gzip.compress(lines(rows)))
    else:
        path.write_bytes(pa.compress(lines(rows), "zstd", asbytes=True))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"rows{ending}` cannot be read to its end"):
        read(tmp_path)


def test_tasks_share_the_files_or_the_rows_without_loss_or_overlap(tmp_path: Path) -> None:
    for n in range(7):
        (tmp_path / f"{n}.jsonl").write_bytes(lines(ROWS))
    files, _ = list_sources({"folder": str(tmp_path)})
    whole = [name for name, _ in documents(Corpus(files))]
    for by_rows in (False, True):
        parts = [[name for name, _ in documents(Corpus(files, by_rows=by_rows), rank, 3)] for rank in range(3)]
        assert sorted(name for part in parts for name in part) == sorted(whole)
        assert all(parts)


@pytest.mark.parametrize(
    ("drop", "keep", "left", "reason"),
    [
        ({"meta.set": "a"}, {}, [1, 3], "meta.set is a"),
        ({}, {"meta.set": ["a", "z"]}, [0, 2, 4], "meta.set is not a or z"),
        ({"flag": True}, {}, [1, 3], "flag is true"),
        ({}, {"blob.lang": "py"}, [0, 1, 2, 3, 4], None),
    ],
)
@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_filters_look_into_nested_columns(
    tmp_path: Path, drop: Mapping[str, Any], keep: Mapping[str, Any], left: list[int], reason: str, ending: str
) -> None:
    rows = [{**row, "flag": n % 2 == 0, "blob": '{"lang": "py"}'} for n, row in enumerate(ROWS)]
    if ending == ".jsonl":
        (tmp_path / "r.jsonl").write_bytes(lines(rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "r.parquet")
    tally = Tally()
    files, _ = list_sources({"folder": str(tmp_path)})
    corpus = Corpus(files, id="name", drop=drop, keep=keep, tally=tally)
    assert [name for name, _ in documents(corpus)] == [f"own-{n}" for n in left]
    assert dict(tally.dropped) == ({("train", reason): 5 - len(left)} if reason else {})


def test_a_column_whose_own_name_has_a_dot_is_found() -> None:
    assert look_up({"a.b": 1, "a": {"b": 2}}, "a.b") == 1
    assert look_up({"a": {"b": 2}}, "a.b") == 2
    assert look_up({"a": "text"}, "a.b") is None


def test_a_corpus_s_own_split_is_recognised_by_a_whole_word_of_the_path() -> None:
    names = ["train/0.jsonl", "validation/0.jsonl", "data/validation-00000-of-1.parquet", "invalidation/x.jsonl"]
    train, held_out = of_split([SourceFile(name, name) for name in names], "validation")
    assert [file.name for file in train] == ["train/0.jsonl", "invalidation/x.jsonl"]
    assert len(held_out) == 2
    with pytest.raises(DataError, match="nothing is left for the held-out split"):
        of_split([SourceFile("train/0.jsonl", "")], "validation")


def test_a_folder_on_another_file_system_is_listed_and_read() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/far/corpus/b.txt", b"second")
    memory.pipe("/far/corpus/a/a.jsonl", lines(ROWS[:1]))
    memory.pipe("/far/corpus/skip.bin", b"no")
    files, _ = list_sources({"folder": "memory://far/corpus"})
    assert [(file.name, file.bytes) for file in files] == [("a/a.jsonl", len(lines(ROWS[:1]))), ("b.txt", 6)]
    assert [text for _, text in documents(Corpus(files))] == ["document 0", "second"]


def test_a_hub_dataset_is_pinned_to_the_commit_that_was_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/datasets/org/set@abc/train/0.jsonl", lines(ROWS))
    memory.pipe("/datasets/org/set@abc/test/0.jsonl", lines(ROWS))
    asked = []

    def info(self: Any, name: str, revision: str | None = None) -> Any:
        asked.append((name, revision))
        return types.SimpleNamespace(sha="abc")

    original = runner.prepare.readers.storage_of
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", info)
    monkeypatch.setattr(runner.prepare.readers, "storage_of", lambda path: original(path.replace("hf://", "memory://")))
    files, learnt = list_sources({"hub": "org/set", "files": "train/*.jsonl", "revision": "main"})
    assert learnt == {"revision": "abc"}
    assert asked == [("org/set", "main")]
    assert [file.name for file in files] == ["train/0.jsonl"]
    assert len(documents(Corpus(files))) == 5
    chosen, _ = list_sources({"hub": "org/set", "files": "*.jsonl", "subsets": ["test"]})
    assert [file.name for file in chosen] == ["test/0.jsonl"]


def test_a_hub_that_cannot_be_reached_is_a_refusal_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(self: Any, name: str, revision: str | None = None) -> Any:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    with pytest.raises(DataError, match="org/set` cannot be reached: no route") as refusal:
        list_sources({"hub": "org/set"})
    assert "network" in (refusal.value.hint or "")


def test_chinese_sentences_come_out_of_docstrings_and_comments_once_each(tmp_path: Path) -> None:
    long = "查询指定镜像仓库中所有可以使用的镜像版本列表。"
    other = "返回值中包含实例的当前状态以及最近一次操作的结果！"
    (tmp_path / "a.py").write_text(
        f'NAME = "{other}"\n\ndef f(x):\n    r"""{long}<br>太短了。\n'
        f"    :param _Id: {other}\n    :type Id: str\n"
        f'    """\n    # [看这里](https://example.org) &nbsp;{long}\n'
    )
    (tmp_path / "b.py").write_text(f"# {long}\n# {'好' * 16}{'x' * 25}\n# {'好' * 16}{'x' * 24}\n")
    (tmp_path / "c.py").write_text("# ascii only\n")
    files, _ = list_sources({"folder": str(tmp_path), "files": "*.py"})
    found = dict(chinese_docstrings(files))
    assert found == {"a.py": f"{long}\n{other}\n看这里 {long}\n", "b.py": f"{'好' * 16}{'x' * 24}\n"}


@pytest.mark.parametrize("ending", ["txt", "jsonl", "json", "parquet"])
def test_a_document_that_is_too_long_is_counted_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr(runner.prepare.corpus, "LONGEST_TEXT", 101)
    texts = ["ä" * 50, "ä" * 51, "a" * 101, "b" * 300, "short"]  # cut inside a character, the second would be no UTF-8
    if ending == "txt":
        for number, text in enumerate(texts):
            (tmp_path / f"{number}.txt").write_text(text)
    elif ending == "parquet":
        pq.write_table(pa.table({"text": texts}), tmp_path / "0.parquet")
    else:
        values = [json.dumps({"text": text}) for text in texts]
        (tmp_path / f"0.{ending}").write_text("\n".join(values) if ending == "jsonl" else f"[{','.join(values)}]")
    tally = Tally()
    corpus = Corpus(list_sources({"folder": str(tmp_path)})[0], tally=tally)
    found = [text for batch in corpus.batches() for text in batch.texts.strings()]
    assert found == [texts[0], texts[2], texts[4]]
    assert tally.dropped == {(TRAIN, "longer than 1 GiB"): 2}
    assert tally.stored == sum(path.stat().st_size for path in tmp_path.iterdir())
