"""Documents out of files, in batches: text, JSON and Parquet.

What is left out is counted by its reason, rows are named by their position in the file, and a truncated file is
refused.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from operator import itemgetter
from pathlib import Path
from typing import IO, Any

import numpy as np
import orjson
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from loguru import logger
from numpy.typing import NDArray

from curriculum import fs
from curriculum.data.listing import SourceFile
from curriculum.data.manifest import HELD_OUT, TRAIN, SplitName
from curriculum.data.shard import id_line
from curriculum.errors import DataError
from runner.prepare import remote
from runner.prepare.columns import (
    ColumnFilter,
    Mask,
    binary_column,
    is_utf8,
    look_up,
    python_values,
    rows_of,
    texts_of,
    values_of,
    word,
)
from runner.prepare.dataset_shards import STREAMED, DatasetShards
from runner.prepare.formats import (
    READ_ERRORS,
    arrow_batches,
    begins_with_rows,
    decode,
    describe_value,
    detect_format,
    json_rows,
    line_blocks,
    may_hold_rows,
    open_file,
    parse_json,
    read_at_most,
)
from runner.prepare.tally import BINARY, EMPTY, NO_TEXT, NOT_JSON, NOT_TEXT, NOT_UTF8, NULL, SURROGATE, TOO_LONG, Tally
from runner.prepare.texts import Documents, Texts

BATCH_BYTES = 1 << 22
"""Text of a batch, unless one document is longer."""
BATCH_ROWS = 1 << 16
"""Rows of a batch at most."""
LONGEST_TEXT = 1 << 30
"""Bytes of a document at most: one is encoded at once, in several times its size of memory."""
LONGEST_JSON = 1 << 30
"""Bytes of a line of JSON at most, and of a file with JSON values that are not one a line."""

_MARK = "\ufeff"
_MARK_BYTES = _MARK.encode()


class Corpus:
    """The documents of listed files, of which task `rank` of `tasks` reads every `tasks`-th.

    `text` and `id` are columns, dotted where they are nested. With `by_rows` every task opens every file and takes
    every `tasks`-th row. `columns` are the further columns that each document's metadata keeps, for datatrove's
    blocks. Files of `held_out` belong to that split of the corpus's own.
    """

    def __init__(
        self,
        train: Sequence[SourceFile],
        held_out: Sequence[SourceFile] = (),
        *,
        format: str | None = None,
        text: str = "text",
        id: str | None = None,
        drop: Mapping[str, Any] | None = None,
        keep: Mapping[str, Any] | None = None,
        columns: Iterable[str] = (),
        by_rows: bool = False,
        shards: DatasetShards | None = None,
        batch_bytes: int = BATCH_BYTES,
        tally: Tally | None = None,
    ) -> None:
        self.format = format
        self.files: tuple[list[tuple[SourceFile, SplitName]], ...] = (
            [(file, TRAIN) for file in train],
            [(file, HELD_OUT) for file in held_out],
        )
        self.text_column = text
        self.id_column = id
        self.filter = ColumnFilter(drop or {}, keep or {})
        self._filters = bool(self.filter)
        self.columns = {name.split(".")[0] for name in columns}
        self.used = self.columns | {
            name.split(".")[0] for name in (text, *([id] if id else []), *self.filter.drop, *self.filter.keep)
        }
        self.by_rows = by_rows
        self.shards = shards
        self.batch_bytes = batch_bytes
        self.tally = tally or Tally()
        self._texts: list[bytes] = []
        self._lines: list[bytes] = []
        self._metadata: list[Mapping[str, Any]] = []
        self._size = 0
        self._stored = 0

    def batches(self, rank: int = 0, tasks: int = 1) -> Iterator[Documents]:
        """The documents of one task in order; DataError for a file that cannot be read to its end."""
        step, first = (1, 0) if self.by_rows else (tasks, rank)
        self._turn, self._turns = (rank, tasks) if self.by_rows else (0, 1)
        for part in self.files:
            for file, split in part[first::step]:
                logger.info(f"reading {file.name}")
                self._stored = self.tally.stored
                yield from self._read(file, split)
                self.tally.stored = self._stored + (file.bytes or 0) // self._turns
                if not self.by_rows and "://" not in file.path and not file.path.startswith(STREAMED):
                    self.tally.sums[file.name] = file.sha256 or fs.sha256_file(Path(file.path))
            yield from self._flush(part[0][1] if part else TRAIN)

    def _read(self, file: SourceFile, split: SplitName) -> Iterator[Documents]:
        if file.path.startswith(STREAMED):
            assert self.shards is not None
            yield from self._flush(split)
            yield from self._record_batches(file, split, self.shards.batches(file))
            return
        try:
            with open_file(file, functools.partial(self._count, file)) as stream:
                head = stream.peek()
                format = self.format or detect_format(head, file.name)
                if format == "arrow":
                    yield from self._flush(split)
                    yield from self._record_batches(file, split, arrow_batches(stream, head))
                elif format == "parquet":
                    yield from self._flush(split)
                    yield from self._parquet(file, split, stream)
                elif format == "json" and begins_with_rows(head, 1):
                    yield from self._json_lines(file, split, stream)
                elif format == "binary":
                    self.tally.drop(file.name, BINARY, split)
                else:
                    yield from self._whole(file, split, stream, format)
        except Exception as reason:  # every storage has its own errors
            explanation = remote.explain(file.path, reason) if "://" in file.path else None
            if explanation is None and not isinstance(reason, READ_ERRORS):
                raise
            raise explanation or DataError(
                f"`{file.path}` cannot be read to its end: {reason}",
                hint="fetch or write it again, or leave it out with `exclude`; finished tasks are kept",
            ) from None

    def _count(self, file: SourceFile, read: int) -> None:
        """Count stored bytes of a file, at most as many as it has; tasks that share its rows count a part each."""
        stored = self.tally.stored + read // self._turns
        self.tally.stored = min(stored, self._stored + (file.bytes or 0) // self._turns)

    def _is_mine(self, row: int) -> bool:
        return row % self._turns == (self._turn + 1) % self._turns

    # --- documents one by one: text and JSON ---

    def _whole(self, file: SourceFile, split: SplitName, stream: io.BufferedReader, format: str) -> Iterator[Documents]:
        """A file of text, or of JSON values that are not one a line."""
        may_be_rows = self.format != "text" and may_hold_rows(stream.peek())
        if format == "json" and not may_be_rows:
            yield from self._json_lines(file, split, stream)
            return
        data = read_at_most(stream, LONGEST_JSON if may_be_rows else LONGEST_TEXT)
        if data is None and format == "json":
            raise DataError(
                f"`{file.path}` begins like JSON over several lines, which is read at once, and has more than 1 GiB",
                hint="write one object a line, as `jq -c '.[]' FILE` does of an array; or mend its first line, if only "
                "that is broken; finished tasks are kept",
            )
        if data is None:
            self.tally.drop(file.name, TOO_LONG, split)
            return
        rows = None if self.format == "text" else json_rows(data)
        if rows is None and format == "json":
            yield from self._json_lines(file, split, io.BytesIO(data))
            return
        self.tally.bytes += len(data)
        if rows is not None:
            prefix = _row_prefix(file.name)
            for number, value in enumerate(rows, start=1):
                if self._is_mine(number):
                    self._row(prefix, number, value, split)
                    if self._size >= self.batch_bytes:
                        yield from self._flush(split)
            return
        if len(data) > LONGEST_TEXT:
            self.tally.drop(file.name, TOO_LONG, split)
            return
        if (text := decode(data)) is None:
            self.tally.drop(file.name, NOT_UTF8, split)
            return
        if data and not self.filter and not text.startswith(_MARK) and not text.isspace():
            self._add(data, id_line(file.name), split, {})  # the file's own bytes need not be encoded again
        else:
            self._text(text, id_line(file.name), split, {})
        if self._size >= self.batch_bytes:
            yield from self._flush(split)

    def _json_lines(self, file: SourceFile, split: SplitName, stream: IO[bytes]) -> Iterator[Documents]:
        prefix, row = _row_prefix(file.name), 0
        for lines in line_blocks(stream, LONGEST_JSON):
            values = _json_values(lines) if self._turns == 1 else None
            if values is None:
                self._lines_one_by_one(prefix, row, lines, split)
            else:
                self.tally.bytes += sum(len(line) for line in lines if line)
                if not self._add_plain_rows(prefix, row, values):
                    for number, value in enumerate(values, start=row + 1):
                        self._row(prefix, number, value, split)
            row += len(lines)
            if self._size >= self.batch_bytes or len(self._lines) >= BATCH_ROWS:
                yield from self._flush(split)

    def _lines_one_by_one(self, prefix: bytes, before: int, lines: Iterable[bytes | None], split: SplitName) -> None:
        """Lines that may be somebody else's, no JSON, or too long; `before` are the lines of the file before them."""
        all_mine, tally = self._turns == 1, self.tally
        for row, line in enumerate(lines, start=before + 1):
            if not all_mine and not self._is_mine(row):
                continue
            if line is None:
                tally.drop(_name(prefix, row), TOO_LONG, split)
                continue
            tally.bytes += len(line)
            try:
                value = parse_json(line)
            except ValueError as error:
                if line.strip():
                    reason = NOT_UTF8 if isinstance(error, UnicodeError) else NOT_JSON
                    tally.drop(_name(prefix, row), reason, split)
                continue
            self._row(prefix, row, value, split)

    def _add_plain_rows(self, prefix: bytes, before: int, values: Sequence[Any]) -> bool:
        """Add rows of which none needs a closer look, as `_row` would add them; False, with none added, for others."""
        if self._filters or self.columns or self.id_column:
            return False
        try:
            texts = list(map(itemgetter(self.text_column), values))
            data = list(map(str.encode, texts))
        except (KeyError, TypeError, UnicodeEncodeError):
            return False
        blank, marked = any(map(str.isspace, texts)), any(map(str.startswith, texts, repeat(_MARK)))
        sizes = list(map(len, data))
        if blank or marked or not all(sizes) or max(sizes) > LONGEST_TEXT:
            return False
        self.tally.columns.update(map(word, set[str]().union(*values)))
        self._texts += data
        self._lines += [b'%b%d"\n' % (prefix, row) for row in range(before + 1, before + 1 + len(data))]
        self._size += sum(sizes)
        return True

    def _row(self, prefix: bytes, number: int, value: Any, split: SplitName) -> None:
        if not isinstance(value, dict):
            name = _name(prefix, number)
            self.tally.drop(name, f"with {describe_value(value)} instead of an object", split)
            return
        if not value.keys() <= self.tally.columns:
            self.tally.columns.update(map(word, value))
        column = self.text_column
        text = value[column] if column in value else look_up(value, column)
        self._text(text, b'%b%d"\n' % (prefix, number), split, value)

    def _text(self, text: Any, line: bytes, split: SplitName, row: Mapping[str, Any]) -> None:
        if not isinstance(text, str):
            absent = text is None and self.text_column not in row
            reason = NO_TEXT if absent else f"with {describe_value(text)} {NOT_TEXT}"
            self.tally.drop(json.loads(line), reason, split)
            return
        if not "!" <= text[:1] <= "~":  # one that begins with a printable ASCII character is neither blank nor marked
            text = text.removeprefix(_MARK)
            if not text or text.isspace():
                self.tally.drop(json.loads(line), EMPTY, split)
                return
        try:
            data = text.encode()
        except UnicodeEncodeError:
            self.tally.drop(json.loads(line), SURROGATE, split)
            return
        if self._filters and (filtered := self.filter.reason(row)) is not None:
            self.tally.filter_out(filtered, split)
            return
        own = look_up(row, self.id_column) if self.id_column else None
        self._add(data, line if own is None else id_line(word(own)), split, row)

    def _add(self, data: bytes, line: bytes, split: SplitName, row: Mapping[str, Any]) -> None:
        if len(data) > LONGEST_TEXT:
            self.tally.drop(json.loads(line), TOO_LONG, split)
            return
        self._texts.append(data)
        self._lines.append(line)
        self._size += len(data)
        if self.columns:
            self._metadata.append({key: row[key] for key in self.columns if key in row})

    def _flush(self, split: SplitName) -> Iterator[Documents]:
        if self._texts:
            yield Documents(Texts.join(self._texts), self._lines, split, self._metadata)
            self._texts, self._lines, self._metadata, self._size = [], [], [], 0

    # --- documents by columns: Arrow ---

    def _record_batches(
        self, file: SourceFile, split: SplitName, batches: Iterable[pa.RecordBatch]
    ) -> Iterator[Documents]:
        row = 1
        for read in batches:
            self.tally.columns.update(read.schema.names)
            used = read.select([name for name in read.schema.names if name in self.used])
            together = _rows_together(read.num_rows, read.nbytes, self.batch_bytes)
            for first in range(0, read.num_rows, together):
                batch = used.slice(first, together)
                yield from self._arrow(_row_prefix(file.name), row, batch, split)
                row += batch.num_rows

    def _parquet(self, file: SourceFile, split: SplitName, stream: IO[bytes]) -> Iterator[Documents]:
        with pq.ParquetFile(stream) as table:
            names = table.schema_arrow.names
            self.tally.columns.update(names)
            used = [name for name in names if name in self.used]
            row = 1
            for groups, together in _groups_together(table.metadata, self.text_column, self.batch_bytes):
                for batch in table.iter_batches(together, groups, used):
                    first, row = row, row + batch.num_rows
                    # by rows, for of a file with further columns not all is read
                    self.tally.stored = self._stored + (file.bytes or 0) * (row - 1) // table.metadata.num_rows
                    yield from self._arrow(_row_prefix(file.name), first, batch, split)

    def _arrow(self, prefix: bytes, first: int, batch: pa.RecordBatch, split: SplitName) -> Iterator[Documents]:
        """The documents of Arrow rows, of which the first has the number `first`."""
        values = values_of(batch, self.text_column)
        column = binary_column(values) if isinstance(values, pa.Array) else None
        rows = np.arange(first, first + batch.num_rows)
        mine = rows % self._turns == (self._turn + 1) % self._turns
        if column is None:
            # The text is within JSON text, or is none at all.
            texts = python_values(values) if isinstance(values, pa.Array) else values
            yield from self._arrow_rows(prefix, first, np.flatnonzero(mine).tolist(), texts, batch, split)
            return
        column.validate(full=True)  # nothing else looks at the offsets that a damaged Arrow file has
        stay, replaced = self._with_text(prefix, rows, column, mine, split)
        reasons = None
        if self.filter:
            stay, reasons = self.filter.rows(batch, stay)
            for reason, count in reasons.items():
                self.tally.filter_out(reason, split, count)
        kept = np.flatnonzero(stay)
        if not len(kept):
            return
        lines = [b'%b%d"\n' % (prefix, row) for row in rows[kept].tolist()]
        if self.id_column:
            own = values_of(batch, self.id_column)
            own = python_values(own) if isinstance(own, pa.Array) else own
            lines = [
                line if own[at] is None else id_line(word(own[at]))
                for line, at in zip(lines, kept.tolist(), strict=True)
            ]
        metadata: list[Mapping[str, Any]] = []
        if self.columns:
            within = {name: python_values(batch.column(name)) for name in batch.schema.names if name in self.columns}
            metadata = [{name: cells[at] for name, cells in within.items()} for at in kept.tolist()]
        if replaced:
            texts = texts_of(column)
            data = Texts.join([replaced.get(at, bytes(texts[at])) for at in kept.tolist()])
        else:
            data = texts_of(column if len(kept) == len(column) else rows_of(column, kept))
        yield Documents(data, lines, split, metadata)

    def _with_text(
        self, prefix: bytes, rows: NDArray[np.int64], column: pa.Array, mine: Mask, split: SplitName
    ) -> tuple[Mask, dict[int, bytes]]:
        """The rows that have text, and the texts that lose their byte-order mark, by row of the batch."""
        present = np.ones(len(column), bool)
        if column.null_count:
            present = column.is_valid().to_numpy(zero_copy_only=False)
            column = column.fill_null(b"")
        stay, replaced = mine & present, dict[int, bytes]()
        for at in np.flatnonzero(mine & ~present).tolist():
            self.tally.drop(_name(prefix, int(rows[at])), NULL, split)
        texts = texts_of(column)
        lengths = np.diff(texts.bounds)
        self.tally.bytes += int(lengths[stay].sum())
        for at in np.flatnonzero(stay & (lengths > LONGEST_TEXT)).tolist():
            stay[at] = False
            self.tally.drop(_name(prefix, int(rows[at])), TOO_LONG, split)
        first = np.zeros(len(column), np.uint8)
        first[lengths > 0] = texts.data[texts.bounds[:-1][lengths > 0]]
        # A text that begins with a printable ASCII character is neither blank nor marked.
        plain = (first > 0x20) & (first < 0x7F)
        valid = is_utf8(column)
        for at in np.flatnonzero(stay & ~plain if valid else stay).tolist():
            data = bytes(texts[at])
            if not valid or not data[:4].decode(errors="ignore")[:1].strip() or data.startswith(_MARK_BYTES):
                text = decode(data)
                if text is None:
                    stay[at] = False
                    self.tally.drop(_name(prefix, int(rows[at])), NOT_UTF8, split)
                elif not text.removeprefix(_MARK).strip():
                    stay[at] = False
                    self.tally.drop(_name(prefix, int(rows[at])), EMPTY, split)
                elif text.startswith(_MARK):
                    replaced[at] = data.removeprefix(_MARK_BYTES)
        return stay, replaced

    def _arrow_rows(
        self,
        prefix: bytes,
        first: int,
        mine: Iterable[int],
        texts: Sequence[Any],
        batch: pa.RecordBatch,
        split: SplitName,
    ) -> Iterator[Documents]:
        columns = {name: python_values(batch.column(name)) for name in batch.schema.names if name in self.used}
        for at in mine:
            row = first + at
            text: Any = texts[at]
            if isinstance(text, bytes):
                self.tally.bytes += len(text)
                text = decode(text)
                if text is None:
                    self.tally.drop(_name(prefix, row), NOT_UTF8, split)
                    continue
            values = {name: column[at] for name, column in columns.items()}
            self._text(text, b'%b%d"\n' % (prefix, row), split, values)
        yield from self._flush(split)


def _json_values(lines: Iterable[bytes | None]) -> list[Any] | None:
    """The values of lines that are all JSON; None where one is not, or is blank or left out."""
    try:
        return [*map(orjson.loads, lines)]  # type: ignore[arg-type]
    except orjson.JSONDecodeError:
        return None


def _row_prefix(name: str) -> bytes:
    """The line of a row's id, `FILE:ROW`, up to the row."""
    return id_line(f"{name}:")[: -len(b'"\n')]


def _name(prefix: bytes, row: int) -> str:
    name: str = json.loads(b'%b%d"' % (prefix, row))
    return name


def _groups_together(metadata: Any, column: str, batch_bytes: int) -> Iterator[tuple[list[int], int]]:
    """Row groups of a Parquet file that are read together, and the rows of a batch of them.

    Groups of more than `batch_bytes` of text are read alone, for one group's texts may be longer than another's.
    """
    groups, rows, size = list[int](), 0, 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        own = sum(
            group.column(at).total_uncompressed_size
            for at in range(group.num_columns)
            if group.column(at).path_in_schema.split(".")[0] == column.split(".")[0]
        )
        if groups and size + own > batch_bytes:
            yield groups, _rows_together(rows, size, batch_bytes)
            groups, rows, size = [], 0, 0
        groups.append(number)
        rows, size = rows + group.num_rows, size + own
    if groups:
        yield groups, _rows_together(rows, size, batch_bytes)


def _rows_together(rows: int, size: int, batch_bytes: int) -> int:
    """As many of so many rows as have about `batch_bytes`, where all have `size`; one at least."""
    return min(BATCH_ROWS, max(1, batch_bytes * rows // max(1, size)))
