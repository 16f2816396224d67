"""Documents that two datasets of one tokenizer share, by their tokens, whatever the names of sources, files and ids.

Next to each `.ds` lie the hashes of its documents, ascending. They are no part of the dataset's digest: a dataset that
was prepared without them stays what it is, and nothing is known of its overlap. The manifest has their own digests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curriculum import fs
from curriculum.data.manifest import HELD_OUT, TRAIN, Manifest, SplitName

HASHES = ".hashes"


def token_hash(*tokens: NDArray[Any]) -> int:
    """BLAKE2b-64 of a document's tokens as little-endian uint32, given in one array or as consecutive ones.

    BOS and EOS are left out by the caller, so that the same text has the same hash in every dataset of a tokenizer.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in tokens:
        digest.update(part.astype("<u4").tobytes())
    return int.from_bytes(digest.digest(), "little")


EMPTY = token_hash(np.zeros(0, np.uint32))
"""The hash of a document without text, which says nothing of where it is from."""
TOGETHER = 1 << 22
"""Documents that are compared at a time: about 100 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """The documents that two datasets share, as counted in the first and in the second of them.

    `train` are training documents of the one that the other trains on too, `held_out` are held-out documents of the one
    that the other trains on.
    """

    train: tuple[int, int]
    held_out: tuple[int, int]


class HashedDataset:
    """A prepared data folder, seen as the hashes of its documents."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    @property
    def documents(self) -> int:
        return sum(split.documents for split in self.manifest.splits.values())

    @property
    def known(self) -> bool:
        """Whether every shard has the hashes of all its documents."""
        shards = [shard for split in self.manifest.splits.values() for shard in split.shards]
        try:
            return all(self._path(shard.file).stat().st_size == 8 * shard.documents for shard in shards)
        except FileNotFoundError:
            return False

    def damaged(self, *, contents: bool) -> Path | None:
        """The first file of hashes that is not as the manifest records it, by its size or also its `contents`."""
        for shard in (shard for split in self.manifest.splits.values() for shard in split.shards):
            path, digest = self._path(shard.file), self.manifest.sidecars.get(f"{shard.file}{HASHES}")
            if digest is None:
                continue
            if not path.is_file() or path.stat().st_size != 8 * shard.documents:
                return path
            if contents and fs.sha256_file(path) != digest:
                return path
        return None

    def between(self, split: SplitName, low: int, high: int) -> NDArray[np.uint64]:
        """The hashes of documents of `split` in [low, high), ascending; those of empty documents are left out."""
        parts = [np.zeros(0, np.uint64)]
        for shard in self.manifest.splits[split].shards if split in self.manifest.splits else ():
            parts.append(_between(self._path(shard.file), low, high))
        result = np.sort(np.concatenate(parts))
        kept: NDArray[np.uint64] = result[result != EMPTY]
        return kept

    def _path(self, file: str) -> Path:
        return self.folder / f"{file}{HASHES}"


def write(path: Path, hashes: NDArray[np.uint64]) -> None:
    """The file of these hashes, which are sorted here."""
    path.write_bytes(np.sort(hashes.astype("<u8", copy=False)).data)


def merge(parts: Sequence[Path], path: Path) -> None:
    """One file of the hashes of several; memory stays bounded at any number of documents."""
    with path.open("xb") as out:
        for low, high in _ranges(sum(part.stat().st_size for part in parts) // 8):
            out.write(np.sort(np.concatenate([_between(part, low, high) for part in parts])).data)


def _between(path: Path, low: int, high: int) -> NDArray[np.uint64]:
    """The hashes of a file in [low, high), which is closed again: files may outnumber those that can be open."""
    hashes = np.memmap(path, "<u8", "r")
    first = np.searchsorted(hashes, np.uint64(low))
    stop = np.searchsorted(hashes, np.uint64(high - 1), side="right")
    return np.array(hashes[first:stop])


def count_shared(first: HashedDataset, second: HashedDataset) -> Overlap:
    """Count what two datasets share, of which every hash is known; memory stays bounded at any size."""
    train, held_out = np.zeros(2, np.int64), np.zeros(2, np.int64)
    for low, high in _ranges(first.documents + second.documents):
        ours, theirs = first.between(TRAIN, low, high), second.between(TRAIN, low, high)
        train += [_count_in(theirs, ours), _count_in(ours, theirs)]
        held_out += [
            _count_in(theirs, first.between(HELD_OUT, low, high)),
            _count_in(ours, second.between(HELD_OUT, low, high)),
        ]
    return Overlap(train=(int(train[0]), int(train[1])), held_out=(int(held_out[0]), int(held_out[1])))


def _count_in(hashes: NDArray[np.uint64], documents: NDArray[np.uint64]) -> int:
    """How many of `documents` are among `hashes`; both ascend."""
    if not len(hashes):
        return 0
    at = np.minimum(np.searchsorted(hashes, documents), len(hashes) - 1)
    return int(np.count_nonzero(hashes[at] == documents))


def read_record(path: Path) -> Overlap | None:
    """What `record` wrote to `path`, None where there is nothing that can be read."""
    try:
        return fs.from_json(Overlap, fs.read_sealed(path))
    except (FileNotFoundError, ValueError):
        return None


def record(path: Path, overlap: Overlap) -> None:
    fs.make_directory(path.parent)
    fs.write_sealed(path, fs.fields_of(overlap), replace=True)


def _ranges(documents: int) -> Iterator[tuple[int, int]]:
    """All hashes, which are spread evenly, in ranges of about TOGETHER documents."""
    count = 1 + documents // TOGETHER
    for number in range(count):
        yield (number << 64) // count, ((number + 1) << 64) // count
