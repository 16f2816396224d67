"""A shard of five files, memory-mapped on demand, each block verified against its digest before first use."""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import resource
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curriculum import fs
from curriculum.data.manifest import Shard, TokenLocation, windows_in
from curriculum.errors import DataError

Integers = NDArray[np.int64]


def id_line(name: str) -> bytes:
    """A document's id as its line in an `.ids` file: one JSON string, UTF-8, ended by a newline."""
    try:
        return json.dumps(name, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair, as file names may hold
        return json.dumps(name).encode() + b"\n"


class MappedShard:
    """A shard opened by its record; until its first use only the sizes of its files are checked.

    `checked` tells whether every block of its tokens was compared with its digest. DataError for damaged files.
    """

    def __init__(
        self,
        folder: Path,
        record: Shard,
        dtype: np.dtype[np.uint16],
        block: int,
        length: int,
        elsewhere: TokenLocation | None = None,
    ) -> None:
        self.folder = folder
        self.record = record
        self.path = folder / record.file
        self.tokens = Path(elsewhere.path) if elsewhere else self.path
        self.offset = elsewhere.offset if elsewhere else 0
        self.dtype = dtype
        self.block = block
        self.length = length
        self.windows = windows_in(record.tokens, length)
        self._checked = np.zeros(-(-record.tokens * dtype.itemsize // block), bool)
        self.checked = False
        self._check_size(self.tokens, elsewhere.bytes if elsewhere else record.tokens * dtype.itemsize)
        self._check_size(self._companion(".index"), record.documents * 8)

    @cached_property
    def view(self) -> NDArray[np.uint16]:
        """The tokens of every window, `[windows, length + 1]`, as a view of the mapped file; call `check` first."""
        tokens = np.frombuffer(map_file(self.tokens), self.dtype, self.record.tokens, self.offset)
        step = self.dtype.itemsize
        return np.lib.stride_tricks.as_strided(
            tokens, (self.windows, self.length + 1), (self.length * step, step), writeable=False
        )

    def tokens_between(self, begin: int, end: int, *, verify: bool = True) -> NDArray[np.uint16]:
        """The tokens `begin` to `end`, exclusive, mapped; DataError where a block of theirs differs from its digest.

        Without `verify` the blocks are not compared.
        """
        if begin >= end:
            return np.empty(0, self.dtype)
        if verify and not self.checked:
            step = self.dtype.itemsize
            for block in range(begin * step // self.block, (end * step - 1) // self.block + 1):
                if not self._checked[block]:
                    self._check_block(block)
        return np.frombuffer(map_file(self.tokens), self.dtype, end - begin, self.offset + begin * self.dtype.itemsize)

    def check(self, windows: Integers) -> bool:
        """Verify the blocks of `windows` that are not verified yet; returns whether all of the shard's blocks are."""
        if not self.checked:
            step = self.dtype.itemsize
            first = windows * self.length * step // self.block
            last = (windows + 1) * self.length * step // self.block
            width = int((last - first).max(initial=0)) + 1
            touched = np.minimum(first[:, None] + np.arange(width), last[:, None])
            for block in np.unique(touched[~self._checked[touched]]).tolist():
                self._check_block(block)
        return self.checked

    def extent(self, document: int) -> tuple[int, int]:
        """The range of a document's tokens, the end exclusive."""
        return (int(self.ends[document - 1]) if document else 0), int(self.ends[document])

    def id_of(self, document: int) -> str:
        ids, ends = self._ids
        first = int(ends[document - 1]) if document else 0
        name: str = json.loads(ids[first : int(ends[document])])
        return name

    def is_at(self, document: int, line: bytes) -> bool:
        """Whether the document has this line in `.ids`, which is read without the rest of the file."""
        base = self.path.with_suffix(".ids")
        begin, end = self._bounds(base.with_suffix(".ids.index"), document)
        with base.open("rb") as file:
            file.seek(begin)
            return end - begin == len(line) and file.read(len(line)) == line

    def extent_alone(self, document: int) -> tuple[int, int]:
        """`extent`, read without the rest of the index and so without its digest; DataError where it cannot be."""
        begin, end = self._bounds(self._companion(".index"), document)
        if not begin <= end <= self.record.tokens:
            raise self._damaged(self._companion(".index"), f"says that document {document} ends at token {end:,}")
        return begin, end

    def _bounds(self, path: Path, document: int) -> tuple[int, int]:
        """Of a file with an end a document, that of the one before and its own."""
        with path.open("rb") as file:
            file.seek(8 * max(0, document - 1))
            ends = np.frombuffer(file.read(16 if document else 8), "<u8")
        return (int(ends[0]) if document else 0), int(ends[-1])

    @property
    def id_lines(self) -> bytes:
        """Every line of `.ids`, compared with its digest."""
        return self._ids[0][:]

    def find(self, line: bytes) -> list[int]:
        """The documents that have exactly this line in `.ids`, by one search through the mapped file."""
        ids, ends = self._ids
        documents = []
        at = ids.find(line)
        while at >= 0:
            if at == 0 or ids[at - 1 : at] == b"\n":
                documents.append(int(np.searchsorted(ends, at, side="right")))
            at = ids.find(line, at + 1)
        return documents

    def names_like(self, text: bytes, most: int) -> list[str]:
        """At most `most` ids whose line contains `text`."""
        ids, ends = self._ids
        names: list[str] = []
        at = ids.find(text)
        while at >= 0 and len(names) < most:
            document = int(np.searchsorted(ends, at, side="right"))
            names.append(self.id_of(document))
            at = ids.find(text, int(ends[document]))
        return names

    @cached_property
    def ends(self) -> NDArray[np.uint64]:
        """Per document, the token at which it ends (exclusive)."""
        return self._read_array(self._companion(".index"), self.record.index_sha256, "<u8")

    def verify(self) -> Iterator[tuple[str, int]]:
        """Compare every byte with its digest, yielding `(file, bytes)`."""
        name = self.record.file
        for block in range(len(self._blocks)):
            self._check_block(block)
            yield name, min(self.block, self.record.tokens * self.dtype.itemsize - block * self.block)
        yield f"{name}.index", self.ends.nbytes
        ids, ends = self._ids
        yield name.removesuffix(".ds") + ".ids", len(ids) + ends.nbytes

    @cached_property
    def _blocks(self) -> NDArray[np.uint8]:
        path = self._companion(".blocks")
        blocks = self._read_array(path, self.record.blocks_sha256, "u1").reshape(-1, 32)
        if len(blocks) != len(self._checked):
            raise self._damaged(path, f"has {len(blocks)} digests instead of {len(self._checked)}")
        return blocks

    def _check_block(self, block: int) -> None:
        begin = block * self.block
        with self.tokens.open("rb") as file:  # symbolic links allowed: it may be the user's own file
            file.seek(self.offset + begin)
            size = min(self.block, self.record.tokens * self.dtype.itemsize - begin)
            digest = hashlib.sha256(file.read(size)).digest()
        if digest != self._blocks[block].tobytes():
            raise self._damaged(self.tokens, f"differs from its digest in block {block} (of {self.block:,} bytes)")
        self._checked[block] = True
        self.checked = bool(self._checked.all())

    @cached_property
    def _ids(self) -> tuple[mmap.mmap, NDArray[np.uint64]]:
        base = self.path.with_suffix(".ids")
        ends = self._read_array(base.with_suffix(".ids.index"), self.record.ids_index_sha256, "<u8")
        self._check_digest(base, self.record.ids_sha256)
        return map_file(base), ends

    def _companion(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    def _read_array(self, path: Path, digest: str, dtype: str) -> NDArray[Any]:
        """A companion file as one array, after its digest was verified."""
        self._check_digest(path, digest)
        return np.frombuffer(map_file(path), dtype)

    def _check_digest(self, path: Path, digest: str) -> None:
        try:
            actual = fs.sha256_file(path)
        except OSError as reason:
            raise self._damaged(path, f"cannot be read: {reason.strerror}") from None
        if actual != digest:
            raise self._damaged(path, "differs from its digest")

    def _check_size(self, path: Path, size: int) -> None:
        try:
            actual = path.stat().st_size
        except OSError as reason:
            raise self._damaged(path, f"cannot be read: {reason.strerror}") from None
        if actual != size:
            raise self._damaged(path, f"has {actual:,} bytes instead of {size:,}")

    def _damaged(self, path: Path, how: str) -> DataError:
        if path == self.tokens != self.path:
            return DataError(
                f"`{path}` is no longer as it was when it was digested: it {how}",
                hint="put it back as it was; or, to train on what it is now, remove our digests "
                f"`{self.folder}` and run `curriculum prepare` again",
            )
        return DataError(
            f"`{path}` is damaged: it {how}",
            hint=f"remove the folder `{self.folder}` and run `curriculum prepare` again",
        )


def map_file(path: Path) -> mmap.mmap:
    """A read-only memory map. It keeps a descriptor open, so the soft limit of open files is raised when reached."""
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as reason:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if reason.errno != errno.EMFILE or soft == hard:
            raise
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return map_file(path)
