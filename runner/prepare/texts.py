"""Documents in batches: consecutive texts, and the tokens made of them, as one array with the documents' bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
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
        ids = np.fromiter((token for ids in documents for token in ids), np.uint32, int(bounds[-1]))
        return cls(ids, bounds)

    def __getitem__(self, document: int) -> NDArray[np.uint32]:
        return self.ids[self.bounds[document] : self.bounds[document + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.bounds)


def bounds_of(parts: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """0, and where each of `parts` ends when they are joined."""
    bounds = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(part) for part in parts], out=bounds[1:])
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
