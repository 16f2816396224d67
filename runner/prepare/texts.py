"""Documents in batches: consecutive texts, and the tokens made of them, as one array with the documents' bounds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curriculum.data.manifest import SplitName


@dataclass(frozen=True, slots=True)
class Texts:
    """UTF-8 bytes of documents, one after the other: document `i` is `data[bounds[i]:bounds[i + 1]]`.

    `data` is uint8 and `bounds` int64 with one entry more than there are documents.
    """

    data: NDArray[np.uint8]
    bounds: NDArray[np.int64]

    @classmethod
    def join(cls, texts: Sequence[bytes]) -> Texts:
        return cls(np.frombuffer(b"".join(texts), np.uint8), bounds_of(texts))

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, document: int) -> memoryview:
        return self.data.data[self.bounds[document] : self.bounds[document + 1]]

    def hashes(self, documents: NDArray[np.int64]) -> NDArray[np.uint64]:
        """`text_hash` of each of these documents."""
        return _hashes(self.data.data, self.bounds[documents], self.bounds[documents + 1])

    def strings(self) -> list[str]:
        bounds, data = self.bounds.tolist(), self.data.data
        return [str(data[begin:end], "utf-8") for begin, end in pairwise(bounds)]


@dataclass(frozen=True, slots=True)
class Tokens:
    """The ids of documents, one after the other: document `i` is `ids[bounds[i]:bounds[i + 1]]`.

    `ids` is uint32, and `bounds` int64 with one entry more than there are documents.
    """

    ids: NDArray[np.uint32]
    bounds: NDArray[np.int64]

    @classmethod
    def join(cls, documents: Sequence[Sequence[int]]) -> Tokens:
        bounds = bounds_of(documents)
        return cls(np.fromiter(chain.from_iterable(documents), np.uint32, int(bounds[-1])), bounds)

    def __getitem__(self, document: int) -> NDArray[np.uint32]:
        return self.ids[self.bounds[document] : self.bounds[document + 1]]

    def hashes(self, documents: NDArray[np.int64]) -> NDArray[np.uint64]:
        """`token_hash` of each of these documents."""
        data = self.ids.astype("<u4", copy=False).view(np.uint8).data
        return _hashes(data, 4 * self.bounds[documents], 4 * self.bounds[documents + 1])

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.bounds)


def _hashes(data: memoryview, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.uint64]:
    """BLAKE2b-64 of the parts of `data`, as little-endian integers."""
    blake2b = hashlib.blake2b
    parts = zip(begins.tolist(), ends.tolist(), strict=True)
    digests = [blake2b(data[begin:end], digest_size=8).digest() for begin, end in parts]
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64, copy=False)


def bounds_of(parts: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """0, and where each of `parts` ends when they are joined."""
    bounds = np.zeros(len(parts) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)), out=bounds[1:])
    return bounds


@dataclass(frozen=True, slots=True)
class Documents:
    """Consecutive documents of one split of the corpus's own: their texts, and their ids as lines of an `.ids` file.

    `metadata` are the columns that were asked for, a mapping a document, or nothing.
    """

    texts: Texts
    lines: Sequence[bytes]
    split: SplitName
    metadata: Sequence[Mapping[str, Any]] = ()
