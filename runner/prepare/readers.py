"""Documents out of files: text, JSON and Parquet in packages, folders and hub datasets.

datatrove's own disk readers silently stop at a damaged line and number only the rows that they keep. These, on its
base class, count what they drop, name rows by their position in the file, and refuse a truncated file.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeAlias

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from datatrove.data import Document
from datatrove.io import get_fs_with_filepath
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.readers.base import BaseReader
from datatrove.utils.logging import logger

from curriculum import fs
from curriculum.data.listing import TEXT_FILES, SourceFile, kind_of, list_files, name_filter, sort_files
from curriculum.data.manifest import HELD_OUT, TRAIN
from curriculum.data.progress import describe_unread
from curriculum.data.requests import PrepareRequest
from curriculum.errors import DataError
from runner.prepare import remote
from runner.prepare.formats import (
    READ_ERRORS,
    begins_with_rows,
    decode,
    describe_value,
    detect_format,
    json_rows,
    open_file,
    parse_json,
)

# Documents that are no text, by reason: their number and the first of them.
LeftOut: TypeAlias = Mapping[str, tuple[int, str]]

# Columns that other corpora keep their text in.
USUAL_COLUMNS = ("text", "content", "raw_content", "body", "document", "article", "markdown", "code")

# Why a document is dropped; filters add their own reasons.
EMPTY, NO_TEXT, NOT_UTF8, NOT_JSON, NO_TOKENS = ("empty", "no text column", "not UTF-8", "not JSON", "no tokens")
BINARY, SURROGATE, NOT_TEXT = ("binary", "with half a surrogate pair", "instead of text")

_WAYS_OUT = {
    NOT_UTF8: "convert them, as in `iconv -f latin1 -t utf-8`, or leave them out with `exclude`",
    NOT_JSON: "write one JSON object a line, or one array of them; `format: text` reads a file as one document",
    BINARY: "they are no text: leave them out with `files` and `exclude`, or unpack and convert them",
}


@dataclass
class Tally:
    """What one task has read: bytes of input, documents dropped by (split, reason), columns.

    `firsts` are the first documents that could not be read as text, by reason, without those dropped by a filter.
    `sums` are the SHA-256 of the local files that were read to their end, by name.
    """

    bytes: int = 0
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    columns: set[str] = field(default_factory=set)
    firsts: dict[str, str] = field(default_factory=dict)
    sums: dict[str, str] = field(default_factory=dict)

    def drop(self, name: str, reason: str, split: str = TRAIN) -> None:
        self.dropped[split, reason] += 1
        self.firsts.setdefault(reason, name)
        logger.warning(f"left out {name}: {reason}")

    def filter_out(self, document: Document, reason: str) -> tuple[bool, str]:
        """Count a document that a filter drops; the filter's result."""
        self.dropped[document.metadata.get("split", TRAIN), reason] += 1
        return False, reason

    @property
    def unread(self) -> LeftOut:
        counts: Counter[str] = Counter()
        for (_, reason), count in self.dropped.items():
            counts[reason] += count
        return {reason: (counts[reason], name) for reason, name in sorted(self.firsts.items())}


def is_remote(read: Mapping[str, Any]) -> bool:
    """Whether the files of `read` are remote: a hub dataset, or a folder with a scheme (`s3://…`)."""
    return kind_of(read) == "hub" or "://" in str(read.get("folder", ""))


def list_sources(read: Mapping[str, Any], root: str = ".") -> tuple[list[SourceFile], dict[str, Any]]:
    """The files of a `read:` entry in order of name, and further details (the commit of a hub dataset)."""
    if not is_remote(read):
        return list_files(read, root), {}
    details: dict[str, Any] = {}
    where = str(read.get("folder") or f"hf://datasets/{read['hub']}")
    try:
        if kind_of(read) == "hub":
            from huggingface_hub import HfApi

            details["revision"] = HfApi().dataset_info(str(read["hub"]), revision=read.get("revision")).sha
            where = f"{where}@{details['revision']}"
        system, base = get_fs_with_filepath(where.rstrip("/"))
        entries = system.find(base, detail=True)
        if not entries:
            raise FileNotFoundError(where)
    except Exception as reason:  # every storage has its own errors
        raise remote.explain(where, reason) or DataError(
            f"`{where}` cannot be listed: {type(reason).__name__}: {reason}",
            hint="check its name, the network and your login; prepared text needs neither",
        ) from None
    is_chosen = name_filter(read, default=TEXT_FILES)
    files = []
    for path, entry in entries.items():
        name = path[len(base) :].lstrip("/")
        if is_chosen(name):
            files.append(SourceFile(name, system.unstrip_protocol(path), entry.get("size")))
    return sort_files(files, read), details


def of_split(files: Sequence[SourceFile], split: str) -> tuple[list[SourceFile], list[SourceFile]]:
    """`(train, held out)`: the files with `split` as a word of their path (`validation/0.jsonl`) are held out."""
    word = re.compile(rf"(?:^|[^A-Za-z0-9]){re.escape(split)}(?:[^A-Za-z0-9]|$)")
    held_out = [file for file in files if word.search(file.name)]
    train = [file for file in files if not word.search(file.name)]
    if not train or not held_out:
        raise DataError(
            f"of {len(files)} files, {len(held_out)} have `{split}` as a word of their path: "
            f"nothing is left for {'training' if held_out else 'the held-out split'}",
            hint=f"the first is `{files[0].name}`; widen `files`, or hold out a share (`held_out: 5%`)",
        )
    return train, held_out


def without_text(dataset: str, column: str, columns: Set[str], unread: LeftOut) -> DataError:
    """The error for a dataset without text: its columns, or why its documents are not text."""
    what = f"`{dataset}` has no text to read: {describe_unread(unread) or 'its files are empty'}"
    if NO_TEXT in unread:
        what = f"`{dataset}` has no text in the column `{column}`, from `{unread[NO_TEXT][1]}` on; " + columns_shown(
            columns
        )
    return DataError(what, hint=way_out(unread, column, columns), entry=("sources", dataset, "read"))


def check_columns(request: PrepareRequest, files: Iterable[SourceFile]) -> None:
    """DataError where a key names a column, and all files are plain text; files are opened up to one that is not."""
    keys = {"text": request.text, "id": request.id, "drop": request.drop, "keep": request.keep}
    stated = [f"`{key}`" for key, value in keys.items() if value]
    if not stated or request.read.get("format"):
        return
    for file in files:
        try:
            with open_file(file) as stream:
                head = stream.peek()
        except Exception:  # a task explains it
            return
        if detect_format(head, file.name) != "text" or head.lstrip().startswith((b"{", b"[")):
            return
    raise DataError(
        f"all files of `{request.dataset}` are plain text, which has no columns; {' and '.join(stated)} "
        f"{'name' if len(stated) > 1 else 'names'} one",
        hint="leave that out: each file is read whole, as one document; or state another `format`",
        entry=("sources", request.dataset, *(("read", "text") if request.text else ())),
    )


def columns_shown(columns: Set[str]) -> str:
    names = sorted(columns)
    shown = ", ".join(f"`{name}`" for name in names[:12]) + (" and more" if len(names) > 12 else "")
    return f"its columns are {shown or 'none at all'}"


def way_out(unread: LeftOut, column: str, columns: Set[str]) -> str:
    """What helps against the most frequent reason for which documents are no text."""
    reason = max(unread, key=lambda reason: unread[reason][0], default=EMPTY)
    if reason == f"with a list of numbers {NOT_TEXT}":
        return "tokens that are made already are read from files of their own: `read: {tokenised: FOLDER}`"
    if reason != NO_TEXT and not reason.endswith(NOT_TEXT):
        return _WAYS_OUT.get(reason, "see `files` and `exclude`")
    names = [name for name in sorted(columns) if name != column]
    usual = next((name for name in USUAL_COLUMNS if name in names), None)
    other = usual or (names[0] if len(names) == 1 else "COLUMN")
    if reason == NO_TEXT and column in columns:
        return f"files whose rows have another column are a source of their own, with `files` and `text: {other}`"
    whole = "" if usual else "; `format: text` reads each file whole, as one document"
    return f"name the one that holds the text under `read:`, as in `text: {other}`{whole}"


class Corpus(BaseReader):  # type: ignore[misc]
    """A datatrove reader over listed files. Task `rank` of `world_size` reads every `world_size`-th of them.

    With `by_rows` every task opens every file and takes every `world_size`-th row. A document's
    metadata holds the columns in `columns`, and `split` when its file belongs to a split of the corpus's own.
    """

    name = "📚 Corpus"

    def __init__(
        self,
        train: Sequence[SourceFile],
        held_out: Sequence[SourceFile] = (),
        *,
        format: str | None = None,
        text: str = "text",
        id: str | None = None,
        columns: Iterable[str] = (),
        by_rows: bool = False,
        tally: Tally | None = None,
    ) -> None:
        super().__init__(text_key=text, id_key=id or "id")
        self.format = format
        self.files = [(file, TRAIN) for file in train], [(file, HELD_OUT) for file in held_out]
        self.id_column = id
        self.columns = {name.split(".")[0] for name in [text, *([id] if id else []), *columns]}
        self.own_split = bool(held_out)
        self.by_rows = by_rows
        self.tally = tally or Tally()

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        if data:
            yield from data
        step, first = (1, 0) if self.by_rows else (world_size, rank)
        self._turn, self._turns = (rank, world_size) if self.by_rows else (0, 1)
        for part in self.files:
            for file, split in part[first::step]:
                logger.info(f"reading {file.name}")
                for document in self._read(file, split):
                    self.update_doc_stats(document)
                    yield document
                if not self.by_rows and "://" not in file.path:
                    self.tally.sums[file.name] = fs.sha256_file(Path(file.path))

    def _read(self, file: SourceFile, split: str) -> Iterator[Document]:
        try:
            with open_file(file) as stream:
                head = stream.peek()
                format = self.format or detect_format(head, file.name)
                if format == "parquet":
                    yield from self._parquet(file, split, stream)
                elif format == "json" and begins_with_rows(head, 1):
                    yield from self._json_lines(file, split, stream)
                elif format == "binary":
                    self.tally.drop(file.name, BINARY, split)
                else:
                    yield from self._whole(file, split, stream.read(), format)
        except Exception as reason:  # every storage has its own errors
            explanation = remote.explain(file.path, reason) if "://" in file.path else None
            if explanation is None and not isinstance(reason, READ_ERRORS):
                raise
            raise explanation or DataError(
                f"`{file.path}` cannot be read to its end: {reason}",
                hint="fetch or write it again, or leave it out with `exclude`; finished tasks are kept",
            ) from None

    def _is_mine(self, row: int) -> bool:
        return row % self._turns == (self._turn + 1) % self._turns

    def _whole(self, file: SourceFile, split: str, data: bytes, format: str) -> Iterator[Document]:
        """A file of text, or of JSON values that are not one a line."""
        rows = None if self.format == "text" else json_rows(data)
        if rows is None and format == "json":
            yield from self._json_lines(file, split, io.BytesIO(data))
            return
        self.tally.bytes += len(data)
        text = decode(data)
        if rows is not None:
            for number, value in enumerate(rows, start=1):
                if self._is_mine(number):
                    yield from self._row(f"{file.name}:{number}", value, split)
        elif text is None:
            self.tally.drop(file.name, NOT_UTF8, split)
        else:
            yield from self._document(file.name, text, split, {})

    def _json_lines(self, file: SourceFile, split: str, stream: IO[bytes]) -> Iterator[Document]:
        for row, line in enumerate(stream, start=1):
            if not self._is_mine(row):
                continue
            self.tally.bytes += len(line)
            if not line.strip():
                continue
            name = f"{file.name}:{row}"
            try:
                value = parse_json(line)
            except ValueError as error:
                self.tally.drop(name, NOT_UTF8 if isinstance(error, UnicodeError) else NOT_JSON, split)
                continue
            yield from self._row(name, value, split)

    def _row(self, name: str, value: Any, split: str) -> Iterator[Document]:
        if not isinstance(value, dict):
            self.tally.drop(name, f"with {describe_value(value)} instead of an object", split)
            return
        self.tally.columns.update(map(_word, value))
        yield from self._document(name, look_up(value, self.text_key), split, value)

    def _parquet(self, file: SourceFile, split: str, stream: IO[bytes]) -> Iterator[Document]:
        with pq.ParquetFile(stream) as table:
            names = table.schema_arrow.names
            self.tally.columns.update(names)
            row = 0
            for batch in table.iter_batches(batch_size=1000, columns=[n for n in names if n in self.columns]):
                columns = {name: _values(batch.column(name)) for name in batch.schema.names}
                for at in range(batch.num_rows):
                    row += 1
                    if not self._is_mine(row):
                        continue
                    name = f"{file.name}:{row}"
                    value = {column: values[at] for column, values in columns.items()}
                    text = look_up(value, self.text_key)
                    if isinstance(text, bytes):
                        self.tally.bytes += len(text)
                        text = decode(text)
                        if text is None:
                            self.tally.drop(name, NOT_UTF8, split)
                            continue
                    yield from self._document(name, text, split, value)

    def _document(self, name: str, text: Any, split: str, row: Mapping[str, Any]) -> Iterator[Document]:
        if not isinstance(text, str):
            self.tally.drop(name, NO_TEXT if text is None else f"with {describe_value(text)} {NOT_TEXT}", split)
            return
        text = text.removeprefix("\ufeff")  # a byte-order mark
        if not text.strip() or not _is_unicode(text):
            self.tally.drop(name, SURROGATE if text.strip() else EMPTY, split)
            return
        own = look_up(row, self.id_column) if self.id_column else None
        metadata = {key: row[key] for key in self.columns if key in row and key != self.text_key}
        if self.own_split:
            metadata["split"] = split
        yield Document(text=text, id=name if own is None else _word(own), metadata=metadata)


class ColumnFilter(BaseFilter):  # type: ignore[misc]
    """A datatrove filter on columns: drops what matches `drop`, and what does not match `keep`.

    Both map a dotted column (`meta.redpajama_set_name`) to a value or a list of values; compared as text.
    """

    name = "🔍 Columns"

    def __init__(self, drop: Mapping[str, Any], keep: Mapping[str, Any], tally: Tally) -> None:
        super().__init__()
        self.drop = {column: _words(value) for column, value in drop.items()}
        self.keep = {column: _words(value) for column, value in keep.items()}
        self.tally = tally

    def filter(self, document: Document) -> bool | tuple[bool, str]:
        for column, values in self.drop.items():
            value = _word(look_up(document.metadata, column))
            if value in values:
                return self.tally.filter_out(document, f"{column} is {value}")
        for column, values in self.keep.items():
            if _word(look_up(document.metadata, column)) not in values:
                return self.tally.filter_out(document, f"{column} is not {' or '.join(sorted(values))}")
        return True


def look_up(row: Mapping[str, Any], column: str) -> Any:
    """The value at a dotted column, through nested objects and objects written as JSON text, or None."""
    if column in row:
        return row[column]
    value: Any = row
    for key in column.split("."):
        if isinstance(value, str | bytes):
            try:
                value = parse_json(value)
            except ValueError:
                return None
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


@contextlib.contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Write datatrove's log, with the dropped documents, to `path` instead of the terminal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    logger.remove()
    with path.open("a", encoding="utf-8", errors="backslashreplace") as log:  # loguru would format its path
        sink = logger.add(log, level="INFO", colorize=False)
        try:
            yield
        finally:
            logger.remove(sink)


def _values(column: Any) -> list[Any]:
    """A Parquet column as Python values; text stays bytes, so that what is not UTF-8 can be counted."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    values: list[Any] = column.to_pylist()
    return values


def _is_unicode(text: str) -> bool:
    try:
        return bool(text.encode())
    except UnicodeEncodeError:
        return False


def _word(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value).encode(errors="replace").decode()


def _words(value: Any) -> set[str]:
    return {_word(entry) for entry in value} if isinstance(value, list | tuple) else {_word(value)}
