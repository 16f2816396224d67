"""Runs of n tokens that two texts share, exactly: candidates by their hashes, each compared token by token.

The hash of the tokens t(0) … t(n-1) is the polynomial t(0) B^(n-1) + … + t(n-1) modulo 2^64, as in Karp and Rabin,
"Efficient randomized pattern-matching algorithms" (1987); it is computed for all positions of a block at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

UInt64 = NDArray[np.uint64]
Integers = NDArray[np.int64]

BASE = np.uint64(0x9E3779B97F4A7C15)
_MIXES = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
STRIDE = 4
"""See NgramIndex."""
RUN = 13
"""Tokens of a run unless another number is asked for: what GPT-3 (Brown et al. 2020, appendix C) looked for."""
BLOCK = 1 << 15
"""Tokens that are hashed at a time, so that the arrays stay in a core's cache."""


def run_hashes(tokens: NDArray[Any], n: int, stride: int = 1) -> UInt64:
    """The hashes of the runs of `n` tokens that begin at each `stride`-th position, as far as they reach."""
    count = (len(tokens) - n) // stride + 1
    if count <= 0:
        return np.empty(0, np.uint64)
    lanes = [tokens[first::stride].astype(np.uint64) for first in range(stride)]
    hashes = lanes[0][:count].copy()
    for at in range(1, n):
        hashes *= BASE
        hashes += lanes[at % stride][at // stride :][:count]
    return hashes


@dataclass(frozen=True, slots=True)
class Reference:
    """Documents whose runs are looked for. `ends` are where each ends in `tokens`, exclusive, int64.

    `names` are their ids, as they are shown.
    """

    names: Sequence[str]
    tokens: NDArray[Any]
    ends: Integers


@dataclass(frozen=True, slots=True)
class SharedRuns:
    """What a piece of text shares with a reference.

    `documents` are the numbers of its documents with a shared run, ascending, and `tokens` how many tokens of each are
    within one. `references` are the numbers of the reference's documents whose runs it has.
    """

    documents: Integers
    tokens: Integers
    references: Integers


class NgramIndex:
    """The runs of `n` tokens within the documents of a reference. Documents of fewer tokens have none.

    A run of n tokens holds, at a multiple of STRIDE in the text that is searched, an anchor of n - STRIDE + 1 tokens.
    So only every STRIDE-th position is looked up, in a table that has an entry for every anchor of the reference; the
    runs around a hit are looked up themselves, and compared token by token.
    """

    def __init__(self, reference: Reference, n: int) -> None:
        self.reference = reference
        self.n = n
        self.stride = STRIDE if n >= 2 * STRIDE else 1
        self.anchor = n - self.stride + 1
        begins = np.concatenate(([0], reference.ends[:-1])) if len(reference.ends) else np.empty(0, np.int64)
        self.too_short = int(np.count_nonzero(reference.ends - begins < n))
        at, hashes = self._runs(n)
        order = np.argsort(hashes, kind="stable")
        self._at, self._hashes = at[order], hashes[order]
        # A Bloom filter of two entries in at least 32 for each anchor: one in 200 others passes.
        _, anchors = self._runs(self.anchor)
        bits = max(16, min(30, int(len(anchors) * 32).bit_length()))
        self._shift = np.uint64(64 - bits)
        self._table = np.zeros(1 << bits, bool)
        for mix in _MIXES:
            self._table[self._slots(anchors, mix)] = True

    def __len__(self) -> int:
        return len(self._hashes)

    def _runs(self, n: int) -> tuple[Integers, UInt64]:
        """Where the runs of `n` tokens within a document of the reference begin, and their hashes."""
        tokens, ends = self.reference.tokens, self.reference.ends
        hashes = np.concatenate(
            [
                np.empty(0, np.uint64),
                *(
                    run_hashes(tokens[at : at + BLOCK + n - 1], n)
                    for at in range(0, max(0, len(tokens) - n + 1), BLOCK)
                ),
            ]
        )
        at = np.arange(len(hashes), dtype=np.int64)
        inside = _inside(at, n, ends)
        return at[inside], hashes[inside]

    def _slots(self, hashes: UInt64, mix: np.uint64) -> UInt64:
        slots: UInt64 = hashes * mix >> self._shift
        return slots

    def shared(self, tokens: NDArray[Any], ends: Integers) -> SharedRuns:
        """What consecutive documents share with the reference; `ends` are where each ends in `tokens`, exclusive."""
        position, match = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for first in range(0, len(tokens) - self.anchor + 1, BLOCK):
            hashes = run_hashes(tokens[first : first + BLOCK + self.anchor - 1], self.anchor, self.stride)
            hits = np.flatnonzero(self._table[self._slots(hashes, _MIXES[0])])
            hits = hits[self._table[self._slots(hashes[hits], _MIXES[1])]]
            if len(hits):
                hits = hits * self.stride + first
                starts = np.unique(hits[:, None] - np.arange(self.stride))
                starts = starts[(starts >= 0) & (starts + self.n <= len(tokens))]
                for positions, own in self._matches(tokens, starts[_inside(starts, self.n, ends)]):
                    position.append(positions)
                    match.append(own)
        at, runs = np.concatenate(position), np.unique(np.concatenate(match))
        return SharedRuns(*_covered(at, np.searchsorted(ends, at, side="right"), self.n), self._documents_of(runs))

    def _matches(self, tokens: NDArray[Any], starts: Integers) -> Iterator[tuple[Integers, Integers]]:
        """Of these positions those with a run of the reference, with the number of its first equal run."""
        steps = np.arange(self.n)
        rows = tokens[starts[:, None] + steps]
        hashes = np.zeros(len(starts), np.uint64)
        for column in rows.T:
            hashes = hashes * BASE + column.astype(np.uint64)
        low = np.searchsorted(self._hashes, hashes)
        while len(starts):
            matching = low < len(self._hashes)
            matching[matching] = self._hashes[low[matching]] == hashes[matching]
            starts, rows, hashes, low = starts[matching], rows[matching], hashes[matching], low[matching]
            equal = (rows == self.reference.tokens[self._at[low][:, None] + steps]).all(axis=1)
            yield starts[equal], low[equal]
            # another run with the same hash, which is so rare that it is tried one by one
            starts, rows, hashes, low = starts[~equal], rows[~equal], hashes[~equal], low[~equal] + 1

    def _documents_of(self, runs: Integers) -> Integers:
        """The documents of the reference with the runs that have these numbers, and with equal ones."""
        tokens, steps = self.reference.tokens, np.arange(self.n)
        positions = [self._at[runs]]
        at = runs
        while len(at):
            same = at + 1 < len(self._hashes)
            same[same] = self._hashes[at[same] + 1] == self._hashes[at[same]]
            at, runs = at[same] + 1, runs[same]
            equal = (tokens[self._at[runs][:, None] + steps] == tokens[self._at[at][:, None] + steps]).all(axis=1)
            positions.append(self._at[at[equal]])
        return np.unique(np.searchsorted(self.reference.ends, np.concatenate(positions), side="right"))


def _inside(starts: Integers, n: int, ends: Integers) -> NDArray[np.bool_]:
    """Whether the run of `n` tokens from each position ends in the document that it begins in."""
    if not len(ends):
        return np.zeros(len(starts), bool)
    document = np.minimum(np.searchsorted(ends, starts, side="right"), len(ends) - 1)
    inside: NDArray[np.bool_] = starts + n <= ends[document]
    return inside


def _covered(position: Integers, document: Integers, n: int) -> tuple[Integers, Integers]:
    """The documents, and the tokens of each that some run of `n` tokens from these positions covers."""
    if not len(position):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    position, first = np.unique(position, return_index=True)
    document = document[first]
    new = np.minimum(n, np.diff(position, append=position[-1] + n))
    last = np.append(document[1:] != document[:-1], True)
    new[last] = n
    numbers, begins = np.unique(document, return_index=True)
    return numbers, np.add.reduceat(new, begins)
