"""Preparing text: the same bytes however it was done, and what is asked for that cannot be meant."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from texts import digests, documents_of, write_texts
from tokenizers import Tokenizer as Inner, models, normalizers, pre_tokenizers

from curriculum.data.dataset import Dataset
from curriculum.data.manifest import HELD_OUT, TRAIN, Manifest
from curriculum.data.progress import read_progress
from curriculum.errors import DataError
from runner.prepare.job import prepare


@pytest.mark.promise(
    "Preparation writes the same bytes with any number of workers, repeats no finished task, and resumes "
    "after a kill to the same bytes"
)
@pytest.mark.promise("Slurm jobs, local processes and a single process prepare the same bytes")
def test_the_bytes_are_the_same_for_one_worker_and_for_two(tmp_path: Path, request_for: Any) -> None:
    write_texts(tmp_path / "texts", 40)
    one = request_for(output=str(tmp_path / "one"))
    two = request_for(output=str(tmp_path / "two"), workers=2)
    many = request_for(output=str(tmp_path / "many"), workers=8)
    for request in (one, two, many):
        prepare(request)
    assert digests(one.output) == digests(two.output) == digests(many.output)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.promise("Prepared text is datatrove's format and reads the same through datatrove's own reader")
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
    assert (manifest.policy.bos, manifest.policy.eos) == (None, 0)
    assert manifest.splits[TRAIN].filler == len(train)
    assert manifest.splits[TRAIN].text_bytes == sum(len(text.encode()) - 4 for text in train.values())
    assert manifest.splits[TRAIN].max_token < manifest.tokenizer.vocab_size == 320


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


def test_a_corpus_s_own_split_replaces_the_share(tmp_path: Path, request_for: Any, tokenizer_file: str) -> None:
    write_texts(tmp_path / "texts" / "train", 10)
    write_texts(tmp_path / "texts" / "validation", 10, first=10)
    request = request_for(held_out={"split": "validation"})
    prepare(request)
    held_out = documents_of(request.output, HELD_OUT, tokenizer_file)
    assert set(held_out) == {f"validation/{n:04d}.txt" for n in range(10, 20)}
    assert len(documents_of(request.output, TRAIN, tokenizer_file)) == 10


@pytest.mark.promise("Text that is held out as a whole is a goal of a study, and no mixture reads it")
def test_all_of_a_text_can_be_held_out(tmp_path: Path, request_for: Any, tokenizer_file: str) -> None:
    write_texts(tmp_path / "texts", 40)
    request = request_for(held_out={"share": "100%"}, tasks=2)
    prepare(request)
    assert len(documents_of(request.output, HELD_OUT, tokenizer_file)) == 40
    train = Manifest.load(Path(request.output)).splits[TRAIN]
    assert (train.documents, train.tokens, train.shards) == (0, 0, ())


def test_without_a_held_out_split_everything_is_trained_on(tmp_path: Path, request_for: Any) -> None:
    write_texts(tmp_path / "texts", 5)
    request = request_for(held_out=None)
    prepare(request)
    manifest = Manifest.load(Path(request.output))
    assert list(manifest.splits) == [TRAIN]
    assert manifest.splits[TRAIN].documents == 5


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
    assert (manifest.policy.eos, manifest.splits[TRAIN].filler) == (None, 0)
    tokens = np.fromfile(tmp_path / "bare" / manifest.splits[TRAIN].shards[0].file, "<u2")
    assert 0 not in tokens
    with pytest.raises(DataError, match=r"`bos: true` of .* has no BOS token"):
        prepare(request_for(bos=True, held_out=None))


@pytest.mark.parametrize(("words", "dtype"), [(65_536, "uint16"), (65_537, "uint32")])
def test_tokens_take_four_bytes_from_65537_ids_on(tmp_path: Path, request_for: Any, words: int, dtype: str) -> None:
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


def test_ids_come_from_the_corpus_when_it_has_them(tmp_path: Path, request_for: Any, tokenizer_file: str) -> None:
    (tmp_path / "texts").mkdir()
    rows = [{"text": "first", "key": 7}, {"text": "second"}]
    (tmp_path / "texts" / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    request = request_for(held_out=None, id="key")
    prepare(request)
    assert documents_of(request.output, TRAIN, tokenizer_file) == {"7": "first</s>", "rows.jsonl:2": "second</s>"}


def test_extracted_text_is_dealt_to_the_tasks_by_file(tmp_path: Path, request_for: Any, tokenizer_file: str) -> None:
    (tmp_path / "texts").mkdir()
    for number in range(9):
        (tmp_path / "texts" / f"{number}.py").write_text(f"# {chr(0x4E00 + number) * 20}\nx = 1\n")
    read = {"folder": "texts", "files": "*.py"}
    request = request_for(read=read, extract="chinese-docstrings", held_out=None)
    prepare(request)
    assert [shard.documents for shard in Manifest.load(Path(request.output)).splits[TRAIN].shards] == [3, 3, 3]
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


def test_nothing_is_said_on_the_terminal(tmp_path: Path, request_for: Any, capfd: pytest.CaptureFixture[str]) -> None:
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"held_out": {"share": "101%"}}, "above 0%, and at most 100%"),
        ({"held_out": {"share": "5%", "split": "x"}}, "`held_out` of `texts` is"),
        ({"held_out": {}}, "`held_out` of `texts` is"),
        ({"tasks": 0}, "asks for 0 tasks"),
        ({"extract": "chinese-docstrings", "held_out": {"split": "x"}}, "has no split `x` of its own"),
    ],
)
def test_a_request_that_cannot_be_meant_is_refused(request_for: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        request_for(**changes)


def test_an_unknown_extraction_is_refused_with_the_one_there_is(tmp_path: Path, request_for: Any) -> None:
    write_texts(tmp_path / "texts", 3)
    with pytest.raises(DataError, match="`extract` of `texts` is `latin`") as refusal:
        prepare(request_for(extract="latin", held_out=None))
    assert "chinese-docstrings" in (refusal.value.hint or "")
