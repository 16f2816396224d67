"""Windows out of prepared text: memory-mapped, gathered a whole batch at a time, checked before first use.

Window `w` of a shard with sequence length L is its tokens `w*L … w*L + L`, both included: L inputs and, one
to the right, their L targets. Windows are numbered through all shards in the order of their names.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curriculum.data.manifest import TRAIN, Manifest
from curriculum.data.shard import MappedShard, id_line
from curriculum.errors import DataError, NotFound

Integers = NDArray[np.int64]

ROWS_TOGETHER = 4
"""Rows of one shard, on average, from which on they are worth a call of their own."""

FEW_DOCUMENTS = 20_000
"""Of so many ids one may be compared with each."""


@dataclass(frozen=True, slots=True)
class DocumentSpan:
    """A document, or the part of it that a window reads.

    `shard` and `document` count from 0 (the document within its shard). The part is the shard's tokens
    `first_token … first_token + tokens - 1` and begins `offset` tokens into the document.
    """

    id: str
    shard: int
    document: int
    first_token: int
    tokens: int
    offset: int = 0


class Dataset:
    """One split of a prepared data folder, seen as windows of `sequence_length`. Open with `Dataset.open`."""

    def __init__(self, folder: Path, manifest: Manifest, split: str, sequence_length: int) -> None:
        self.folder = folder
        self.manifest = manifest
        self.split = split
        self.sequence_length = sequence_length
        record = manifest.splits[split]
        self.mapped = [
            MappedShard(
                folder,
                shard,
                np.dtype(manifest.dtype).newbyteorder("<"),
                manifest.block_bytes,
                sequence_length,
                manifest.elsewhere.get(shard.file),
            )
            for shard in record.shards
        ]
        self._ends = np.cumsum([shard.windows for shard in self.mapped], dtype=np.int64)
        self._begins = self._ends - np.array([shard.windows for shard in self.mapped], np.int64)
        self.windows = int(self._ends[-1]) if self.mapped else 0
        self.digest = manifest.digest
        self.digests = frozenset(state.digest for state in manifest.states)
        self.split_digest = record.digest
        self.shards = tuple(shard.file for shard in record.shards)

    @classmethod
    def open(
        cls,
        folder: Path | str,
        *,
        split: str = TRAIN,
        sequence_length: int,
        vocab_size: int | None = None,
        tokenizer_digest: str | None = None,
    ) -> Dataset:
        """Open without reading any token: the manifest, and the size of every shard.

        Raises DataError when the folder is not prepared, a file is missing or cut short, an id reaches
        `vocab_size`, or the text was made with a tokenizer other than `tokenizer_digest`.
        """
        folder = Path(folder)
        manifest = Manifest.load(folder)
        if tokenizer_digest is not None and tokenizer_digest != manifest.tokenizer.digest:
            raise DataError(
                f"`{folder}` was made with another tokenizer: {_name(manifest)}, not {tokenizer_digest[:12]}",
                hint="`curriculum prepare` makes it anew for this tokenizer; the old folder is kept",
            )
        if split not in manifest.splits:
            raise DataError(
                f"`{folder}` has no split `{split}`",
                hint=f"it has: {', '.join(sorted(manifest.splits))}; `held_out:` in sources.yaml makes one",
            )
        largest = manifest.splits[split].max_token
        if vocab_size is not None and largest >= vocab_size:
            raise DataError(
                f"`{folder}` holds the token id {largest}, but the model's vocabulary has {vocab_size} ids",
                hint=f"its tokenizer ({_name(manifest)}) needs `vocab_size: {manifest.tokenizer.vocab_size}` or more",
            )
        return cls(folder, manifest, split, sequence_length)

    def read(self, windows: Integers) -> Integers:
        """The tokens of `windows` (int64 `[n]`, any order) as int64 `[n, sequence_length + 1]`; see `gather`."""
        if not len(windows):
            return np.empty((0, self.sequence_length + 1), np.int64)
        return next(gather(self.mapped, *self.locate(np.asarray(windows, np.int64)), len(windows)))

    def locate(self, windows: Integers) -> tuple[Integers, Integers]:
        """The number of each window's shard, and the window's number in there, for `gather`; int64 `[n]` each."""
        if windows.size and (windows.min() < 0 or windows.max() >= self.windows):
            beyond = int(windows.max() if windows.min() >= 0 else windows.min())
            raise DataError(
                f"window {beyond} was asked of `{self.folder}`, whose `{self.split}` split has "
                f"{self.windows:,} windows of {self.sequence_length}",
                hint="the text was prepared anew since the plan was made; see `curriculum plan`",
            )
        shard = np.searchsorted(self._ends, windows, side="right")
        return shard, windows - self._begins[shard]

    def documents(self, window: int) -> list[DocumentSpan]:
        """The documents that `window` reads from, in order, each with the part that lies inside."""
        at = int(np.searchsorted(self._ends, window, side="right"))
        if not 0 <= window < self.windows:
            raise NotFound(
                f"there is no window {window} in `{self.folder}`",
                hint=f"it has the windows 0 to {self.windows - 1}",
            )
        shard = self.mapped[at]
        start = (window - self._first_window(at)) * self.sequence_length
        stop = start + self.sequence_length + 1
        spans = []
        document = int(np.searchsorted(shard.ends, start, side="right"))
        while document < len(shard.ends):
            first, end = shard.extent(document)
            if first >= stop:
                break
            inside = max(first, start)
            name = shard.id_of(document)
            spans.append(DocumentSpan(name, at, document, inside, min(end, stop) - inside, inside - first))
            document += 1
        return spans

    def find_document(self, name: str) -> DocumentSpan:
        """The first document whose id is `name`, whole; NotFound when this split has none."""
        found = self.find_documents(name)
        if found:
            return found[0]
        raise NotFound(
            f"no document `{name}` in the `{self.split}` split of `{self.folder}`",
            hint="an id is the corpus's own, the file's name or `file:row`; `curriculum batch` shows some",
        )

    def find_documents(self, name: str) -> list[DocumentSpan]:
        """Every document whose id is `name`, whole: an id that the corpus gave twice is found twice."""
        line = id_line(name)
        return [self.document(at, each) for at, shard in enumerate(self.mapped) for each in shard.find(line)]

    def ids_like(self, name: str, most: int = 5) -> list[str]:
        """Ids that hold the last part of `name`, or, where there are few documents, look like it."""
        part = id_line(name.strip("/").rpartition("/")[2].partition(":")[0])[1:-2]
        near: list[str] = []
        for shard in self.mapped:
            near += shard.names_like(part, most - len(near)) if part else []
        if not near and sum(len(shard.ends) for shard in self.mapped) <= FEW_DOCUMENTS:
            names = (shard.id_of(each) for shard in self.mapped for each in range(len(shard.ends)))
            near = difflib.get_close_matches(name, names, n=most)
        return near[:most]

    def document(self, shard: int, document: int) -> DocumentSpan:
        """Document number `document` of shard number `shard`, whole; NotFound when there is none."""
        if not 0 <= shard < len(self.mapped) or not 0 <= document < len(self.mapped[shard].ends):
            raise NotFound(
                f"`{self.folder}` has no document {document} in shard {shard}",
                hint=f"its `{self.split}` split has {len(self.mapped)} shards, counted from 0",
            )
        first, end = self.mapped[shard].extent(document)
        return DocumentSpan(self.mapped[shard].id_of(document), shard, document, first, end - first)

    def windows_of(self, document: DocumentSpan) -> Integers:
        """Every window that reads a token of `document`, as input or target, ascending; empty in the tail."""
        shard = self.mapped[document.shard]
        length = self.sequence_length
        last = document.first_token + document.tokens - 1
        low = max(0, -(-(document.first_token - length) // length))
        high = min(shard.windows - 1, last // length)
        return np.arange(low, high + 1, dtype=np.int64) + self._first_window(document.shard)

    def shard_windows(self, shard: int) -> range:
        """The windows of shard number `shard`."""
        return range(self._first_window(shard), int(self._ends[shard]))

    def verify(self) -> Iterator[tuple[str, int]]:
        """Compare every byte with its digest, yielding `(file, bytes)`; DataError where one differs."""
        for shard in self.mapped:
            yield from shard.verify()

    def _first_window(self, shard: int) -> int:
        return int(self._ends[shard - 1]) if shard else 0


def gather(
    shards: Sequence[MappedShard], shard: Integers, window: Integers, at_once: int
) -> Iterator[Integers]:
    """Window `window[i]` of shard number `shard[i]`, `at_once` rows at a time: int64 `[rows, sequence_length + 1]`.

    Blocks touched for the first time are compared with their digests: DataError when one differs.

    Rows of one shard are copied together, then widened while they lie in a near cache. Where almost every row
    has a shard of its own, that would be a call or two for each; then one call joins and widens all rows.
    """
    part = np.arange(len(shard)) // at_once * len(shards) + shard
    order = np.argsort(part.astype(np.uint32), kind="stable")
    part, inside = part[order], window[order]
    bounds = [*np.flatnonzero(np.diff(part, prepend=-1)).tolist(), len(part)]
    row, number, group = order % at_once, part % len(shards), 0
    unchecked = np.array([not one.checked for one in shards])
    together = len(bounds) * ROWS_TOGETHER <= len(shard)
    for begin in range(0, len(shard), at_once):
        end = min(begin + at_once, len(shard))
        new = shard[begin:end][unchecked[shard[begin:end]]]
        for at in np.unique(new).tolist() if len(new) else ():
            unchecked[at] = not shards[at].check(window[begin:end][shard[begin:end] == at])
        out = np.empty((end - begin, shards[0].length + 1), np.int64)
        if together:
            while bounds[group] < end:
                mine = slice(bounds[group], bounds[group + 1])
                out[row[mine]] = shards[number[mine.start]].view[inside[mine]]
                group += 1
        else:
            here = zip(shard[begin:end].tolist(), window[begin:end].tolist(), strict=True)
            np.concatenate([shards[at].view[one] for at, one in here], out=out.reshape(-1))
        yield out


def _name(manifest: Manifest) -> str:
    return f"{manifest.tokenizer.name or 'unnamed'} {manifest.tokenizer.digest[:12]}"
