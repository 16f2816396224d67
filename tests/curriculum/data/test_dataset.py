"""Prepared text: datatrove reads it, windows are gathered exactly, and nothing damaged is ever handed out."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datatrove.utils.dataset import DatatroveFileDataset, DatatroveFolderDataset
from hypothesis import given, settings, strategies as st

from curriculum import fs
from curriculum.data import manifest as data_manifest
from curriculum.data.dataset import Dataset
from curriculum.data.manifest import HELD_OUT, TRAIN, Manifest, windows_in
from curriculum.data.requests import PrepareRequest, TokenizerRequest
from curriculum.data.shard import MappedShard, id_line
from curriculum.data.tokenizer import Tokenizer
from curriculum.errors import DataError, NotFound
from runner.prepare import shard_writer
from runner.prepare.job import prepare
from runner.prepare.tokenizer import train_tokenizer

LENGTH = 16
BLOCK = 4096
NAMES = ["a", "aa", "a\nb", 'quo"te', "ünïcode 文", "\\", "doc"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared folder of three shards a split, small blocks and awkward ids, with its tokenizer."""
    root = tmp_path_factory.mktemp("made")
    (root / "texts").mkdir()
    for file in range(3):
        rows = []
        for row in range(40):
            draw = random.Random(f"{file}/{row}")
            text = " ".join(draw.choices(["alpha", "beta", "gamma", "delta"], k=draw.randrange(1, 400)))
            name = NAMES[row] if file == 1 and row < len(NAMES) else f"{file}/{row}"
            rows.append(json.dumps({"text": f"{file} {row} {text}", "id": name}))
        (root / "texts" / f"{file}.jsonl").write_text("\n".join(rows) + "\n")
    (root / "texts" / "empty.jsonl").write_text('{"text": ""}\n')
    tokenizer = str(root / "tokenizer.json")
    reads = {"texts": {"folder": "texts"}}
    train_tokenizer(TokenizerRequest(reads=reads, vocab_size=300, output=tokenizer, root=str(root)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_writer, "BLOCK_BYTES", BLOCK)
        patch.setattr("runner.prepare.job.BLOCK_BYTES", BLOCK)
        prepare(request(root, output=str(root / "out"), tasks=4))
    return root


def request(root: Path, **changes: Any) -> PrepareRequest:
    settings: dict[str, Any] = {
        "dataset": "texts",
        "read": {"folder": "texts"},
        "root": str(root),
        "tokenizer_file": str(root / "tokenizer.json"),
        "output": str(root / "unused"),
        "progress": str(root / "progress.jsonl"),
        "sequence_length": LENGTH,
        "held_out": {"share": "20%"},
        "id": "id",
    }
    return PrepareRequest(**{**settings, **changes})


@pytest.fixture(scope="module")
def dataset(made: Path) -> Dataset:
    return Dataset.open(made / "out", sequence_length=LENGTH)


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """A copy of the prepared folder, to be damaged."""
    return Path(shutil.copytree(made / "out", tmp_path / "out"))


def streams(folder: Path, split: str = TRAIN) -> list[np.ndarray]:
    return [np.fromfile(path, "<u2") for path in sorted((folder / split).glob("*.ds"))]


# --- what others read ---------------------------------------------------------------------------------------


@pytest.mark.promise("Prepared text is datatrove's format and reads the same through datatrove's own reader")
def test_datatroves_own_reader_reads_the_same_tokens_and_document_ends(made: Path) -> None:
    total = 0
    for path, tokens in zip(sorted((made / "out" / TRAIN).glob("*.ds")), streams(made / "out"), strict=True):
        theirs = DatatroveFileDataset(str(path), LENGTH, token_size=2, return_positions=True)
        rows = [theirs[n] for n in range(len(theirs))]
        read = np.concatenate([row["input_ids"].numpy() for row in rows])
        assert np.array_equal(read, tokens[: len(read)])
        starts = np.concatenate([[0], np.fromfile(f"{path}.index", "<u8")[:-1]])
        for number, row in enumerate(rows):
            first = number * (LENGTH + 1)
            inside = [int(start) - first for start in starts if first < start <= first + LENGTH]
            assert np.flatnonzero(row["positions"].numpy() == 0).tolist() == [0, *inside]
        total += len(theirs)
    folder = DatatroveFolderDataset(str(made / "out" / TRAIN), LENGTH, token_size=2, recursive=False)
    assert len(folder) == total
    assert len(folder.files) == 3


# --- windows ------------------------------------------------------------------------------------------------


def test_every_window_is_its_slice_of_its_shard(made: Path, dataset: Dataset) -> None:
    wanted = [
        tokens[first : first + LENGTH + 1]
        for tokens in streams(made / "out")
        for first in range(0, (len(tokens) - 1) // LENGTH * LENGTH, LENGTH)
    ]
    assert dataset.windows == len(wanted)
    read = dataset.read(np.arange(dataset.windows))
    assert read.dtype == np.int64
    assert np.array_equal(read, np.stack(wanted))


@given(seed=st.integers(0, 2**32), count=st.integers(0, 200))
@settings(deadline=None)
def test_windows_may_be_asked_in_any_order_and_again(dataset: Dataset, seed: int, count: int) -> None:
    windows = np.random.default_rng(seed).integers(0, dataset.windows, count)
    read = dataset.read(windows)
    assert read.shape == (count, LENGTH + 1)
    for row, window in zip(read, windows, strict=True):
        assert np.array_equal(row, dataset.read(np.array([window]))[0])


@given(most=st.integers(1, 3000))
@settings(deadline=None)
def test_windows_that_are_spread_begin_with_the_first_and_have_equal_distances_also_to_the_end(
    dataset: Dataset, most: int
) -> None:
    spread = dataset.spread(most)
    assert (spread.dtype, len(spread), spread[0]) == (np.int64, min(most, dataset.windows), 0)
    distances = np.diff(spread, append=dataset.windows)
    assert distances.max() - distances.min() <= 1


def test_a_shard_too_short_for_a_window_and_its_tail_are_counted_and_never_read(made: Path) -> None:
    split = Manifest.load(made / "out").splits[TRAIN]
    longest = max(shard.tokens for shard in split.shards)
    for length in (LENGTH, 1000, longest - 1, longest):
        dataset = Dataset.open(made / "out", sequence_length=length)
        assert dataset.windows == split.windows(length) == sum((s.tokens - 1) // length for s in split.shards)
        read = sum((s.tokens - 1) // length * length + 1 for s in split.shards if s.tokens > length)
        assert split.tail(length) == split.tokens - read
        assert dataset.read(np.arange(dataset.windows)).shape == (dataset.windows, length + 1)
    assert dataset.windows == 0


def test_the_windows_of_an_earlier_state_are_those_of_the_shards_that_it_had(made: Path) -> None:
    manifest = Manifest.load(made / "out")
    counts = [windows_in(shard.tokens, LENGTH) for shard in manifest.splits[TRAIN].shards]
    for shards in range(len(counts) + 1):
        state = data_manifest.FolderState(digest="d", shards={TRAIN: shards})
        assert manifest.windows_in_state(state, TRAIN, LENGTH) == sum(counts[:shards])
        assert manifest.windows_in_state(state, HELD_OUT, LENGTH) == 0  # it had none then


@pytest.mark.parametrize("beyond", [-1, 0])
def test_a_window_that_is_not_there_is_refused(dataset: Dataset, beyond: int) -> None:
    window = -1 if beyond else dataset.windows
    with pytest.raises(DataError, match=f"there is no window {window} in"):
        dataset.read(np.array([0, window]))
    with pytest.raises(NotFound):
        dataset.documents(window)


# --- documents ----------------------------------------------------------------------------------------------


def test_the_documents_of_a_window_are_those_whose_text_it_decodes_to(made: Path, dataset: Dataset) -> None:
    tokenizer = Tokenizer.load(made / "tokenizer.json")
    rows = [json.loads(line) for path in (made / "texts").glob("*.jsonl") for line in path.open()]
    tokens_of = {row["id"]: [*tokenizer.encode(row["text"]), 0] for row in rows if row["text"]}
    for window in range(dataset.windows):
        spans = dataset.documents(window)
        parts = [tokens_of[s.id][s.offset : s.offset + s.tokens] for s in spans]
        assert [token for part in parts for token in part] == dataset.read(np.array([window]))[0].tolist()
        starts = [span.first_token for span in spans]
        local = window - dataset.shard_windows(spans[0].shard).start
        assert starts == [local * LENGTH + sum(map(len, parts[:n])) for n in range(len(parts))]


def test_the_windows_of_a_document_are_those_that_list_it(dataset: Dataset) -> None:
    listed: dict[str, list[int]] = {}
    for window in range(dataset.windows):
        for span in dataset.documents(window):
            listed.setdefault(span.id, []).append(window)
    for shard, name in enumerate(dataset.shards):
        for document in range(next(s.documents for s in dataset.manifest.splits[TRAIN].shards if s.file == name)):
            found = dataset.document(shard, document)
            assert dataset.windows_of(found).tolist() == listed.get(found.id, [])


def ids_of(dataset: Dataset) -> set[str]:
    paths = (dataset.folder / dataset.split).glob("*.ids")
    return {json.loads(line) for path in paths for line in path.read_text().split("\n")[:-1]}


def test_documents_are_found_by_ids_of_any_spelling(made: Path, dataset: Dataset) -> None:
    held_out = Dataset.open(made / "out", split=HELD_OUT, sequence_length=LENGTH)
    for name in [*NAMES, "0/0", "2/39"]:
        where = [split for split in (dataset, held_out) if name in ids_of(split)]
        assert len(where) == 1
        (found,) = where[0].find_documents(name)
        assert (found.id, found.offset) == (name, 0)
        assert found == where[0].document(found.shard, found.document)
    for split in (dataset, held_out):
        for end in ("/1", "te"):  # ends of ids that are there, the second after an escaped quotation mark
            assert split.find_documents(end) == []
    beyond = len(dataset.mapped[0].ends)
    for shard, document in ((0, beyond), (0, -1), (-1, 0), (len(dataset.mapped), 0)):
        with pytest.raises(NotFound, match=f"has no document {document} in shard {shard}"):
            dataset.document(shard, document)


@given(st.text(st.characters() | st.characters(categories=["Cs"])))  # file names may hold half of a surrogate pair
def test_the_line_of_any_id_is_one_line_that_gives_it_back(name: str) -> None:
    line = id_line(name)
    assert line.index(b"\n") == len(line) - 1
    assert json.loads(line) == name


def test_for_an_id_that_is_not_there_those_with_its_last_part_are_named_and_else_those_like_it(made: Path) -> None:
    splits = [Dataset.open(made / "out", split=split, sequence_length=LENGTH) for split in (TRAIN, HELD_OUT)]
    for name in ("a/very/long/folder/ünïcode", "a/very/long/folder/ünïcode:7", "ünicode 文"):
        assert [like for split in splits for like in split.ids_like(name) if "文" in like] == [NAMES[4]]
    assert [len(splits[0].ids_like("other/1", most)) for most in (1, 3)] == [1, 3]
    assert all("1" in like for like in splits[0].ids_like("other/1"))
    assert [splits[0].ids_like("0/x", most) for most in (1, 2)] == [splits[0].ids_like("0/x")[:most] for most in (1, 2)]


# --- damage -------------------------------------------------------------------------------------------------


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("ending", [".ds", ".ds.index"])
@pytest.mark.parametrize("change", [-2, 2])
def test_a_shard_cut_short_or_grown_is_refused_on_opening(copy: Path, ending: str, change: int) -> None:
    path = copy / TRAIN / f"00001{ending}"
    size = path.stat().st_size
    os.truncate(path, size + change)
    with pytest.raises(DataError, match=rf"{path.name}` is damaged: it has [\d,]+ bytes instead of") as refusal:
        Dataset.open(copy, sequence_length=LENGTH)
    assert "curriculum prepare" in (refusal.value.hint or "")


def test_a_missing_shard_is_refused_on_opening(copy: Path) -> None:
    (copy / TRAIN / "00001.ds").unlink()
    with pytest.raises(DataError, match=r"00001\.ds` is damaged: it cannot be read: No such file"):
        Dataset.open(copy, sequence_length=LENGTH)


@pytest.mark.promise("A flipped bit in a token file is noticed before a window of its block is returned")
def test_a_flipped_bit_is_refused_before_a_window_of_its_block_is_handed_out_and_only_then(copy: Path) -> None:
    at = 2 * BLOCK + 100
    flip(copy / TRAIN / "00001.ds", at)
    dataset = Dataset.open(copy, sequence_length=LENGTH)
    first = dataset.shard_windows(1).start
    in_block = range(2 * BLOCK // 2 // LENGTH - 1, 3 * BLOCK // 2 // LENGTH)
    dataset.read(np.array([first, first + in_block[0] - 1, first + in_block[-1] + 1, 0]))
    for window in in_block:  # the last target of the first of them is the block's first token
        with pytest.raises(DataError, match=r"00001\.ds` is damaged: it differs from its digest in block 2"):
            dataset.read(np.array([0, first + window]))


def test_every_block_is_compared_once_and_only_when_it_is_touched(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    original: Callable[[MappedShard, int], None] = MappedShard._check_block

    def check(self: MappedShard, block: int) -> None:
        compared.append(block)
        original(self, block)

    monkeypatch.setattr(MappedShard, "_check_block", check)
    dataset = Dataset.open(copy, sequence_length=LENGTH)
    assert compared == []
    dataset.read(np.array([0, 1, 0]))
    dataset.read(np.array([1]))
    assert compared == [0]
    for _ in range(2):
        dataset.read(np.arange(dataset.windows))
    blocks = sum(-(-len(tokens) * 2 // BLOCK) for tokens in streams(copy))
    assert blocks > 10
    assert len(compared) == blocks


def test_windows_longer_than_a_block_are_compared_whole(copy: Path) -> None:
    length = 3 * BLOCK // 2
    flip(copy / TRAIN / "00000.ds", BLOCK + 10)
    dataset = Dataset.open(copy, sequence_length=length)
    assert dataset.windows
    with pytest.raises(DataError, match="in block 1"):
        dataset.read(np.array([0]))


@pytest.mark.parametrize("ending", [".ds.index", ".ds.blocks", ".ids", ".ids.index"])
def test_damage_beside_a_shard_is_refused_when_it_is_needed(copy: Path, ending: str) -> None:
    flip(copy / TRAIN / f"00000{ending}", 3)
    dataset = Dataset.open(copy, sequence_length=LENGTH)
    use = (lambda: dataset.read(np.array([0]))) if ending == ".ds.blocks" else (lambda: dataset.documents(0))
    with pytest.raises(DataError, match=rf"00000{ending}` is damaged: it differs from its digest"):
        use()


@pytest.mark.parametrize("ending", [".ds", ".ds.index", ".ds.blocks", ".ids", ".ids.index"])
def test_verifying_finds_damage_in_every_file_and_accounts_for_the_tokens(copy: Path, ending: str) -> None:
    whole = list(Dataset.open(copy, sequence_length=LENGTH).verify())
    read = sum(size for name, size in whole if name.endswith(".ds"))
    assert read == sum(tokens.nbytes for tokens in streams(copy))
    path = copy / TRAIN / f"00002{ending}"
    flip(path, path.stat().st_size - 1)
    with pytest.raises(DataError, match=rf"00002{ending}` is damaged"):
        list(Dataset.open(copy, sequence_length=LENGTH).verify())


def test_a_manifest_that_was_altered_or_is_of_another_format_is_refused(copy: Path) -> None:
    path = copy / "manifest.json"
    value = json.loads(path.read_bytes())
    value["splits"][TRAIN]["max_token"] -= 1
    for changed, message in (
        (value, "was altered"),
        ({**value, "format": 2}, "is not of format 1"),
        ([], "is not of format 1"),
        ({"format": 1}, "was altered"),
    ):
        path.write_text(json.dumps(changed))
        with pytest.raises(DataError, match=message):
            Manifest.load(copy)
    path.write_bytes(b"{")
    with pytest.raises(DataError, match="is not JSON"):
        Manifest.load(copy)
    path.unlink()
    with pytest.raises(DataError, match="no prepared text") as refusal:
        Manifest.load(copy)
    assert "curriculum prepare" in (refusal.value.hint or "")


def test_text_of_another_tokenizer_or_beyond_the_vocabulary_is_refused(made: Path) -> None:
    manifest = Manifest.load(made / "out")
    Dataset.open(
        made / "out",
        sequence_length=LENGTH,
        tokenizer_digest=manifest.tokenizer.digest,
        vocab_size=manifest.splits[TRAIN].max_token + 1,
    )
    with pytest.raises(DataError, match="was made with another tokenizer"):
        Dataset.open(made / "out", sequence_length=LENGTH, tokenizer_digest="0" * 64)
    with pytest.raises(DataError, match="but the model's vocabulary has 200 ids"):
        Dataset.open(made / "out", sequence_length=LENGTH, vocab_size=200)
    with pytest.raises(DataError, match="has no split `validation`"):
        Dataset.open(made / "out", split="validation", sequence_length=LENGTH)


def test_more_shards_than_open_files_are_allowed_are_read_all_the_same(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        (tmp_path / "texts").mkdir(exist_ok=True)
        (tmp_path / "texts" / f"{number:02d}.txt").write_text("alpha beta gamma delta " * 20)
    out = str(tmp_path / "out")
    monkeypatch.setattr("curriculum.fs.files.os.fsync", lambda descriptor: None)
    prepare(replace(request(made, output=out, held_out=None, tasks=30), root=str(tmp_path), id=None))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 10, hard))
    try:
        dataset = Dataset.open(out, sequence_length=LENGTH)
        assert len(dataset.read(np.arange(dataset.windows))) == dataset.windows > 30
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- identity -----------------------------------------------------------------------------------------------


def test_requests_come_back_from_json_and_from_asdict(made: Path) -> None:
    asked = request(made, drop={"meta.set": ["a", "b"]}, keep={"lang": "en"}, held_out=None)
    asked = replace(asked, blocks=({"RegexFilter": {"regex_exp": "x"}}, {"PIIFormatter": {}}))
    assert fs.from_json(PrepareRequest, json.loads(fs.canonical_json(asked))) == asked
    assert fs.from_json(PrepareRequest, asdict(asked)) == asked
    training = TokenizerRequest(reads={"a": {"folder": "x"}}, vocab_size=300, output="t")
    assert fs.from_json(TokenizerRequest, json.loads(fs.canonical_json(training))) == training


def test_a_manifest_comes_back_from_json_with_its_digest(made: Path) -> None:
    manifest = Manifest.load(made / "out")
    written = manifest.to_json()
    assert fs.from_json(Manifest, written, ignore_unknown=True) == manifest
    assert written["digest"] == manifest.digest


def test_a_recipe_depends_on_what_decides_the_bytes_and_on_nothing_else(made: Path) -> None:
    asked = request(made)
    same: dict[str, Any] = {
        "output": "x",
        "progress": "y",
        "root": "z",
        "workers": 5,
        "sequence_length": 7,
        "tokenizer_name": "n",
        "held_out": {"share": "0.2"},
    }
    other: dict[str, Any] = {
        "tasks": 9,
        "eos": False,
        "bos": True,
        "text": "t",
        "id": None,
        "drop": {"a": "b"},
        "keep": {"a": "b"},
        "extract": "chinese-docstrings",
        "held_out": {"share": "21%"},
        "read": {"folder": "other"},
    }
    for name, value in same.items():
        assert replace(asked, **{name: value}).recipe_digest() == asked.recipe_digest(), name
    for name, value in other.items():
        assert replace(asked, **{name: value}).recipe_digest() != asked.recipe_digest(), name
    assert asked.key("0123456789abcdef") == f"0123456789ab-{asked.recipe_digest()[:8]}"


def test_the_digest_changes_with_the_text_and_not_with_the_names_around_it(made: Path) -> None:
    manifest = Manifest.load(made / "out")
    train = manifest.splits[TRAIN]
    shard = replace(train.shards[0], sha256="0" * 64)
    other = replace(train, shards=(shard, *train.shards[1:]))
    assert replace(manifest, splits={**manifest.splits, TRAIN: other}).digest != manifest.digest
    assert replace(manifest, policy=replace(manifest.policy, eos=None)).digest != manifest.digest
    assert (
        replace(manifest, dataset="x", tokenizer=replace(manifest.tokenizer, name="y"), provenance={}).digest
        == manifest.digest
    )


@given(length=st.sampled_from([8, 16, 100, 500]))
@settings(max_examples=4)
def test_a_window_belongs_to_the_document_that_most_of_its_targets_are_of(made: Path, length: int) -> None:
    dataset = Dataset.open(made / "out", split=HELD_OUT, sequence_length=length)
    expected, before = [], 0
    for shard in Manifest.load(made / "out").splits[HELD_OUT].shards:
        ends = np.fromfile(made / "out" / f"{shard.file}.index", "<u8").astype(int)
        of = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
        for window in range((len(of) - 1) // length):
            targets = of[window * length + 1 : window * length + 1 + length]
            expected.append(before + int(np.bincount(targets).argmax()))
        before += len(ends)
    windows = np.arange(dataset.windows)
    assert dataset.document_numbers(windows).tolist() == expected
    shuffled = np.random.default_rng(1).permutation(windows)
    assert dataset.document_numbers(shuffled).tolist() == [expected[window] for window in shuffled]
