"""Windows of prepared text: memory-mapped, gathered a batch at a time, verified before first use.

Window `w` of a shard with sequence length L is its tokens `w*L … w*L + L`, both included: L inputs and, shifted by one,
their L targets. Windows are numbered through all shards, ordered by name.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from curriculum.data import document_lookup
from curriculum.data.manifest import TRAIN, Manifest
from curriculum.data.shard import Integers, MappedShard, id_line
from curriculum.errors import DataError, NotFound

ROWS_TOGETHER = 4
"""Average number of rows of one shard from which on they are copied by one call."""

FEW_DOCUMENTS = 20_000
"""The largest number of ids that are compared one by one for a similar one."""


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


DIGESTED_DOCUMENTS = 1 << 20
"""Documents up to which the ids and ends of a shard are compared with their digests to find one."""


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
                f"`{folder}` was made with another tokenizer: {_tokenizer_name(manifest)}, not {tokenizer_digest[:12]}",
                hint="`curriculum prepare` makes it again for this tokenizer; the old folder is kept",
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
                hint=f"its tokenizer ({_tokenizer_name(manifest)}) needs "
                f"`vocab_size: {manifest.tokenizer.vocab_size}` or more",
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
                f"there is no window {beyond} in `{self.folder}`: its `{self.split}` split has "
                f"{self.windows:,} windows of {self.sequence_length}",
                hint="the text was prepared again since the plan was made; see `curriculum plan`",
            )
        shard = np.searchsorted(self._ends, windows, side="right")
        return shard, windows - self._begins[shard]

    def spread(self, most: int) -> Integers:
        """The numbers of at most `most` windows, spread evenly over all: the windows that an evaluation measures."""
        number = min(most, self.windows)
        return np.arange(number, dtype=np.int64) * self.windows // number

    def document_numbers(self, windows: Integers) -> Integers:
        """The document that most targets of each of `windows` (int64 `[n]`) are of, the first of equals; int64 `[n]`.

        Documents are numbered from 0 through all shards.
        """
        before = np.cumsum([0, *(len(shard.ends) for shard in self.mapped)])
        numbers = np.empty(len(windows), np.int64)
        for at, (number, window) in enumerate(zip(*self.locate(windows), strict=True)):
            ends = self.mapped[number].ends
            start = np.uint64(window * self.sequence_length + 1)
            stop = start + np.uint64(self.sequence_length)
            first, last = np.searchsorted(ends, start, side="right"), np.searchsorted(ends, stop, side="left")
            lengths = np.diff(np.minimum(ends[first : last + 1], stop), prepend=start)
            numbers[at] = before[number] + first + np.argmax(lengths)
        return numbers

    def documents(self, window: int) -> list[DocumentSpan]:
        """The documents that `window` reads from, in order, each cut to the part inside the window."""
        at = int(np.searchsorted(self._ends, window, side="right"))
        if not 0 <= window < self.windows:
            raise NotFound(
                f"there is no window {window} in `{self.folder}`", hint=f"it has the windows 0 to {self.windows - 1}"
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

    def find_documents(self, name: str) -> list[DocumentSpan]:
        """Every document whose id is `name`; ids need not be unique.

        Where there is an index of ids it is searched. What it does not know is looked for in the `.ids` files too
        unless these are large, and so is what was prepared before there were indexes, or whose index is cut off.
        """
        line = id_line(name)
        spans: list[DocumentSpan] = []
        first = 0
        for number, state in enumerate(self.manifest.states):
            stop = state.shards.get(self.split, 0)
            indexed = self._look_up(name, line, number, range(first, stop))
            for shard in range(first, stop) if indexed is None else ():
                spans += [self.document(shard, document) for document in self.mapped[shard].find(line)]
            spans += indexed or []
            first = stop
        return spans

    def _look_up(self, name: str, line: bytes, preparation: int, shards: range) -> list[DocumentSpan] | None:
        """The documents of one preparation by its index; None where the `.ids` files have to be searched."""
        documents = [self.mapped[shard].record.documents for shard in shards]
        path = self.folder / document_lookup.name_of(self.split, preparation)
        lookup = document_lookup.DocumentLookup(path, sum(documents))
        if not lookup.whole:
            return None
        ends = np.cumsum(documents)
        spans = []
        for number in lookup.find(line):
            at = int(np.searchsorted(ends, number, side="right"))
            if at == len(documents):
                return None
            shard, document = self.mapped[shards[at]], number - int(ends[at]) + documents[at]
            if not shard.is_at(document, line):
                continue
            if documents[at] <= DIGESTED_DOCUMENTS:
                spans.append(self.document(shards[at], document))
            else:
                begin, end = shard.extent_alone(document)
                spans.append(DocumentSpan(name, shards[at], document, begin, end - begin))
        return spans if spans or sum(documents) > DIGESTED_DOCUMENTS else None

    def ids_like(self, name: str, most: int = 5) -> list[str]:
        """At most `most` ids that contain the last component of `name`, or, among few documents, are similar to it."""
        component = id_line(name.strip("/").rpartition("/")[2].partition(":")[0])[1:-2]
        similar: list[str] = []
        for shard in self.mapped:
            similar += shard.names_like(component, most - len(similar)) if component else []
        if not similar and sum(len(shard.ends) for shard in self.mapped) <= FEW_DOCUMENTS:
            names = (shard.id_of(number) for shard in self.mapped for number in range(len(shard.ends)))
            similar = difflib.get_close_matches(name, names, n=most)
        return similar[:most]

    def document(self, shard: int, document: int) -> DocumentSpan:
        """Document number `document` of shard number `shard`; NotFound when there is none."""
        if not 0 <= shard < len(self.mapped) or not 0 <= document < len(self.mapped[shard].ends):
            raise NotFound(
                f"`{self.folder}` has no document {document} in shard {shard}",
                hint=f"its `{self.split}` split has {len(self.mapped)} shards, counted from 0",
            )
        first, end = self.mapped[shard].extent(document)
        return DocumentSpan(self.mapped[shard].id_of(document), shard, document, first, end - first)

    def windows_of(self, document: DocumentSpan) -> Integers:
        """The windows that read a token of `document`, as input or target, ascending; none in the tail."""
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
        """Compare every byte with its digest, yielding `(file, bytes)`; DataError on a mismatch."""
        for shard in self.mapped:
            yield from shard.verify()

    def _first_window(self, shard: int) -> int:
        return int(self._ends[shard - 1]) if shard else 0


def gather(shards: Sequence[MappedShard], shard: Integers, window: Integers, at_once: int) -> Iterator[Integers]:
    """Window `window[i]` of shard number `shard[i]`, `at_once` rows at a time: int64 `[rows, sequence_length + 1]`.

    Blocks read for the first time are compared with their digests; DataError on a mismatch.

    Rows of one shard are copied together, then widened while they are in cache. Where almost every row has a shard of
    its own, that would be a call or two for each; then one call joins and widens all rows.
    """
    key = np.arange(len(shard)) // at_once * len(shards) + shard
    order = np.argsort(key.astype(np.uint32), kind="stable")
    key, inside = key[order], window[order]
    bounds = [*np.flatnonzero(np.diff(key, prepend=-1)).tolist(), len(key)]
    row, number, group = order % at_once, key % len(shards), 0
    unchecked = np.array([not mapped.checked for mapped in shards])
    together = len(bounds) * ROWS_TOGETHER <= len(shard)
    for begin in range(0, len(shard), at_once):
        end = min(begin + at_once, len(shard))
        new = shard[begin:end][unchecked[shard[begin:end]]]
        for at in np.unique(new).tolist() if len(new) else ():
            unchecked[at] = not shards[at].check(window[begin:end][shard[begin:end] == at])
        out = np.empty((end - begin, shards[0].length + 1), np.int64)
        if together:
            while bounds[group] < end:
                rows = slice(bounds[group], bounds[group + 1])
                out[row[rows]] = shards[number[rows.start]].view[inside[rows]]
                group += 1
        else:
            pairs = zip(shard[begin:end].tolist(), window[begin:end].tolist(), strict=True)
            np.concatenate([shards[at].view[index] for at, index in pairs], out=out.reshape(-1))
        yield out


def _tokenizer_name(manifest: Manifest) -> str:
    return f"{manifest.tokenizer.name or 'unnamed'} {manifest.tokenizer.digest[:12]}"
