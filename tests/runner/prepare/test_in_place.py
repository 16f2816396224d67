"""Token files that others made: read where they lie, digested once, refused when they are not what they claim."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from texts import WORDS

from curriculum.data.dataset import Dataset
from curriculum.data.manifest import HELD_OUT, TRAIN, Manifest
from curriculum.data.requests import PrepareRequest, TokenizerRequest
from curriculum.data.tokenizer import Tokenizer
from curriculum.errors import DataError
from runner.prepare.job import prepare
from runner.prepare.tokenizer import train_tokenizer

LENGTH = 16


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "texts").mkdir()
    for number in range(20):
        words = np.random.default_rng(number).choice(WORDS, 200)
        (folder / "texts" / f"{number}.txt").write_text(" ".join(words))
    path = folder / "tokenizer.json"
    reads = {"texts": {"folder": "texts"}}
    train_tokenizer(TokenizerRequest(reads=reads, vocab_size=309, output=str(path), root=str(folder)))
    return path


@pytest.fixture(scope="module")
def documents(tokenizer_file: Path) -> list[list[int]]:
    """The tokens of 60 documents, each ended by EOS."""
    tokenizer = Tokenizer.load(tokenizer_file)
    assert tokenizer.eos_id is not None
    made = []
    for number in range(60):
        words = np.random.default_rng(1000 + number).choice(WORDS, 40 + 3 * number)
        made.append([*tokenizer.encode(f"document {number} " + " ".join(words)), tokenizer.eos_id])
    return made


def write_datatrove(folder: Path, documents: Sequence[Sequence[int]]) -> None:
    """By datatrove's own writer."""
    from datatrove.pipeline.tokens.tokenizer import TokenizedFile

    folder.mkdir(parents=True)
    for number in range(2):
        file = TokenizedFile(str(folder), f"{number:05d}_unshuffled.ds", token_size=2)
        for ids in documents[number::2]:
            file.write(list(ids), None)
        file.close()
        file.write_final_metadata()


def write_megatron(folder: Path, documents: Sequence[Sequence[int]]) -> None:
    folder.mkdir(parents=True)
    lengths = np.array([len(ids) for ids in documents], "<i4")
    np.concatenate([np.array(ids, "<i4") for ids in documents]).tofile(folder / "corpus_text_document.bin")
    pointers = (np.cumsum(lengths) - lengths).astype("<i8") * 4
    borders = np.arange(len(lengths) + 1, dtype="<i8")
    (folder / "corpus_text_document.idx").write_bytes(
        b"MMIDIDX\x00\x00"
        + struct.pack("<QBQQ", 1, 4, len(lengths), len(borders))
        + lengths.tobytes()
        + pointers.tobytes()
        + borders.tobytes()
    )


def write_flat(folder: Path, documents: Sequence[Sequence[int]]) -> None:
    """As OLMo's data are: named `.npy`, and without a header."""
    folder.mkdir(parents=True)
    np.concatenate([np.array(ids, "<u2") for ids in documents]).tofile(folder / "part-0-00000.npy")


def write_npy(folder: Path, documents: Sequence[Sequence[int]]) -> None:
    folder.mkdir(parents=True)
    np.save(folder / "tokens.npy", np.concatenate([np.array(ids, np.uint32) for ids in documents]))


def write_packed(folder: Path, documents: Sequence[Sequence[int]]) -> None:
    """Chunks as TinyLlama's are: every one of the same size, cut anywhere, the last one filled up."""
    folder.mkdir(parents=True)
    tokens = np.concatenate([np.array(ids, "<u2") for ids in documents])
    chunk = 2049 * 2
    for number, first in enumerate(range(0, len(tokens), chunk)):
        body = np.zeros(chunk, "<u2")
        body[: len(tokens[first : first + chunk])] = tokens[first : first + chunk]
        (folder / f"train_slim_0_{number:010d}.bin").write_bytes(
            b"LITPKDS" + struct.pack("<QBQ", 1, 8, chunk) + body.tobytes()
        )


WRITERS: dict[str, Callable[[Path, Sequence[Sequence[int]]], None]] = {
    "datatrove": write_datatrove,
    "megatron": write_megatron,
    "flat": write_flat,
    "npy": write_npy,
    "packed": write_packed,
}


@pytest.fixture
def request_for(tmp_path: Path, tokenizer_file: Path) -> Callable[..., PrepareRequest]:
    def make(**changes: Any) -> PrepareRequest:
        settings: dict[str, Any] = {
            "dataset": "lent",
            "read": {"tokenised": "lent"},
            "root": str(tmp_path),
            "tokenizer_file": str(tokenizer_file),
            "tokenizer_name": "small",
            "output": str(tmp_path / "data" / "out"),
            "progress": str(tmp_path / "attempt" / "progress.jsonl"),
            "sequence_length": LENGTH,
            "held_out": {"share": "15%"},
            "workers": 2,
        }
        return PrepareRequest(**{**settings, **changes})

    return make


def everything(output: str, split: str) -> list[list[int]]:
    """Every document of a split, read through the memory map."""
    dataset = Dataset.open(output, split=split, sequence_length=LENGTH)
    found = []
    for at, shard in enumerate(Manifest.load(Path(output)).splits[split].shards):
        windows = np.array(dataset.shard_windows(at), np.int64)
        stream = dataset.read(windows)
        flat = np.append(stream[:, :-1].reshape(-1), stream[-1, -1])
        for number in range(shard.documents):
            span = dataset.document(at, number)
            if span.first_token + span.tokens <= len(flat):
                found.append(flat[span.first_token : span.first_token + span.tokens].tolist())
    return found


def digests(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        str(p.relative_to(folder)): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns)
        for p in folder.rglob("*")
        if p.is_file()
    }


@pytest.mark.promise(
    "Third-party token files are read in place, token for token, and nothing is written next to them; a "
    "changed file is refused"
)
@pytest.mark.parametrize("format", WRITERS)
def test_every_format_is_read_in_place_token_for_token(
    tmp_path: Path, request_for: Any, documents: list[list[int]], format: str
) -> None:
    WRITERS[format](tmp_path / "lent", documents)
    before = digests(tmp_path / "lent")
    request = request_for()
    prepare(request)
    assert digests(tmp_path / "lent") == before  # not a byte beside or inside them
    assert not list(Path(request.output).rglob("*.ds"))  # and no copy
    manifest = Manifest.load(Path(request.output))
    total = sum(split.tokens for split in manifest.splits.values())
    assert total == sum(map(len, documents))
    assert 0.1 < manifest.splits[HELD_OUT].tokens / total < 0.2
    read = everything(request.output, TRAIN) + everything(request.output, HELD_OUT)
    whole = [ids for ids in read if ids in documents]
    assert len(whole) >= len(documents) - 2 * len(list((tmp_path / "lent").glob("*.*[!x]")))
    if format != "packed":  # whose chunks are cut anywhere
        assert sum(split.documents for split in manifest.splits.values()) == len(documents)
        assert all(ids in documents for ids in read)
    for split in (TRAIN, HELD_OUT):
        assert sum(1 for _ in Dataset.open(request.output, split=split, sequence_length=LENGTH).verify())


def test_the_same_tokens_have_the_same_identity_wherever_they_lie(
    tmp_path: Path, request_for: Any, documents: list[list[int]]
) -> None:
    write_flat(tmp_path / "lent", documents)
    prepare(request_for())
    (tmp_path / "lent").rename(tmp_path / "moved")
    prepare(request_for(read={"tokenised": "moved"}, output=str(tmp_path / "data" / "again"), workers=1))
    first, second = (Manifest.load(tmp_path / "data" / name) for name in ("out", "again"))
    assert first.digest == second.digest
    with pytest.raises(DataError, match="cannot be read"):
        Dataset.open(tmp_path / "data" / "out", sequence_length=LENGTH)


@pytest.mark.promise(
    "Third-party token files are read in place, token for token, and nothing is written next to them; a "
    "changed file is refused"
)
def test_a_file_that_changed_after_it_was_digested_is_refused_when_it_is_read(
    tmp_path: Path, request_for: Any, documents: list[list[int]]
) -> None:
    write_packed(tmp_path / "lent", documents)
    request = request_for()
    prepare(request)
    path = sorted((tmp_path / "lent").iterdir())[0]
    data = bytearray(path.read_bytes())
    data[24 + 11] ^= 1
    path.write_bytes(data)
    dataset = Dataset.open(request.output, sequence_length=LENGTH)
    with pytest.raises(DataError, match="no longer as it was when it was digested") as refused:
        dataset.read(np.array([0], np.int64))
    assert "put it back" in str(refused.value.hint)


def test_filler_at_the_end_of_a_packed_chunk_is_cut_off_counted_and_never_trained_on(
    tmp_path: Path, request_for: Any, documents: list[list[int]]
) -> None:
    write_packed(tmp_path / "lent", documents)
    request = request_for()
    prepare(request)
    manifest = Manifest.load(Path(request.output))
    files = sorted((tmp_path / "lent").iterdir())
    total = sum(map(len, documents))
    last = struct.pack("<H", documents[-1][-1])
    assert last == b"\x00\x00"  # EOS is what the chunk was filled with: the last real one is kept by no run rule
    stored = len(files) * 2049 * 2
    assert manifest.provenance["filler_cut_off"] == stored - total
    (tmp_path / "filler").mkdir()
    head = b"LITPKDS" + struct.pack("<QBQ", 1, 8, 2049)
    (tmp_path / "filler" / "a.bin").write_bytes(head + bytes(2 * 2049))
    with pytest.raises(DataError, match="no document to train on"):
        prepare(request_for(read={"tokenised": "filler"}, output=str(tmp_path / "data" / "filler")))


@pytest.mark.parametrize(
    ("format", "spoil", "words"),
    [
        ("datatrove", lambda p: p.write_bytes(p.read_bytes()[:-100]), "is not complete"),
        ("megatron", lambda p: p.write_bytes(p.read_bytes()[:-100]), "is not complete"),
        ("packed", lambda p: p.write_bytes(p.read_bytes()[:-100]), "is not complete"),
        ("npy", lambda p: p.write_bytes(p.read_bytes()[:-100]), "is not complete"),
        ("flat", lambda p: p.write_bytes(p.read_bytes()[:-1]), "is not complete"),
        ("flat", lambda p: p.write_bytes(b""), "it is empty"),
        ("flat", lambda p: p.write_text("words of prose\n" * 99), "holds text, not tokens"),
        ("megatron", lambda p: p.write_bytes(p.read_bytes() + bytes(20)), r"its index `.*\.idx` states"),
        ("packed", lambda p: p.write_bytes(p.read_bytes() + bytes(20)), "its header states"),
        ("npy", lambda p: p.write_bytes(2 * p.read_bytes()), "its header states"),
    ],
)
def test_a_half_downloaded_file_is_refused_by_name_and_the_rest_is_not_read_again(
    tmp_path: Path, request_for: Any, documents: list[list[int]], format: str, spoil: Callable[[Path], None], words: str
) -> None:
    WRITERS[format](tmp_path / "lent", documents)
    path = next(p for p in sorted((tmp_path / "lent").iterdir()) if p.suffix in (".ds", ".bin", ".npy"))
    whole = path.read_bytes()
    spoil(path)
    with pytest.raises(DataError, match=words) as refused:
        prepare(request_for())
    assert path.name in refused.value.what
    path.write_bytes(whole)
    prepare(request_for())
    assert Manifest.load(tmp_path / "data" / "out").splits[TRAIN].tokens


def test_tokens_beyond_the_vocabulary_name_the_guess_and_the_way_to_look(
    tmp_path: Path, request_for: Any, documents: list[list[int]]
) -> None:
    (tmp_path / "lent").mkdir()
    np.full(5000, 319, "<u2").tofile(tmp_path / "lent" / "a.npy")
    np.arange(5000, dtype="<u2").tofile(tmp_path / "lent" / "b.npy")
    with pytest.raises(DataError, match=r"holds the token .* but the tokenizer `small` has 309 ids") as refused:
        prepare(request_for())
    assert "guessed" in refused.value.what
    assert "curriculum inspect" in str(refused.value.hint)


def test_the_number_that_is_no_token_is_the_one_that_is_named(
    tmp_path: Path, request_for: Any, documents: list[list[int]]
) -> None:
    (tmp_path / "lent").mkdir()
    for ignored, named in ((-100, "-100"), (70_000, "70,000")):
        np.save(tmp_path / "lent" / "a.npy", np.array([*range(60, 300), ignored] * 9, np.int32))
        with pytest.raises(DataError, match=rf"holds the token {named}, but the tokenizer `small` has 309 ids"):
            prepare(request_for(read={"tokenised": "lent"}, eos=False))


def test_tokens_of_another_tokenizer_are_refused_although_every_id_fits(
    tmp_path: Path, request_for: Any, documents: list[list[int]]
) -> None:
    (tmp_path / "lent").mkdir()
    np.random.default_rng(0).integers(1, 257, 9000).astype("<u2").tofile(tmp_path / "lent" / "a.npy")
    with pytest.raises(DataError, match="another tokenizer"):
        prepare(request_for())


def test_files_of_two_widths_in_one_folder_are_refused_with_both_names(
    tmp_path: Path, request_for: Any, documents: list[list[int]]
) -> None:
    write_packed(tmp_path / "lent" / "packed", documents)
    write_npy(tmp_path / "lent" / "npy", documents)
    with pytest.raises(DataError, match="several widths") as refused:
        prepare(request_for())
    assert "uint16" in refused.value.what
    assert "uint32" in refused.value.what


def test_killed_between_two_files_the_first_is_not_read_again(
    tmp_path: Path, request_for: Any, documents: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from runner.prepare import in_place

    write_packed(tmp_path / "lent", documents)
    request = request_for(workers=1)
    real, read = in_place._InPlaceIndex.write, []

    def until_the_second(self: Any, *words: Any) -> Any:
        read.append(self.name)
        if len(read) == 2:
            raise KeyboardInterrupt
        return real(self, *words)

    monkeypatch.setattr(in_place._InPlaceIndex, "write", until_the_second)
    with pytest.raises(KeyboardInterrupt):
        prepare(request)
    first = read[0]
    prepare(request)
    assert read.count(first) == 1
    interrupted = Manifest.load(Path(request.output)).digest
    prepare(request_for(output=str(tmp_path / "data" / "again")))
    assert Manifest.load(tmp_path / "data" / "again").digest == interrupted


def test_a_split_of_its_own_is_whole_files(tmp_path: Path, request_for: Any, documents: list[list[int]]) -> None:
    write_flat(tmp_path / "lent" / "train", documents[:40])
    write_flat(tmp_path / "lent" / "validation", documents[40:])
    request = request_for(held_out={"split": "validation"})
    prepare(request)
    manifest = Manifest.load(Path(request.output))
    assert manifest.splits[TRAIN].documents == 40
    assert manifest.splits[HELD_OUT].documents == 20


def test_the_manifest_says_policy_tokenizer_and_where_the_tokens_are(
    tmp_path: Path, request_for: Any, documents: list[list[int]], tokenizer_file: Path
) -> None:
    write_megatron(tmp_path / "lent", documents)
    request = request_for()
    prepare(request)
    written = json.loads((Path(request.output) / "manifest.json").read_bytes())
    assert written["tokenizer"]["digest"] == Tokenizer.load(tokenizer_file).digest
    assert written["policy"] == {"bos": None, "eos": 0}
    assert written["dtype"] == "int32"
    places = {at["path"] for at in written["elsewhere"].values()}
    assert places == {str(tmp_path / "lent" / "corpus_text_document.bin")}
