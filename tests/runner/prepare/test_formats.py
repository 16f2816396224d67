"""What a file holds is seen from its content: compression, encoding, rows, tables and text under any name."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import json
import lzma
import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from hypothesis import given, strategies as st
from texts import write_texts

import runner.prepare.corpus
from curriculum.data.listing import SourceFile
from curriculum.data.manifest import HELD_OUT, TRAIN, Manifest
from curriculum.data.progress import read_progress
from curriculum.errors import DataError
from runner.prepare import formats
from runner.prepare.corpus import Corpus
from runner.prepare.job import prepare
from runner.prepare.tally import Tally

TEXTS = ["first: a document", "second\r\nof two lines", "dritter, äöü"]
ROWS: list[Any] = [{"text": text, "url": f"u{n}"} for n, text in enumerate(TEXTS)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
}


def read(folder: Path, name: str, data: bytes, format: str | None = None) -> tuple[list[str], dict[str, int]]:
    """The texts of a file of this name and content, and how many documents were left out for which reason."""
    path = folder / name
    path.write_bytes(data)
    tally = Tally()
    batches = list(Corpus([SourceFile(name, str(path))], format=format, tally=tally).batches())
    ids = [line for batch in batches for line in batch.lines]
    assert len(set(ids)) == len(ids)
    return [text for batch in batches for text in batch.texts.strings()], {
        reason: n for (_, reason), n in tally.dropped.items()
    }


def parquet(rows: list[Any]) -> bytes:
    pq.write_table(pa.Table.from_pylist(rows), out := io.BytesIO())
    return out.getvalue()


@pytest.mark.promise("What a file is follows from its content or its stated `format`, under whatever name it has")
@pytest.mark.parametrize("packed", COMPRESS)
@pytest.mark.parametrize("ending", [".json", ".jsonl", ".jsonlines", ".ndjson", ".txt", ".parquet", ""])
def test_rows_and_tables_are_read_as_such_under_any_ending_and_compression(
    tmp_path: Path, ending: str, packed: str
) -> None:
    pretty = "\n".join(json.dumps(row, indent=1) for row in ROWS).encode()
    array, indented = json.dumps(ROWS).encode(), json.dumps(ROWS, indent=2, ensure_ascii=False).encode()
    for content in (LINES, LINES.rstrip(), LINES.replace(b"\n", b"\r\n"), pretty, array, indented, parquet(ROWS)):
        for name in (f"part{ending}{packed}", f"part{ending}"):  # also where the name does not say that it is packed
            assert read(tmp_path, name, COMPRESS[packed](content)) == (TEXTS, {})


@pytest.mark.parametrize(
    "text",
    [
        "[1] A list of references\n",
        '["a", "b"]\n',
        "{\\rtf1 no JSON}",
        '{"a": 1} is an object\nand this is prose\n',
        '{"a": 1}\nand this is prose\n',
        '{\n  "title": "front matter"\n}\n\n# Prose\n',
        "[" * 100_000,
        "PAR is not a table, BZh is no archive\n",
    ],
)
def test_text_that_only_begins_as_something_else_is_one_document(tmp_path: Path, text: str) -> None:
    for name in ("a.txt", "a.md.gz", "README"):
        assert read(tmp_path, name, (gzip.compress if ".gz" in name else bytes)(text.encode())) == ([text], {})


def test_a_stated_format_decides_before_content_and_name(tmp_path: Path) -> None:
    assert read(tmp_path, "a.jsonl", LINES, "text") == ([LINES.decode()], {})
    assert read(tmp_path, "a.json.gz", gzip.compress(LINES), "text") == ([LINES.decode()], {})
    assert read(tmp_path, "a.csv", b"a,b\n1,2\n", "text") == (["a,b\n1,2\n"], {})
    assert read(tmp_path, "a.txt", b"prose\nof two lines\n", "json") == ([], {"not JSON": 2})
    assert read(tmp_path, "a.bin", parquet(ROWS), "parquet") == (TEXTS, {})
    with pytest.raises(DataError, match="cannot be read to its end"):
        read(tmp_path, "a.txt", b"prose", "parquet")


def test_what_is_neither_is_refused_or_counted_and_never_read_as_text(tmp_path: Path) -> None:
    for name in ("a.csv", "a.tsv.gz"):
        with pytest.raises(DataError, match="a table of separated values") as refusal:
            read(tmp_path, name, (gzip.compress if ".gz" in name else bytes)(b"text,url\nwords,u0\n"))
        assert "`format: text`" in (refusal.value.hint or "")
    with pytest.raises(DataError, match=r"a\.jsonl\.zst` cannot be read to its end: .* its content is not"):
        read(tmp_path, "a.jsonl.zst", b"<html>404</html>")
    for content in (bytes(range(256)), "UTF-16 without a mark".encode("utf-16-le"), b"PK\x03\x04\x0a\0\0\0"):
        assert read(tmp_path, "a.txt", content) == ([], {"binary": 1})
    assert read(tmp_path, "a.jsonl", b"<html>\ngone\n") == ([], {"not JSON": 2})


def test_a_broken_line_costs_one_row_also_the_first_and_before_a_row_longer_than_the_head(tmp_path: Path) -> None:
    long = [{"text": "word " * 200_000}, *ROWS]
    lines = "".join(json.dumps(row) + "\n" for row in long).encode()
    for name in ("a.jsonl", "a.txt"):
        assert read(tmp_path, name, lines) == ([long[0]["text"], *TEXTS], {})
    assert read(tmp_path, "b.json", b'{"text": "never ends\n' + lines) == ([long[0]["text"], *TEXTS], {"not JSON": 1})
    assert read(tmp_path, "b.json", LINES + b"{\xff}\n") == (TEXTS, {"not UTF-8": 1})


@given(
    data=st.lists(st.sampled_from([b"\n", b"ab", b"c" * 9, b"\r"]), max_size=12).map(b"".join),
    block=st.integers(1, 30),
    longest=st.integers(0, 12),
)
def test_lines_are_split_as_they_are_whatever_is_read_at_a_time_and_longer_ones_are_not_kept(
    data: bytes, block: int, longest: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "BLOCK", block)
        found = [line for lines in formats.line_blocks(io.BytesIO(data), max(block, longest)) for line in lines]
    expected = [line.removesuffix(b"\n") for line in io.BytesIO(data)]
    assert found == [line if len(line) <= max(block, longest) else None for line in expected]


@pytest.mark.promise("A row or document that is too long is counted and never held in memory as a whole")
@pytest.mark.parametrize("packed", ["", ".zst"])
def test_a_row_that_is_too_long_is_counted_and_not_held_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: str
) -> None:
    monkeypatch.setattr(runner.prepare.corpus, "LONGEST_JSON", 1 << 20)
    monkeypatch.setattr(runner.prepare.corpus, "LONGEST_TEXT", 1 << 20)
    monkeypatch.setattr(formats, "BLOCK", 1 << 18)
    long = json.dumps({"text": "long " * 6_000_000}).encode()  # 30 MB
    for name, data in {
        f"rows.jsonl{packed}": LINES + long + b"\n" + LINES + long,
        f"text.txt{packed}": b"words " * 5_000_000,
    }.items():
        data = COMPRESS[packed](data)
        tracemalloc.start()
        found = read(tmp_path, name, data)
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found == ((TEXTS * 2, {"longer than 1 GiB": 2}) if "rows" in name else ([], {"longer than 1 GiB": 1}))
        assert held < 8 << 20


def test_a_json_file_of_several_lines_that_is_too_long_is_refused_and_a_broken_first_line_costs_one_row_at_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner.prepare.corpus, "LONGEST_JSON", len(LINES))
    monkeypatch.setattr(formats, "BLOCK", 16)
    assert read(tmp_path, "a.json", LINES * 2) == (TEXTS * 2, {})
    with pytest.raises(DataError, match="begins like JSON over several lines") as refused:
        read(tmp_path, "b.json", json.dumps(ROWS, indent=1).encode() * 2)
    assert "jq -c" in str(refused.value.hint)
    assert read(tmp_path, "c.json", b"<broken\n" + LINES * 2) == (TEXTS * 2, {"not JSON": 1})


@pytest.mark.promise("A byte-order mark costs no document and is no part of its text")
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_a_byte_order_mark_states_the_encoding_and_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    mark = b"" if encoding == "utf-8-sig" else "\ufeff".encode(encoding)
    for ending in (".jsonl", ".json", ".txt"):
        assert read(tmp_path, f"a{ending}", mark + LINES.decode().encode(encoding)) == (TEXTS, {})
        assert read(tmp_path, f"b{ending}", mark + json.dumps(ROWS, indent=1).encode(encoding)) == (TEXTS, {})
    for text in TEXTS:
        assert read(tmp_path, "c.txt.gz", gzip.compress(mark + text.encode(encoding))) == ([text], {})
    monkeypatch.setattr(formats, "BLOCK", 5)
    assert read(tmp_path, "d.jsonl", mark + LINES.decode().encode(encoding)) == (TEXTS, {})


def test_marks_inside_rows_and_values_are_not_read_and_a_truncated_encoding_is_refused(tmp_path: Path) -> None:
    marked = [{"text": "\ufeff" + text} for text in TEXTS]
    lines = b"".join(codecs.BOM_UTF8 + json.dumps(row).encode() + b"\n" for row in marked)
    assert read(tmp_path, "joined.jsonl", lines) == (TEXTS, {})
    assert read(tmp_path, "t.parquet", parquet(marked)) == (TEXTS, {})
    assert read(tmp_path, "void.txt", codecs.BOM_UTF8) == ([], {"empty": 1})
    with pytest.raises(DataError, match=r"cannot be read to its end: 'utf-16-le' codec .* truncated data"):
        read(tmp_path, "cut.txt", codecs.BOM_UTF16_LE + "text".encode("utf-16-le")[:-1])


@pytest.mark.promise("Rows that `json.dumps` writes keep their text, whatever their other columns hold")
def test_numbers_that_are_none_and_other_columns_cost_no_row(tmp_path: Path) -> None:
    others = [math.nan, math.inf, -math.inf, 10**400, "\ud800", "\x00\x1f", {"deep": [math.nan]}, None, True]
    rows = [{"text": f"document {n}", "other": other} for n, other in enumerate(others)]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    texts = [row["text"] for row in rows]
    assert read(tmp_path, "a.jsonl", lines) == (texts, {})
    assert read(tmp_path, "a.json", json.dumps(rows).encode()) == (texts, {})
    tabs = b'{"text": "a raw\ttab"}\n{"text": "half \\ud83d"}\n' + b'{"text": ' + b"[" * 100_000 + b"\n"
    assert read(tmp_path, "b.jsonl", tabs) == (["a raw\ttab"], {"with half a surrogate pair": 1, "not JSON": 1})


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec=None)), inner, max_size=3),
    max_leaves=5,
)


@given(
    rows=st.lists(st.dictionaries(st.sampled_from(["text", "id", "a\ud800", ""]), VALUES, max_size=4), max_size=4),
    ascii=st.booleans(),
)
def test_every_row_that_json_dumps_writes_is_a_document_or_counted(
    rows: list[Any], ascii: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    data = "".join(json.dumps(row, ensure_ascii=ascii) + "\n" for row in rows).encode(errors="surrogatepass")
    (folder / "rows.jsonl").write_bytes(data)
    tally = Tally()
    batches = list(Corpus([SourceFile("rows.jsonl", str(folder / "rows.jsonl"))], id="id", tally=tally).batches())
    texts = [text for batch in batches for text in batch.texts.strings()]
    ids = [json.loads(line) for batch in batches for line in batch.lines]
    assert len(texts) + sum(tally.dropped.values()) == len(rows)
    for text, name in zip(texts, ids, strict=True):
        assert text.strip()
        (text + name + "".join(tally.columns)).encode()


def test_columns_with_something_else_than_text_are_counted_by_what_they_hold(tmp_path: Path) -> None:
    found = {
        "with a list of numbers instead of text": [1, 2],
        "with a list instead of text": ["a"],
        "with a number instead of text": 0.5,
        "with true or false instead of text": True,
        "with an object instead of text": {"0": "pandas"},
    }
    for reason, value in found.items():
        rows = [{"text": value}]
        assert read(tmp_path, "a.jsonl", json.dumps(rows[0]).encode()) == ([], {reason: 1})
        assert read(tmp_path, "a.parquet", parquet(rows)) == ([], {reason: 1})
    assert read(tmp_path, "a.jsonl", b'{"text": "a"}\n["b"]\n') == (["a"], {"with a list instead of an object": 1})
    category = pa.table({"text": pa.array(["a", "b", "a"]).dictionary_encode()})
    pq.write_table(category, out := io.BytesIO())
    assert read(tmp_path, "a.parquet", out.getvalue()) == (["a", "b", "a"], {})


def test_keys_that_name_a_column_are_refused_where_all_files_are_plain_text(tmp_path: Path, request_for: Any) -> None:
    write_texts(tmp_path / "texts", 40)
    for keys, named in (
        ({"text": "text"}, "`text` names one"),
        ({"id": "name"}, "`id` names one"),
        ({"text": "body", "keep": {"lang": "en"}}, "`text` and `keep` name one"),
    ):
        with pytest.raises(DataError, match=f"all files of `texts` are plain text, which has no columns; {named}"):
            prepare(request_for(**keys))
    (tmp_path / "texts" / "zz.json").write_bytes(LINES)
    prepare(request_for(text="text"))


def test_sixty_rows_in_packed_files_are_sixty_documents_of_words(tmp_path: Path, request_for: Any) -> None:
    write_texts(tmp_path / "plain", 60)
    texts = [path.read_text() for path in sorted((tmp_path / "plain").iterdir())]
    (tmp_path / "texts").mkdir()
    for n in range(30):
        rows = "".join(json.dumps({"text": text, "url": f"u{n}"}) + "\n" for text in texts[2 * n : 2 * n + 2])
        (tmp_path / "texts" / f"part-{n:05d}-of-00030.json.gz").write_bytes(gzip.compress(rows.encode("utf-8-sig")))
    request = request_for(text="text")
    prepare(request)
    prepare(plain := request_for(read={"folder": "plain"}, output=str(tmp_path / "data" / "plain")))
    rows, whole = Manifest.load(Path(request.output)), Manifest.load(Path(plain.output))
    for split in (TRAIN, HELD_OUT):
        assert (rows.splits[split].documents, rows.splits[split].tokens) == (
            whole.splits[split].documents,
            whole.splits[split].tokens,
        )
    assert not read_progress(Path(request.progress)).unread


def test_text_of_other_endings_is_counted_and_named_and_other_files_are_not(tmp_path: Path, request_for: Any) -> None:
    write_texts(tmp_path / "texts", 40)
    for name, content in (("b.rst", b"words"), ("a.rst.gz", b"words"), ("LICENCE", b"MIT"), ("c.png", b"\x89PNG\0")):
        (tmp_path / "texts" / name).write_bytes(content)
    request = request_for()
    prepare(request)
    counted = {"ending in .rst": (2, "a.rst.gz"), "without an ending": (1, "LICENCE")}
    assert read_progress(Path(request.progress)).other_endings == counted
    for number, read in enumerate(({"exclude": ["*.rst", "*.rst.gz", "LICENCE"]}, {"files": "*.txt"})):
        other = request_for(read={"folder": "texts", **read}, output=str(tmp_path / f"{number}"))
        prepare(other)
        assert not read_progress(Path(other.progress)).other_endings
