"""Columns of rows: values by dotted names, the filters `drop` and `keep`, and Arrow columns as texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
from numpy.typing import NDArray

from runner.prepare.formats import parse_json
from runner.prepare.texts import Texts

Mask = NDArray[np.bool_]


class ColumnFilter:
    """Drops documents that match `drop`, and those that do not match `keep`.

    Both map a dotted column (`meta.redpajama_set_name`) to a value or a list of values; compared as text.
    """

    def __init__(self, drop: Mapping[str, Any], keep: Mapping[str, Any]) -> None:
        self.drop = {column: _words(value) for column, value in drop.items()}
        self.keep = {column: _words(value) for column, value in keep.items()}

    def __bool__(self) -> bool:
        return bool(self.drop or self.keep)

    def reason(self, row: Mapping[str, Any]) -> str | None:
        """Why a row is left out, None for one that stays."""
        for column, values in self.drop.items():
            value = word(look_up(row, column))
            if value in values:
                return f"{column} is {value}"
        for column, values in self.keep.items():
            if word(look_up(row, column)) not in values:
                return f"{column} is not {' or '.join(sorted(values))}"
        return None

    def rows(self, batch: pa.RecordBatch, considered: Mask) -> tuple[Mask, Counter[str]]:
        """Which of the rows `considered` stay, and how many are left out for which reason."""
        stay, reasons = considered.copy(), Counter[str]()
        for column, values in self.drop.items():
            numbers, words = _word_numbers(batch, column)
            for number, value in enumerate(words):
                if value in values:
                    out = stay & (numbers == number)
                    reasons[f"{column} is {value}"] += int(out.sum())
                    stay &= ~out
        for column, values in self.keep.items():
            numbers, words = _word_numbers(batch, column)
            out = stay & ~np.isin(numbers, [number for number, value in enumerate(words) if value in values])
            reasons[f"{column} is not {' or '.join(sorted(values))}"] += int(out.sum())
            stay &= ~out
        return stay, +reasons


def _word_numbers(batch: pa.RecordBatch, column: str) -> tuple[NDArray[np.int64], list[str]]:
    """Per row the number of its value in a list of distinct values as text; each value is made text once."""
    values = values_of(batch, column)
    if isinstance(values, pa.Array) and not pa.types.is_nested(values.type):
        encoded = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
        words = [word(value) for value in python_values(encoded.dictionary)]
        numbers = encoded.indices.cast(pa.int64()).fill_null(len(words)).to_numpy(zero_copy_only=False)
        return numbers, [*words, word(None)]
    numbers_of: dict[str, int] = {}
    texts = (word(value) for value in (python_values(values) if isinstance(values, pa.Array) else values))
    numbers = np.array([numbers_of.setdefault(text, len(numbers_of)) for text in texts], np.int64)
    return numbers, list(numbers_of)


def values_of(batch: pa.RecordBatch, column: str) -> pa.Array | list[Any]:
    """The values at a dotted column: an Arrow array where it is reached through objects, or a list where JSON text
    has to be parsed."""
    names = batch.schema.names
    if column in names:
        return batch.column(column)
    head, _, rest = column.partition(".")
    if head not in names or not rest:
        return pa.nulls(batch.num_rows)
    values = batch.column(head)
    for at, key in enumerate(keys := rest.split(".")):
        if not pa.types.is_struct(values.type):
            within = ".".join(keys[at:])
            return [look_up({"": value}, f".{within}") for value in python_values(values)]
        if values.type.get_field_index(key) < 0:
            return pa.nulls(batch.num_rows)
        values = pc.struct_field(values, key)
    return values


def python_values(values: pa.Array) -> list[Any]:
    """An Arrow array as Python values; text as bytes, so that what is not UTF-8 can be counted."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if _is_text(values.type):
        values = values.cast(pa.large_binary())
    objects: list[Any] = values.to_pylist()
    return objects


def binary_column(values: pa.Array) -> pa.Array | None:
    """A column of text or bytes as `large_binary`; None for another type."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_large_binary(values.type):
        return values
    if _is_text(values.type) or pa.types.is_binary(values.type) or values.type == pa.binary_view():
        return values.cast(pa.large_binary())
    return None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view())


def texts_of(column: pa.Array) -> Texts:
    """The bytes of a `large_binary` column without nulls, not copied."""
    _, bounds, data = column.buffers()
    ends = np.frombuffer(bounds, np.int64)[column.offset : column.offset + len(column) + 1]
    if data is None or not len(column):
        return Texts(np.zeros(0, np.uint8), np.zeros(len(column) + 1, np.int64))
    return Texts(np.frombuffer(data, np.uint8)[ends[0] : ends[-1]], ends - ends[0])


def rows_of(column: pa.Array, rows: NDArray[np.int64]) -> pa.Array:
    """The rows with these numbers. `pa.array` would import pandas, which takes as long as to read 50 MB."""
    return column.take(pa.Array.from_buffers(pa.int64(), len(rows), [None, pa.py_buffer(rows)]))


def is_utf8(column: pa.Array) -> bool:
    """Whether every value of a `large_binary` column is UTF-8."""
    try:
        column.cast(pa.large_string())
    except pa.ArrowInvalid:
        return False
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


def word(value: Any) -> str:
    """A value as text, as it is compared and shown."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value).encode(errors="replace").decode()


def _words(value: Any) -> set[str]:
    entries: Iterable[Any] = value if isinstance(value, list | tuple) else [value]
    return {word(entry) for entry in entries}
