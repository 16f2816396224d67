"""What a file of documents is, by its content: its compression, its encoding, and text, JSON or Parquet.

`format` in sources.yaml decides where it is stated; the ending of a name only where the content does not.
"""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import hashlib
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import orjson
import pyarrow as pa  # type: ignore[import-untyped]

from curriculum.data.listing import COMPRESSED, JSON_ENDINGS, TEXT_BYTES, SourceFile, uncompressed
from curriculum.errors import DataError
from runner.prepare.remote import storage_of

READ_ERRORS = (OSError, EOFError, UnicodeError, zlib.error, lzma.LZMAError, pa.ArrowException)
"""What reading a damaged file raises."""

HEAD_BYTES = 1 << 18
"""What is looked at to recognise a file."""

BLOCK = 1 << 20
"""Bytes that are read at a time."""

_DECOMPRESSORS: tuple[tuple[re.Pattern[bytes], Callable[[Any], Any]], ...] = (
    (re.compile(rb"\x1f\x8b\x08"), lambda raw: gzip.GzipFile(fileobj=raw)),
    (re.compile(rb"BZh[1-9]1AY&SY"), bz2.BZ2File),
    (re.compile(rb"\xfd7zXZ\x00"), lzma.LZMAFile),
    (re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"), lambda raw: pa.CompressedInputStream(raw, "zstd")),
)
_PARQUET = b"PAR1"
_ARROW_FILE, _ARROW_STREAM = b"ARROW1\0\0", b"\xff\xff\xff\xff"
_ARROW_MAGIC = (_ARROW_FILE, _ARROW_STREAM)
_ARROW_END = _ARROW_STREAM + b"\0\0\0\0"
_ENCODINGS = {  # the mark of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_OBJECT = re.compile(rb'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:')
_BRACE = re.compile(rb"(?:\xef\xbb\xbf)?\s*\{")
_OPENS = re.compile(rb'(?:\xef\xbb\xbf)?\s*(?:\[|\{\s*")')
_DECODER = json.JSONDecoder(strict=False)
_BLANKS = re.compile(r"[\s\ufeff]*")


@contextlib.contextmanager
def open_file(file: SourceFile, count: Callable[[int], None] | None = None) -> Iterator[io.BufferedReader]:
    """The file's bytes, decompressed, and UTF-8 for UTF-16 and UTF-32; a recorded digest is compared first.

    `count` is called with the number of stored bytes, compressed as they are, whenever some are read.
    """
    with contextlib.ExitStack() as stack:
        raw: Any
        if file.sha256 is not None:
            data = Path(file.path).read_bytes()
            if hashlib.sha256(data).hexdigest() != file.sha256:
                raise DataError(
                    f"`{file.path}` differs from what its package's record says was installed",
                    hint="install it again: python -m pip install --force-reinstall --no-deps PACKAGE",
                )
            raw = io.BytesIO(data)
        else:
            # not by fsspec for a local file: it reads `::` in a path as a chain of file systems
            if "://" in file.path:
                system, path = storage_of(file.path)
                raw = stack.enter_context(system.open(path, "rb"))
            else:
                raw = stack.enter_context(Path(file.path).open("rb", buffering=0))
        if count is not None:
            raw = _Counted(raw, count)
        stream = io.BufferedReader(raw, HEAD_BYTES)
        head = stream.peek()
        decompress = next((opener for magic, opener in _DECOMPRESSORS if magic.match(head)), None)
        if decompress is not None:
            stream = io.BufferedReader(stack.enter_context(decompress(stream)), HEAD_BYTES)
            if stream.peek().startswith(_PARQUET):  # it is read from its end
                stream = io.BufferedReader(io.BytesIO(stream.read()))
        elif head and file.name.endswith(COMPRESSED) and not head.startswith(_PARQUET) and not begins_with_rows(head):
            raise DataError(
                f"`{file.name}` cannot be read to its end: its name says that it is compressed, and its content is not",
                hint="fetch it again, or rename it",
            )
        head = stream.peek()
        encoding = next((name for mark, name in _ENCODINGS.items() if head.startswith(mark)), None)
        if encoding is not None and len(head) > len(codecs.BOM_UTF16):
            stream = io.BufferedReader(_InUtf8(stream, encoding), HEAD_BYTES)
        yield stream


class _Counted(io.RawIOBase):
    """A raw file that tells how many bytes are read of it."""

    def __init__(self, raw: Any, count: Callable[[int], None]) -> None:
        self._raw = raw
        self._count = count

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._raw.seekable())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._raw.seek(offset, whence))

    def tell(self) -> int:
        return int(self._raw.tell())

    def readinto(self, buffer: Any) -> int:
        read = int(self._raw.readinto(buffer) or 0)
        self._count(read)
        return read


class _InUtf8(io.RawIOBase):
    """The UTF-8 of a file in another encoding."""

    def __init__(self, stream: IO[bytes], encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            data = self._stream.read(BLOCK)
            self._ready = memoryview(self._decoder.decode(data, final=not data).encode())
            if not data:
                break
        part = self._ready[: len(buffer)]
        buffer[: len(part)] = part
        self._ready = self._ready[len(part) :]
        return len(part)


def detect_format(head: bytes, name: str) -> str:
    """`parquet`, `arrow`, `json` (rows), `text` or `binary` (none of them), of a file that begins with `head`."""
    if head.startswith(_PARQUET):
        return "parquet"
    if head.startswith(_ARROW_MAGIC):
        return "arrow"
    if begins_with_rows(head):
        return "json"
    ending = uncompressed(name).rpartition(".")[2].lower()
    if ending in ("csv", "tsv"):
        raise DataError(
            f"`{name}` is a table of separated values, which is not read",
            hint="convert it to Parquet or JSON lines; `format: text` reads each file whole, as one document",
        )
    if ending in JSON_ENDINGS or _OPENS.match(head):
        return "json" if ending in JSON_ENDINGS else "text"
    if ending == "parquet":
        return ending
    return "binary" if b"\0" in head[:TEXT_BYTES] else "text"


def begins_with_rows(head: bytes, lines_read: int = 2) -> bool:
    """Whether the first lines of a file, or its only one, are JSON objects."""
    if not _BRACE.match(head):
        return False
    lines = [line for line in head.split(b"\n", 64) if line.strip()][:lines_read]
    cut = len(head) >= HEAD_BYTES
    return bool(lines) and all(_is_object(line) or (cut and _OBJECT.match(line) is not None) for line in lines)


def _is_object(line: bytes) -> bool:
    with contextlib.suppress(ValueError):
        return isinstance(parse_json(line), dict)
    return False


def json_rows(data: bytes) -> list[Any] | None:
    """The objects of a file with JSON values over several lines: in an array, or one after another; None without."""
    if not _OPENS.match(data):
        return None
    rows: list[Any] = []
    at = 0
    try:
        text = data.decode()
        while (at := _BLANKS.match(text, at).end()) < len(text):  # type: ignore[union-attr]
            value, at = _DECODER.raw_decode(text, at)
            rows += value if isinstance(value, list) else [value]
    except (ValueError, RecursionError):
        return None
    return rows if any(isinstance(row, dict) for row in rows) else None


def may_hold_rows(head: bytes) -> bool:
    """Whether a file that begins with `head` begins like a JSON array or object."""
    return head.lstrip(codecs.BOM_UTF8 + b" \t\r\n").startswith((b"[", b"{"))


def read_at_most(stream: IO[bytes], longest: int) -> bytes | None:
    """All of a file; None where it has more than `longest` bytes, of which no more are kept."""
    parts, size = list[bytes](), 0
    while part := stream.read(BLOCK):
        parts.append(part)
        size += len(part)
        if size > longest:
            return None
    return b"".join(parts)


def line_blocks(stream: IO[bytes], longest: int) -> Iterator[list[bytes | None]]:
    """The lines of a file without their ends, some at a time; None for one of more bytes than `longest`.

    Of such a line not more than `longest` bytes, and BLOCK, are ever kept.
    """
    partial, size = list[bytes](), 0
    while block := stream.read(BLOCK):
        first, *others = block.split(b"\n")
        size += len(first)
        if size <= longest:
            partial.append(first)
        else:
            partial.clear()
        if others:
            *complete, last = others
            yield [None if size > longest else b"".join(partial), *complete]
            partial, size = [last], len(last)
    if size:
        yield [None if size > longest else b"".join(partial)]


def arrow_batches(stream: IO[bytes], head: bytes) -> Iterator[pa.RecordBatch]:
    """The record batches of an Arrow file or stream; ArrowInvalid for a stream that is cut off, also between two."""
    if head.startswith(_ARROW_FILE):
        opened = pa.ipc.open_file(stream)
        for number in range(opened.num_record_batches):
            yield opened.get_batch(number)
        return
    if stream.seekable():
        stream.seek(-len(_ARROW_END), io.SEEK_END)
        if stream.read() != _ARROW_END:
            raise pa.ArrowInvalid("the end of the Arrow stream is missing")
        stream.seek(0)
    yield from pa.ipc.open_stream(stream)


def parse_json(data: bytes | str) -> Any:
    """A JSON value, also with what `json.dumps` writes beyond the standard: NaN, Infinity, half surrogate pairs.

    UnicodeDecodeError for bytes that are not UTF-8, another ValueError for what is not JSON.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
        try:
            return json.loads(text, strict=False)
        except RecursionError:
            raise ValueError("nested too deeply") from None


def describe_value(value: Any) -> str:
    """What a column holds instead of text."""
    if isinstance(value, list):
        return "a list of numbers" if value and all(isinstance(one, int | float) for one in value) else "a list"
    if value is None or isinstance(value, bool):
        return "null" if value is None else "true or false"
    kinds = {int | float: "a number", str: "a string", Mapping: "an object"}
    return next((words for kind, words in kinds.items() if isinstance(value, kind)), f"a {type(value).__name__}")


def decode(data: bytes) -> str | None:
    """The text in UTF-8, None for other bytes."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None
