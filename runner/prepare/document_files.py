"""The files with an entry a document beside a shard's tokens: where it ends, its id, and the hashes it is found by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curriculum.data import document_lookup, overlap
from runner.prepare.texts import bounds_of

RUN = 1 << 20
"""Documents whose hashes are sorted at a time, in about 70 MB."""


class DocumentFiles:
    """Writes `.ds.index`, `.ids`, `.ids.index`, `.ids.lookup` and `.ds.hashes` beside a new `.ds`, in batches.

    Memory stays bounded at any number of documents: hashes are sorted in runs of RUN documents, which `close` merges.
    """

    def __init__(self, path: Path) -> None:
        ids = path.with_suffix(".ids")
        self._lookup = ids.with_name(ids.name + document_lookup.SHARD_LOOKUP)
        self._hashes = path.with_name(path.name + overlap.HASHES)
        self._ends = path.with_suffix(".ds.index").open("xb")
        self._ids = ids.open("xb")
        self._id_ends = ids.with_suffix(".ids.index").open("xb")
        self._id_bytes = 0
        self._waiting: list[tuple[NDArray[np.uint64], NDArray[np.uint64]]] = []
        self._runs: list[int] = []

    def add(self, lines: Sequence[bytes], ends: NDArray[np.int64], hashes: NDArray[np.uint64]) -> None:
        """The next documents: their ids' lines, where each ends in the shard's tokens, and `token_hash` of each."""
        bounds = bounds_of(lines)[1:] + self._id_bytes
        self._ids.write(b"".join(lines))
        self._id_bytes = int(bounds[-1])
        self._ends.write(ends.astype("<u8").data)
        self._id_ends.write(bounds.astype("<u8").data)
        self._waiting.append((document_lookup.line_hashes(lines), hashes))
        if sum(len(hashes) for _, hashes in self._waiting) >= RUN:
            self._sort_run()

    def close(self) -> None:
        for file in (self._ends, self._ids, self._id_ends):
            file.close()
        if not self._runs:
            self._sort(self._lookup, self._hashes)
            return
        if self._waiting:
            self._sort_run()
        runs = range(len(self._runs))
        document_lookup.merge([self._run(self._lookup, run) for run in runs], self._runs, self._lookup)
        overlap.merge([self._run(self._hashes, run) for run in runs], self._hashes)
        for run in runs:
            for path in (self._lookup, self._hashes):
                self._run(path, run).unlink()

    def _sort_run(self) -> None:
        run = len(self._runs)
        self._runs.append(sum(len(hashes) for _, hashes in self._waiting))
        self._sort(self._run(self._lookup, run), self._run(self._hashes, run))

    def _sort(self, lookup: Path, hashes: Path) -> None:
        """Write the hashes of the documents that wait."""
        of_lines, of_tokens = (np.concatenate([pair[at] for pair in self._waiting]) for at in (0, 1))
        self._waiting.clear()
        document_lookup.write_shard(lookup, of_lines)
        overlap.write(hashes, of_tokens)

    def _run(self, path: Path, number: int) -> Path:
        return path.with_name(f".{path.name}.{number}")
