"""A batch of token sequences as arrays: inputs, targets, the sources they are from, and where documents begin."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from curriculum.errors import PlanError
from curriculum.plan.stage import StagePlan


@dataclass(frozen=True, slots=True)
class Batch:
    """What one rank reads in a step, or one micro-batch of it: `n` sequences of L inputs and their shifted targets.

    `tokens` has shape `[n, L + 1]`; `source` (shape `[n]`) indexes `names`. `cu_seqlens` says where documents begin in
    the concatenated inputs (`document_bounds`), where the plan keeps documents apart; else it is None. This is
    micro-batch `micro` of `micros`, counted from 0.
    """

    step: int
    lr: float
    tokens: NDArray[np.int64]
    source: NDArray[np.int32]
    names: tuple[str, ...]
    cu_seqlens: NDArray[np.int32] | None = None
    micro: int = 0
    micros: int = 1

    @property
    def inputs(self) -> NDArray[np.int64]:
        """Shape `[n, L]`, contiguous."""
        return np.ascontiguousarray(self.tokens[:, :-1])

    @property
    def targets(self) -> NDArray[np.int64]:
        """The token after each input, shape `[n, L]`, contiguous."""
        return np.ascontiguousarray(self.tokens[:, 1:])

    @property
    def last(self) -> bool:
        """Whether this is the step's last micro-batch, after which the optimizer updates."""
        return self.micro == self.micros - 1

    @property
    def position_ids(self) -> NDArray[np.int64]:
        """Each input's place, shape `[n, L]`: in its sequence, or in its document where documents are kept apart."""
        rows, length = self.tokens.shape[0], self.tokens.shape[1] - 1
        place = np.arange(rows * length, dtype=np.int64)
        bounds = np.arange(rows + 1) * length if self.cu_seqlens is None else self.cu_seqlens
        begins = np.repeat(bounds[:-1], np.diff(bounds)).astype(np.int64)
        return (place - begins).reshape(rows, length)

    def cu_seqlens_of(self, begin: int, end: int) -> NDArray[np.int32] | None:
        """`cu_seqlens` of the sequences in [begin, end)."""
        if self.cu_seqlens is None:
            return None
        length = self.tokens.shape[1] - 1
        first, last = np.searchsorted(self.cu_seqlens, (begin * length, end * length))
        return self.cu_seqlens[first : last + 1] - np.int32(begin * length)

    def micro_batches(self, size: int) -> Iterator[Batch]:
        """The batch in micro-batches of `size` sequences, which must divide it."""
        micros = len(self.tokens) // size
        for micro in range(micros):
            begin, end = micro * size, (micro + 1) * size
            yield replace(
                self,
                tokens=self.tokens[begin:end],
                source=self.source[begin:end],
                cu_seqlens=self.cu_seqlens_of(begin, end),
                micro=micro,
                micros=micros,
            )


def witness(inputs: ArrayLike) -> int:
    """A digest of token sequences `[n, L]` that does not depend on their order: equal for equal multisets of rows.

    The sum, modulo 2**64, of the 64-bit BLAKE2b of every row as little-endian int32; so the witnesses of the parts
    that ranks or micro-batches read add up (modulo 2**64) to that of the step.
    """
    rows = np.ascontiguousarray(np.atleast_2d(np.asarray(inputs)), "<i4")
    return sum(int.from_bytes(hashlib.blake2b(row, digest_size=8).digest(), "little") for row in rows) % 2**64


def document_end(plan: StagePlan) -> int | None:
    """The token that ends a document, where the plan masks documents from each other; None where it does not.

    PlanError when it does, but its tokenizer has no such token.
    """
    if not plan.mask_documents:
        return None
    eos = plan.tokenizer.get("eos")
    if eos is None:
        raise PlanError(
            "`mask_documents` keeps documents apart, but this tokenizer marks no document's end",
            hint="leave `mask_documents` out of the stage file, or take a tokenizer with an end-of-text token",
        )
    return int(eos)


def document_bounds(tokens: NDArray[np.int64], eos: int) -> NDArray[np.int32]:
    """Where documents begin in the concatenated inputs of `tokens` (`[n, sequence_length + 1]`), and their end.

    `eos` ends a document, and so does a sequence's end. Often called `cu_seqlens`; shape `[documents + 1]`.
    """
    begins = np.ones((len(tokens), tokens.shape[1] - 1), bool)
    np.equal(tokens[:, :-2], eos, out=begins[:, 1:])
    return np.append(np.flatnonzero(begins), begins.size).astype(np.int32)
