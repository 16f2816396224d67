"""Preparing text: the same bytes however it was done, killed or not, and refusals that say what would do."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from tokenizers import Tokenizer as Inner
from tokenizers import models, normalizers, pre_tokenizers

import runner.prepare
import runner.shardwriter
from curriculum import durable
from curriculum.errors import Busy, DataError
from curriculum.shards.format import HELD_OUT, TRAIN, Manifest, PrepareRequest, TokenizerRequest, text_hash
from curriculum.shards.progress import in_words, read_progress
from curriculum.shards.reader import Dataset
from curriculum.tokenizer import Tokenizer
from runner.prepare import prepare, train_tokenizer

WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "that",
    "state",
    "people",
    "year",
    "law",
    "country",
    "congress",
    "peace",
]


def write_texts(folder: Path, documents: int, words: int = 200, *, first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + documents):
        drawn = random.Random(number).choices(WORDS, k=words)
        (folder / f"{number:04d}.txt").write_text(f"document {number} " + " ".join(drawn) + "\n")


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_texts(folder / "texts", 20)
    path = folder / "tokenizer.json"
    reads = {"texts": {"folder": "texts"}}
    train_tokenizer(TokenizerRequest(reads=reads, vocab_size=320, output=str(path), root=str(folder)))
    return str(path)


@pytest.fixture
def request_for(tmp_path: Path, tokenizer_file: str) -> Any:
    def make(**changes: Any) -> PrepareRequest:
        settings: dict[str, Any] = {
            "dataset": "texts",
            "read": {"folder": "texts"},
            "root": str(tmp_path),
            "tokenizer_file": tokenizer_file,
            "output": str(tmp_path / "data" / "out"),
            "progress": str(tmp_path / "attempt" / "progress.jsonl"),
            "sequence_length": 16,
            "held_out": {"share": "20%"},
            "tasks": 3,
        }
        return PrepareRequest(**{**settings, **changes})

    return make


def digests(folder: str | Path) -> dict[str, str]:
    """The SHA-256 of every file below `folder`."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def documents_of(output: str, split: str, tokenizer_file: str) -> dict[str, str]:
    """`{id: text with its marks}` of every document of a split."""
    tokenizer = Tokenizer.load(tokenizer_file)
    manifest = Manifest.load(Path(output))
    dataset = Dataset.open(output, split=split, sequence_length=16)
    found = {}
    for number, shard in enumerate(manifest.splits[split].shards):
        tokens = np.fromfile(Path(output) / shard.file, manifest.dtype)
        for document in range(shard.documents):
            span = dataset.document(number, document)
            found[span.id] = tokenizer.decode(tokens[span.first_token :][: span.tokens].tolist())
    return found


def test_the_bytes_are_the_same_for_one_worker_and_for_two(tmp_path: Path, request_for: Any) -> None:
    write_texts(tmp_path / "texts", 40)
    one = request_for(output=str(tmp_path / "one"))
    two = request_for(output=str(tmp_path / "two"), workers=2)
    many = request_for(output=str(tmp_path / "many"), workers=8)
    for request in (one, two, many):
        prepare(request)
    assert digests(one.output) == digests(two.output) == digests(many.output)
    assert not list(tmp_path.glob("*.partial"))


def test_every_document_is_there_once_ended_by_eos_and_without_bos(
    tmp_path: Path, request_for: Any, tokenizer_file: str
) -> None:
    write_texts(tmp_path / "texts", 40)
    request = request_for()
    prepare(request)
    train, held_out = (documents_of(request.output, split, tokenizer_file) for split in (TRAIN, HELD_OUT))
    assert not train.keys() & held_out.keys()
    written = {path.name: path.read_text() + "</s>" for path in (tmp_path / "texts").iterdir()}
    assert train | held_out == written
    manifest = Manifest.load(Path(request.output))
    assert (manifest.bos, manifest.eos) == (None, 0)
    assert manifest.splits[TRAIN].filler == len(train)
    assert manifest.splits[TRAIN].text_bytes == sum(len(text.encode()) - 4 for text in train.values())
    assert manifest.splits[TRAIN].max_token < manifest.vocab_size == 320


def test_what_is_held_out_stays_so_when_documents_are_added_moved_or_reordered(
    tmp_path: Path, request_for: Any, tokenizer_file: str
) -> None:
    write_texts(tmp_path / "texts", 40)
    before = request_for(output=str(tmp_path / "before"))
    prepare(before)
    write_texts(tmp_path / "texts", 20, first=40)
    (tmp_path / "texts" / "0000.txt").rename(tmp_path / "texts" / "zz.txt")
    after = request_for(output=str(tmp_path / "after"), tasks=2)
    prepare(after)
    old, new = (set(documents_of(r.output, HELD_OUT, tokenizer_file).values()) for r in (before, after))
    trained = set(documents_of(after.output, TRAIN, tokenizer_file).values())
    assert old < new
    assert not new & trained


def test_a_share_holds_out_about_that_share_of_the_documents(tmp_path: Path, request_for: Any) -> None:
    (tmp_path / "texts").mkdir()
    rows = (json.dumps({"text": f"document number {n}"}) for n in range(4000))
    (tmp_path / "texts" / "rows.jsonl").write_text("\n".join(rows))
    request = request_for(held_out={"share": "0.1"})
    prepare(request)
    assert 330 < Manifest.load(Path(request.output)).splits[HELD_OUT].documents < 470


def test_a_corpus_s_own_split_replaces_the_share(
    tmp_path: Path, request_for: Any, tokenizer_file: str
) -> None:
    write_texts(tmp_path / "texts" / "train", 10)
    write_texts(tmp_path / "texts" / "validation", 10, first=10)
    request = request_for(held_out={"split": "validation"})
    prepare(request)
    held_out = documents_of(request.output, HELD_OUT, tokenizer_file)
    assert set(held_out) == {f"validation/{n:04d}.txt" for n in range(10, 20)}
    assert len(documents_of(request.output, TRAIN, tokenizer_file)) == 10


def test_without_a_held_out_split_everything_is_trained_on(tmp_path: Path, request_for: Any) -> None:
    write_texts(tmp_path / "texts", 5)
    request = request_for(held_out=None)
    prepare(request)
    manifest = Manifest.load(Path(request.output))
    assert list(manifest.splits) == [TRAIN]
    assert manifest.splits[TRAIN].documents == 5


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


def test_a_text_that_no_share_would_do_for_is_told_what_it_has_and_what_it_needs(
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
def test_text_in_another_column_is_told_the_file_and_the_columns_by_the_sample_and_by_a_preparation(
    kind: str, tmp_path: Path, request_for: Any
) -> None:
    (tmp_path / "texts").mkdir()
    rows = [{"id": n, "content": f"the people of the state {n}"} for n in range(9)]
    if kind == "jsonl":
        (tmp_path / "texts" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "texts" / "a.parquet")
    training = TokenizerRequest(
        reads={"texts": {"folder": "texts"}},
        vocab_size=300,
        output=str(tmp_path / "t.json"),
        root=str(tmp_path),
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
    assert in_words(unread) == "1 empty (the first: void.txt), 3 not UTF-8 (the first: 0a.txt)"
    chosen = request_for(output=str(tmp_path / "chosen"), progress=str(tmp_path / "chosen.jsonl"))
    (tmp_path / "texts" / "rows.jsonl").write_text('{"text": "the law", "lang": "fr"}\n')
    prepare(
        replace(chosen, drop={"lang": ["fr"]}, read={"folder": "texts", "exclude": ["0?.txt", "void.txt"]})
    )
    assert not read_progress(Path(chosen.progress)).unread  # what a person leaves out is no surprise


def test_finished_work_is_not_touched_again(tmp_path: Path, request_for: Any) -> None:
    write_texts(tmp_path / "texts", 40)
    request = request_for()
    prepare(request)
    stats = {path: path.stat() for path in sorted(Path(request.output).rglob("*"))}
    (tmp_path / "texts" / "0000.txt").unlink()
    prepare(request)
    assert {path: path.stat() for path in sorted(Path(request.output).rglob("*"))} == stats


KILLED = """
import json, sys
from runner.prepare import prepare
from curriculum.shards.format import PrepareRequest
print("ready", flush=True)
prepare(PrepareRequest.from_json(json.load(open(sys.argv[1]))))
"""


def test_killed_half_way_it_goes_on_and_ends_in_the_same_bytes(tmp_path: Path, request_for: Any) -> None:
    write_texts(tmp_path / "texts", 60, words=6000)
    request = request_for(tasks=20, workers=2)
    (tmp_path / "request.json").write_text(json.dumps(request.to_json()))
    partial = Path(f"{request.output}.partial")
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "request.json")])
    while process.poll() is None and len(list(partial.glob("completions/*"))) < 3:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not Path(request.output).exists()
    done = sorted(path.name for path in partial.glob("completions/*"))
    assert 3 <= len(done) < 20
    finished = {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns)
        for name in done
        for path in (partial / "tasks" / name / TRAIN).glob("*.ds")
    }
    prepare(request)
    for name, (inode, changed) in finished.items():
        after = (Path(request.output) / TRAIN / name).stat()
        assert (after.st_ino, after.st_mtime_ns) == (inode, changed)
    uninterrupted = replace(request, output=str(tmp_path / "uninterrupted"))
    prepare(uninterrupted)
    assert digests(request.output) == digests(uninterrupted.output)


def test_a_half_written_task_is_begun_anew(tmp_path: Path, request_for: Any) -> None:
    write_texts(tmp_path / "texts", 40)
    request, whole = request_for(), request_for(output=str(tmp_path / "whole"))
    prepare(whole)
    partial = Path(f"{request.output}.partial")
    (tmp_path / "texts" / "0001.txt").rename(tmp_path / "kept.txt")
    (tmp_path / "texts" / "0001.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError):
        prepare(request)
    (tmp_path / "texts" / "0001.txt").unlink()
    (tmp_path / "kept.txt").rename(tmp_path / "texts" / "0001.txt")
    leftover = partial / "tasks" / "00001" / TRAIN
    leftover.mkdir(parents=True)
    (leftover / "00001.ds").write_bytes(b"half")
    prepare(request)
    assert digests(request.output) == digests(whole.output)


def test_a_failed_task_says_which_file_and_mending_it_costs_only_that_task(
    tmp_path: Path, request_for: Any
) -> None:
    write_texts(tmp_path / "texts", 9)
    broken = tmp_path / "texts" / "broken.jsonl.gz"
    broken.write_bytes(b"not packed")
    request = request_for(tasks=10, held_out=None)
    stale = {"task": None, "documents": 9, "tokens": 9, "bytes": 9, "total_bytes": 9, "done": True}
    Path(request.progress).parent.mkdir()
    Path(request.progress).write_text(json.dumps(stale) + "\n")
    with pytest.raises(DataError, match=r"broken\.jsonl\.gz` cannot be read to its end"):
        prepare(request)
    partial = Path(f"{request.output}.partial")
    done = {path.name: path.stat().st_ino for path in partial.glob("tasks/*/*/*.ds")}
    assert len(list(partial.glob("completions/*"))) == 9
    progress = read_progress(Path(request.progress))
    assert (progress.done, progress.documents) == (False, 9)
    broken.write_bytes(gzip.compress(b'{"text": "mended"}\n'))
    prepare(request)
    made = {path.name: path.stat().st_ino for path in Path(request.output).rglob("*.ds")}
    assert len(made) == 10
    assert made.items() > done.items()


def test_a_task_whose_files_changed_is_done_again(tmp_path: Path, request_for: Any) -> None:
    write_texts(tmp_path / "texts", 10, words=2000)
    broken = tmp_path / "texts" / "broken.parquet"
    broken.write_bytes(b"PAR1")
    request = request_for(tasks=11)
    with pytest.raises(DataError, match=r"broken\.parquet"):
        prepare(request)
    broken.unlink()
    (tmp_path / "texts" / "0000.txt").write_text("another text of another length")
    prepare(request)
    fresh = replace(request, output=str(tmp_path / "fresh"))
    prepare(fresh)
    assert digests(request.output) == digests(fresh.output)


@pytest.mark.parametrize("changed", [False, True])
def test_a_stop_while_the_shards_are_brought_together_loses_and_mixes_nothing(
    tmp_path: Path, request_for: Any, monkeypatch: pytest.MonkeyPatch, changed: bool
) -> None:
    write_texts(tmp_path / "texts", 40)
    request = request_for(tasks=4)
    moved = []
    original = os.rename

    def rename(source: Any, target: Any) -> None:
        moved.append(target)
        if len(moved) > 26:  # all of train, and the first of what is held out
            raise KeyboardInterrupt
        original(source, target)

    monkeypatch.setattr(runner.prepare.os, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        prepare(request)
    monkeypatch.undo()
    assert Path(f"{request.output}.partial", "data", HELD_OUT, "00000.ds").exists()
    if changed:  # the first task no longer holds anything out
        below = request.held_out_share * 2**64
        texts = (text for n in range(1000) if text_hash((text := f"text {n}").encode()) >= below)
        for path in sorted((tmp_path / "texts").iterdir())[::4]:
            path.write_text(next(texts))
    prepare(request)
    whole = replace(request, output=str(tmp_path / "whole"))
    prepare(whole)
    assert digests(request.output) == digests(whole.output)


def test_two_processes_do_not_prepare_the_same_folder_at_once(tmp_path: Path, request_for: Any) -> None:
    write_texts(tmp_path / "texts", 40)
    request = request_for()
    partial = Path(f"{request.output}.partial")
    partial.mkdir(parents=True)
    with durable.Lock(partial / "lock", "the test"), pytest.raises(Busy, match="preparing `texts`"):
        prepare(request)
    prepare(request)


def test_what_is_left_out_is_counted_in_the_manifest(tmp_path: Path, request_for: Any) -> None:
    write_texts(tmp_path / "texts", 40)
    (tmp_path / "texts" / "void.txt").write_text("")
    (tmp_path / "texts" / "blank.txt").write_text(" \n\t\n")
    (tmp_path / "texts" / "latin.txt").write_bytes(b"\xe9t\xe9")
    request = request_for()
    prepare(request)
    manifest = Manifest.load(Path(request.output))
    assert manifest.splits[TRAIN].dropped == {"empty": 2, "not UTF-8": 1}
    assert sum(split.documents for split in manifest.splits.values()) == 40


def test_a_document_of_which_no_token_is_left_is_counted_and_gets_no_mark(
    tmp_path: Path, request_for: Any, tokenizer_file: str
) -> None:
    inner = Inner.from_file(tokenizer_file)
    inner.normalizer = normalizers.Replace("zzz", "")
    inner.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("zzz")
    (tmp_path / "texts" / "b.txt").write_text("words")
    request = request_for(tokenizer_file=str(tmp_path / "tokenizer.json"), held_out=None)
    prepare(request)
    train = Manifest.load(Path(request.output)).splits[TRAIN]
    assert (train.documents, train.filler, train.dropped) == (1, 1, {"no tokens": 1})


def test_a_filter_that_leaves_nothing_is_refused_with_the_counts(tmp_path: Path, request_for: Any) -> None:
    (tmp_path / "texts").mkdir()
    rows = [{"content": "words", "meta": {"set": "github"}}, {"content": "more", "meta": {"set": "github"}}]
    (tmp_path / "texts" / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=r"left out: 2 for meta\.set is github"):
        prepare(request_for(text="content", drop={"meta.set": "github"}))


def test_marks_follow_the_policy_and_a_tokenizer_without_them_is_refused(
    tmp_path: Path, request_for: Any, tokenizer_file: str
) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("some </s> words")
    bare = request_for(eos=False, held_out=None, output=str(tmp_path / "bare"))
    prepare(bare)
    assert documents_of(bare.output, TRAIN, tokenizer_file) == {"a.txt": "some </s> words"}
    manifest = Manifest.load(tmp_path / "bare")
    assert (manifest.eos, manifest.splits[TRAIN].filler) == (None, 0)
    tokens = np.fromfile(tmp_path / "bare" / manifest.splits[TRAIN].shards[0].file, "<u2")
    assert 0 not in tokens
    with pytest.raises(DataError, match="has no BOS token"):
        prepare(request_for(bos=True, held_out=None))


@pytest.mark.parametrize(("words", "dtype"), [(65_536, "uint16"), (65_537, "uint32")])
def test_tokens_take_four_bytes_from_65537_ids_on(
    tmp_path: Path, request_for: Any, words: int, dtype: str
) -> None:
    vocabulary = {"</s>": 0, **{f"w{n}": n for n in range(1, words)}}
    inner = Inner(models.WordLevel(vocabulary, unk_token="w1"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.save(str(tmp_path / "large.json"))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text(f"w1 w{words - 1} w2")
    request = request_for(held_out=None, tokenizer_file=str(tmp_path / "large.json"))
    prepare(request)
    manifest = Manifest.load(Path(request.output))
    assert (manifest.dtype, manifest.splits[TRAIN].max_token) == (dtype, words - 1)
    dataset = Dataset.open(request.output, sequence_length=3, vocab_size=words)
    assert dataset.read(np.array([0])).tolist() == [[1, words - 1, 2, 0]]
    with pytest.raises(DataError, match=f"holds the token id {words - 1}, but"):
        Dataset.open(request.output, sequence_length=3, vocab_size=words - 1)


def test_ids_come_from_the_corpus_when_it_has_them(
    tmp_path: Path, request_for: Any, tokenizer_file: str
) -> None:
    (tmp_path / "texts").mkdir()
    rows = [{"text": "first", "key": 7}, {"text": "second"}]
    (tmp_path / "texts" / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    request = request_for(held_out=None, id="key")
    prepare(request)
    assert documents_of(request.output, TRAIN, tokenizer_file) == {
        "7": "first</s>",
        "rows.jsonl:2": "second</s>",
    }


def test_extracted_text_is_dealt_to_the_tasks_by_file(
    tmp_path: Path, request_for: Any, tokenizer_file: str
) -> None:
    (tmp_path / "texts").mkdir()
    for number in range(9):
        (tmp_path / "texts" / f"{number}.py").write_text(f"# {chr(0x4E00 + number) * 20}\nx = 1\n")
    read = {"folder": "texts", "files": "*.py"}
    request = request_for(read=read, extract="chinese-docstrings", held_out=None)
    prepare(request)
    assert [shard.documents for shard in Manifest.load(Path(request.output)).splits[TRAIN].shards] == [
        3,
        3,
        3,
    ]
    found = documents_of(request.output, TRAIN, tokenizer_file)
    assert found["4.py"] == chr(0x4E04) * 20 + "\n</s>"


def test_progress_grows_to_the_whole_and_ends_with_done(tmp_path: Path, request_for: Any) -> None:
    write_texts(tmp_path / "texts", 40)
    request = request_for()
    nothing = read_progress(Path(request.progress))
    assert (nothing.documents, nothing.done) == (0, False)
    prepare(request)
    progress = read_progress(Path(request.progress))
    size = sum(path.stat().st_size for path in (tmp_path / "texts").iterdir())
    assert progress.done
    assert (progress.documents, progress.bytes, progress.total_bytes) == (40, size, size)
    assert progress.tokens == sum(s.tokens for s in Manifest.load(Path(request.output)).splits.values())


def test_nothing_is_said_on_the_terminal(
    tmp_path: Path, request_for: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    write_texts(tmp_path / "texts", 40)
    (tmp_path / "texts" / "void.txt").write_text("")
    prepare(request_for(workers=2))
    assert capfd.readouterr() == ("", "")
    assert "left out void.txt: empty" in (tmp_path / "attempt" / "datatrove.log").read_text()


def test_a_packages_text_is_compared_with_its_record(
    tmp_path: Path, request_for: Any, monkeypatch: pytest.MonkeyPatch, installed: Path
) -> None:
    request = request_for(read={"installed": "tiny-corpus", "files": "tiny/*.txt"}, held_out=None)
    prepare(request)
    stored: Mapping[str, Any] = Manifest.load(Path(request.output)).provenance
    assert stored["packages"] == [{"name": "tiny-corpus", "version": "1.2", "licence": "MIT"}]
    assert (stored["files"], stored["bytes"]) == (2, 22)
    (installed / "tiny" / "a.txt").write_text("first texT\n")
    with pytest.raises(DataError, match="differs from what its package's record says"):
        prepare(replace(request, output=str(tmp_path / "again")))


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `tiny-corpus` as an installer leaves it: two files, with their digests in its record."""
    site = tmp_path / "site"
    info = site / "tiny_corpus-1.2.dist-info"
    (site / "tiny").mkdir(parents=True)
    info.mkdir()
    record = ""
    for name, text in (("a", b"first text\n"), ("b", b"other text\n")):
        (site / "tiny" / f"{name}.txt").write_bytes(text)
        digest = _record_digest(text)
        record += f"tiny/{name}.txt,sha256={digest},{len(text)}\n"
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-corpus\nVersion: 1.2\nLicense: MIT\n")
    (info / "RECORD").write_text(record)
    monkeypatch.syspath_prepend(str(site))
    return site


def _record_digest(data: bytes) -> str:
    import base64

    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


TRAIN_TOKENIZER = """
import json, sys
from runner.prepare import train_tokenizer
from curriculum.shards.format import TokenizerRequest
train_tokenizer(TokenizerRequest.from_json(json.loads(sys.argv[1])))
"""


def test_a_tokenizer_is_the_same_file_on_one_thread_and_on_several(tmp_path: Path) -> None:
    write_texts(tmp_path / "texts", 30)
    (tmp_path / "code").mkdir()
    for number in range(10):
        (tmp_path / "code" / f"{number}.txt").write_text(
            f"def f{number}(x):\n    return x ** {number}\n" * 20
        )
    made = []
    for threads in ("1", "3"):
        request = TokenizerRequest(
            reads={"texts": {"folder": "texts"}, "code": {"folder": "code"}},
            vocab_size=340,
            output=str(tmp_path / threads / "tokenizer.json"),
            root=str(tmp_path),
        )
        environment = {**os.environ, "RAYON_NUM_THREADS": threads}
        command = [sys.executable, "-c", TRAIN_TOKENIZER, json.dumps(request.to_json())]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        made.append(Path(request.output).read_bytes())
    assert made[0] == made[1]
    loaded = Tokenizer.load(tmp_path / "1" / "tokenizer.json")
    assert (loaded.eos_id, loaded.vocab_size) == (0, 340)


def test_the_tokenizers_sample_is_spread_over_a_dataset_and_bounded(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for number in range(100):
        (tmp_path / "texts" / f"{number:02d}.txt").write_text(f"{'early' if number < 90 else 'later'} " * 100)
    request = TokenizerRequest(
        reads={"texts": {"folder": "texts"}},
        vocab_size=267,
        output=str(tmp_path / "tokenizer.json"),
        sample_bytes=6000,
        root=str(tmp_path),
    )
    train_tokenizer(request)
    vocabulary = Inner.from_file(request.output).get_vocab()
    assert {"early", "later"} <= {token.removeprefix("Ġ") for token in vocabulary}
    assert len((tmp_path / "sample.log").read_text().splitlines()) < 20


def test_a_text_that_gives_fewer_ids_than_asked_for_is_refused_with_the_number_it_gives(
    tmp_path: Path,
) -> None:
    write_texts(tmp_path / "texts", 30)
    request = TokenizerRequest(
        name="small",
        reads={"texts": {"folder": "texts"}},
        vocab_size=5000,
        output=str(tmp_path / "t.json"),
        root=str(tmp_path),
    )
    with pytest.raises(
        DataError, match=r"`small`: the text gives (\d+) of the 5,000 ids asked for"
    ) as refusal:
        train_tokenizer(request)
    assert refusal.value.entry == ("tokenizers", "small", "vocab_size")
    assert not (tmp_path / "t.json").exists()
    said = re.match(r"`vocab_size: (\d+)`, of the tokenizer and of the model", refusal.value.hint or "")
    assert said is not None
    train_tokenizer(replace(request, vocab_size=int(said[1])))
    assert Tokenizer.load(request.output).vocab_size == int(said[1])


def test_a_tokenizer_of_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "void.txt").write_text("")
    request = TokenizerRequest(
        reads={"texts": {"folder": "texts"}},
        vocab_size=300,
        output=str(tmp_path / "t.json"),
        root=str(tmp_path),
    )
    with pytest.raises(DataError, match=r"`texts` has no text to read: 1 empty \(the first: void.txt\)"):
        train_tokenizer(request)
    assert not (tmp_path / "t.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"held_out": {"share": "100%"}}, "between 0% and 100%"),
        ({"held_out": {"share": "5%", "split": "x"}}, "`held_out` of `texts` is"),
        ({"held_out": {}}, "`held_out` of `texts` is"),
        ({"tasks": 0}, "asks for 0 tasks"),
        ({"extract": "chinese-docstrings", "held_out": {"split": "x"}}, "has no split `x` of its own"),
    ],
)
def test_a_request_that_cannot_be_meant_is_refused(
    request_for: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        request_for(**changes)


def test_an_unknown_extraction_is_refused_with_the_one_there_is(tmp_path: Path, request_for: Any) -> None:
    write_texts(tmp_path / "texts", 3)
    with pytest.raises(DataError, match="`extract` of `texts` is `latin`") as refusal:
        prepare(request_for(extract="latin", held_out=None))
    assert "chinese-docstrings" in (refusal.value.hint or "")


HELPING = """
import sys
from pathlib import Path
from curriculum import durable
from curriculum.shards.format import PrepareRequest
import json, runner.shardwriter as writer
if len(sys.argv) > 2:  # hold a task half-way for ever
    real = writer.ShardWriter._write
    def hold(self, batch):
        real(self, batch)
        print("half-way", flush=True)
        import time
        time.sleep(600)
    writer.ShardWriter._write = hold
from runner.prepare import help_to_prepare
help_to_prepare(PrepareRequest.from_json(json.loads(Path(sys.argv[1]).read_text())))
"""


def test_helpers_share_the_tasks_a_killed_one_s_task_is_done_again_alone_and_the_bytes_are_the_same(
    tmp_path: Path, request_for: Any
) -> None:
    write_texts(tmp_path / "texts", 40)
    plain = request_for(tasks=4, output=str(tmp_path / "data" / "alone"))
    prepare(plain)
    request = request_for(tasks=4)
    path = tmp_path / "request.json"
    path.write_text(json.dumps(request.to_json()))
    held = subprocess.Popen(
        [sys.executable, "-c", HELPING, str(path), "hold"], stdout=subprocess.PIPE, text=True
    )
    assert held.stdout is not None
    assert held.stdout.readline() == "half-way\n"
    done = subprocess.run(
        [sys.executable, "-c", HELPING, str(path)], check=True
    )  # leaves the held task alone
    assert done.returncode == 0
    partial = Path(f"{request.output}.partial")
    finished = {p.name for p in (partial / "completions").iterdir()}
    assert len(finished) == 3
    stamps = {name: (partial / "tasks" / name / "task.json").stat().st_mtime_ns for name in finished}
    with pytest.raises(Busy, match="held by another process"):
        prepare(request)
    held.kill()
    held.wait()
    assert {n: (partial / "tasks" / n / "task.json").stat().st_mtime_ns for n in finished} == stamps
    prepare(request)
    assert not partial.exists()
    same = digests(plain.output)
    assert digests(request.output) == same


def test_asked_to_stop_it_ends_soon_and_goes_on_later(tmp_path: Path, request_for: Any) -> None:
    write_texts(tmp_path / "texts", 40)
    request = request_for(tasks=4)
    with pytest.raises(runner.prepare.Stopped):
        prepare(request, lambda: True)
    prepare(request)
    prepare(request_for(tasks=4, output=str(tmp_path / "data" / "alone")))
    assert digests(request.output) == digests(tmp_path / "data" / "alone")


def test_a_disk_that_fills_costs_the_task_that_met_it_and_the_same_request_goes_on(
    tmp_path: Path, request_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_texts(tmp_path / "texts", 40)
    request = request_for(tasks=4)
    real = runner.shardwriter._Part.add

    def full(self: Any, *words: Any) -> None:
        if self.file.endswith("00002.ds"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, *words)

    with monkeypatch.context() as patch:
        patch.setattr(runner.shardwriter._Part, "add", full)
        with pytest.raises(OSError, match="No space left"):
            prepare(request)
    partial = Path(f"{request.output}.partial")
    finished = {p.name for p in (partial / "completions").iterdir()}
    assert "00002" not in finished
    assert finished >= {"00000", "00001"}
    stamps = {n: (partial / "tasks" / n / "task.json").read_bytes() for n in finished}
    assert all(stamps.values())
    prepare(request)
    prepare(request_for(tasks=4, output=str(tmp_path / "data" / "alone")))
    assert digests(request.output) == digests(tmp_path / "data" / "alone")
