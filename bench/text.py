"""Generated text in our format, with what several peers read as it is: three sources, written once into a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from curriculum import fs
from curriculum.data.manifest import BLOCK_BYTES, Manifest, Shard, SpecialTokens, Split, TokenizerRecord

LENGTH, BATCH, VOCABULARY, END = 2048, 16, 32_000, 0
NAMES = ("code", "maths", "prose")
TOKENS = {"code": 80_000_000, "maths": 50_000_000, "prose": 400_000_000}
WEIGHTS = {"code": 3, "maths": 2, "prose": 15}


def write(folder: Path, name: str, tokens: int, shards: int, seed: int) -> None:
    """Prepared text of `tokens` ids in all, documents of some 600, ended by id 0; skipped when it is there."""
    if (folder / "manifest.json").exists():
        return
    draw = np.random.default_rng(seed)
    write_ids(folder, name, (_drawn(draw, tokens // shards) for _ in range(shards)), VOCABULARY)


def _drawn(draw: np.random.Generator, count: int) -> np.ndarray:
    lengths = np.maximum(2, draw.lognormal(np.log(600) - 0.5, 1.0, size=count // 300)).astype(np.int64)
    ends = np.cumsum(lengths)
    ids = draw.integers(1, VOCABULARY, size=count, dtype=np.uint16)
    ids[np.append(ends[ends < count], count) - 1] = END
    return ids


def write_ids(folder: Path, name: str, shards: Iterable[np.ndarray], vocabulary: int) -> None:
    """Prepared text of these ids below `vocabulary`, a file each; id 0 ends a document, and so does a file."""
    (folder / "train").mkdir(parents=True, exist_ok=True)
    records = []
    for number, shard in enumerate(shards):
        ids = shard.astype("<u2")
        ends = np.union1d(np.flatnonzero(ids == END) + 1, len(ids)).astype("<u8")
        raw = ids.tobytes()
        blocks = b"".join(hashlib.sha256(raw[at : at + BLOCK_BYTES]).digest() for at in range(0, len(raw), BLOCK_BYTES))
        lines = [b'"%d/%d"\n' % (number, document) for document in range(len(ends))]
        parts = {
            f"{number:05d}.ds": raw,
            f"{number:05d}.ds.index": ends.tobytes(),
            f"{number:05d}.ds.blocks": blocks,
            f"{number:05d}.ids": b"".join(lines),
            f"{number:05d}.ids.index": np.cumsum([len(line) for line in lines]).astype("<u8").tobytes(),
        }
        for file, content in parts.items():
            (folder / "train" / file).write_bytes(content)
        digests = [hashlib.sha256(content).hexdigest() for content in parts.values()]
        records.append(
            Shard(
                file=f"train/{number:05d}.ds",
                tokens=len(ids),
                documents=len(ends),
                text_bytes=4 * len(ids),
                sha256=digests[0],
                index_sha256=digests[1],
                blocks_sha256=digests[2],
                ids_sha256=digests[3],
                ids_index_sha256=digests[4],
            )
        )
    split = Split(
        documents=sum(record.documents for record in records),
        tokens=sum(record.tokens for record in records),
        text_bytes=sum(record.text_bytes for record in records),
        max_token=vocabulary - 1,
        filler=sum(record.documents for record in records),
        dropped={},
        shards=tuple(records),
    )
    manifest = Manifest(
        dataset=name,
        tokenizer=TokenizerRecord(digest="0" * 64, name="generated", vocab_size=vocabulary),
        policy=SpecialTokens(bos=None, eos=END),
        dtype="uint16",
        block_bytes=BLOCK_BYTES,
        recipe={},
        recipe_digest="0" * 64,
        provenance={},
        splits={"train": split},
    )
    fs.write_json(folder / "manifest.json", manifest.to_json())


def tokens_of(folder: Path) -> list[np.ndarray]:
    """Each shard's ids, mapped."""
    return [np.memmap(path, "<u2", "r") for path in sorted((folder / "train").glob("*.ds"))]


def documents_of(folder: Path) -> list[np.ndarray]:
    """Every document's ids, in order."""
    documents = []
    for path in sorted((folder / "train").glob("*.ds")):
        ids = np.fromfile(path, "<u2")
        documents += np.split(ids, np.fromfile(f"{path}.index", "<u8")[:-1].astype(np.int64))
    return documents
