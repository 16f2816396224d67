"""The index of document ids beside a source's text: from an id to its documents, by a search in one sorted file.

    train/documents-0.lookup    12 bytes a document of the first preparation; `documents-1` of what was appended then

A record is a little-endian uint64, the upper 56 bits of the hash of the id's line above the upper 8 bits of the
document's number, and a uint32, the number's lower 32 bits; records ascend. Documents are numbered through the shards
of one preparation. A record is a hint: the line in `.ids` decides.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curriculum import fs
from curriculum.data.shard import map_file

RECORD = np.dtype([("key", "<u8"), ("low", "<u4")])
_UNPACK = struct.Struct("<QI").unpack_from

TOGETHER = 1 << 22
"""Records that are merged at a time: about 200 MB."""

COMPARED = 1000
"""Pairs of documents with one hash whose ids are compared, so that a coincidence of hashes is not counted."""

SHARD_LOOKUP = ".lookup"
"""The ending of one shard's records, until they are merged."""


def name_of(split: str, preparation: int) -> str:
    """The index of a split's documents that the preparation with this number, from 0, added."""
    return f"{split}/documents-{preparation}.lookup"


def line_hashes(lines: Sequence[bytes]) -> NDArray[np.uint64]:
    """BLAKE2b-64 of each line of an `.ids` file."""
    blake2b = hashlib.blake2b
    digests = [blake2b(line, digest_size=8).digest() for line in lines]
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64, copy=False)


def write_shard(path: Path, hashes: NDArray[np.uint64]) -> None:
    """The records of one shard, whose documents are numbered from 0."""
    path.write_bytes(_records(hashes, np.arange(len(hashes), dtype=np.uint64)).data)


def _records(hashes: NDArray[np.uint64], numbers: NDArray[np.uint64]) -> NDArray[np.void]:
    records = np.empty(len(hashes), RECORD)
    records["key"] = (hashes & ~np.uint64(0xFF)) | (numbers >> np.uint64(32))
    records["low"] = numbers & np.uint64(0xFFFFFFFF)
    return records[np.argsort(records["key"], kind="stable")]


@dataclass(slots=True)
class RepeatedIds:
    """How many documents have the hash of an earlier one's id, and the first COMPARED pairs of them."""

    count: int = 0
    pairs: list[tuple[int, int]] = field(default_factory=list)


def merge(shards: Sequence[Path], documents: Sequence[int], path: Path) -> RepeatedIds:
    """One index of the records of several shards, in their order; memory stays bounded at any number of documents."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    repeated = RepeatedIds()
    fs.write_blocks(temporary, _noting(repeated, _merged(shards, documents)))
    temporary.rename(path)
    fs.fsync(path.parent)
    return repeated


def _noting(repeated: RepeatedIds, blocks: Iterable[NDArray[np.void]]) -> Iterator[memoryview]:
    """The bytes of the records, which ascend; `repeated` is counted on the way."""
    for records in blocks:  # equal hashes are in one block: the key of the first 2^32 documents has nothing else
        hashes = records["key"] >> np.uint64(8)
        at = np.flatnonzero(hashes[1:] == hashes[:-1])
        repeated.count += len(at)
        for one in at[: COMPARED - len(repeated.pairs)].tolist():
            first, second = (_number(records[record]) for record in (one, one + 1))
            repeated.pairs.append((first, second))
        yield records.view(np.uint8).data


def _number(record: np.void) -> int:
    return (int(record["key"]) & 0xFF) << 32 | int(record["low"])


def _merged(shards: Sequence[Path], documents: Sequence[int]) -> Iterator[NDArray[np.void]]:
    if not shards:
        return
    opened = [np.frombuffer(map_file(path), RECORD) for path in shards]
    before = np.cumsum([0, *documents])
    parts = 1 + sum(documents) // TOGETHER
    begins = [0] * len(opened)
    for part in range(1, parts + 1):
        bound = part * 2**64 // parts
        ends = [len(records) if part == parts else _first_from(records, bound) for records in opened]
        keys, numbers = list[NDArray[np.uint64]](), list[NDArray[np.uint64]]()
        for shard, (begin, end) in enumerate(zip(begins, ends, strict=True)):
            piece = opened[shard][begin:end]
            keys.append(piece["key"].astype(np.uint64))
            within = (keys[-1] & np.uint64(0xFF)) << np.uint64(32) | piece["low"].astype(np.uint64)
            numbers.append(within + np.uint64(before[shard]))
        yield _records(np.concatenate(keys), np.concatenate(numbers))
        begins = ends


def _first_from(records: NDArray[np.void], bound: int) -> int:
    low, high = 0, len(records)
    while low < high:
        middle = (low + high) // 2
        if int(records[middle]["key"]) < bound:
            low = middle + 1
        else:
            high = middle
    return low


class DocumentLookup:
    """A mapped index. `whole` is whether it has the size that so many documents need."""

    def __init__(self, path: Path, documents: int) -> None:
        self.documents = documents
        self._data: mmap.mmap | bytes = b""
        try:
            self.whole = path.stat().st_size == documents * RECORD.itemsize
            if self.whole and documents:
                self._data = map_file(path)
        except OSError:
            self.whole = False

    def find(self, line: bytes) -> list[int]:
        """The numbers of the documents whose id's line has the same hash, ascending."""
        key = int(line_hashes([line])[0]) >> 8
        low, high = 0, self.documents
        while low < high:
            middle = (low + high) // 2
            if self._at(middle)[0] < key:
                low = middle + 1
            else:
                high = middle
        numbers = []
        while low < self.documents and self._at(low)[0] == key:
            numbers.append(self._at(low)[1])
            low += 1
        return sorted(numbers)

    def _at(self, record: int) -> tuple[int, int]:
        key, number = _UNPACK(self._data, record * RECORD.itemsize)
        return key >> 8, (key & 0xFF) << 32 | number
