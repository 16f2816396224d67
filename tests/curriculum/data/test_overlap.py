"""Documents that two datasets share are counted by their tokens: every one, in bounded memory."""

from __future__ import annotations

import random
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from curriculum.data import overlap
from curriculum.data.manifest import HELD_OUT, TRAIN, Manifest, Shard, SpecialTokens, Split, TokenizerRecord
from curriculum.data.overlap import EMPTY, HashedDataset, Overlap, count_shared, read_record, record, token_hash


def write_hashes(folder: Path, splits: dict[str, list[list[int]]]) -> HashedDataset:
    """A folder that holds nothing but the hashes of its documents, a list for each shard of each split."""
    made = {}
    for split, shards in splits.items():
        (folder / split).mkdir(parents=True)
        entries = []
        for number, hashes in enumerate(shards):
            file = f"{split}/{number:05d}.ds"
            np.sort(np.array(hashes, "<u8")).tofile(folder / f"{file}.hashes")
            entries.append(
                Shard(
                    file=file,
                    tokens=1,
                    documents=len(hashes),
                    text_bytes=0,
                    **dict.fromkeys(("sha256", "blocks_sha256", "index_sha256", "ids_sha256", "ids_index_sha256"), ""),
                )
            )
        documents = sum(map(len, shards))
        made[split] = Split(
            documents=documents, tokens=1, text_bytes=0, max_token=1, filler=0, dropped={}, shards=tuple(entries)
        )
    manifest = Manifest(
        dataset=folder.name,
        tokenizer=TokenizerRecord(digest="", name="", vocab_size=9),
        policy=SpecialTokens(bos=None, eos=None),
        dtype="uint16",
        block_bytes=1,
        recipe={},
        recipe_digest="",
        provenance={},
        splits=made,
    )
    return HashedDataset(folder, manifest)


@pytest.mark.parametrize("together", [1, 50, 1 << 22])
def test_every_shared_document_is_counted_at_any_number_compared_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr(overlap, "TOGETHER", together)
    draw = random.Random(3)
    pool = [0, 2**64 - 1, *(draw.randrange(2**64) for _ in range(60))]
    splits = [{split: [draw.choices(pool, k=30) for _ in range(3)] for split in (TRAIN, HELD_OUT)} for _ in range(2)]
    first, second = (write_hashes(tmp_path / str(number), split) for number, split in enumerate(splits))
    ours, theirs = ({split: [*chain(*shards)] for split, shards in each.items()} for each in splits)
    expected = Overlap(
        train=(sum(h in theirs[TRAIN] for h in ours[TRAIN]), sum(h in ours[TRAIN] for h in theirs[TRAIN])),
        held_out=(sum(h in theirs[TRAIN] for h in ours[HELD_OUT]), sum(h in ours[TRAIN] for h in theirs[HELD_OUT])),
    )
    assert count_shared(first, second) == expected
    assert 0 < min(expected.train) < 90


def test_documents_without_text_are_no_overlap(tmp_path: Path) -> None:
    first, second = (write_hashes(tmp_path / name, {TRAIN: [[EMPTY, EMPTY, 5]]}) for name in "ab")
    assert count_shared(first, second) == Overlap(train=(1, 1), held_out=(0, 0))


def test_nothing_is_known_of_a_dataset_in_which_a_shard_has_no_hashes(tmp_path: Path) -> None:
    dataset = write_hashes(tmp_path / "a", {TRAIN: [[1, 2], [3]]})
    assert dataset.known
    np.array([1], "<u8").tofile(tmp_path / "a/train/00000.ds.hashes")
    assert not dataset.known
    (tmp_path / "a/train/00000.ds.hashes").unlink()
    assert not dataset.known


def test_a_hash_depends_on_the_tokens_and_not_on_their_width_or_how_they_are_cut() -> None:
    tokens = np.array([5, 300, 7])
    assert token_hash(tokens.astype("<u2")) == token_hash(tokens[:1], tokens[1:].astype("<i4"))
    assert token_hash(tokens) != token_hash(tokens[:2])


def test_a_record_that_cannot_be_read_is_as_none(tmp_path: Path) -> None:
    path = tmp_path / "overlaps" / "a.json"
    assert read_record(path) is None
    record(path, Overlap(train=(1, 2), held_out=(3, 4)))
    assert read_record(path) == Overlap(train=(1, 2), held_out=(3, 4))
    path.write_text('{"train": [1]}')
    assert read_record(path) is None
