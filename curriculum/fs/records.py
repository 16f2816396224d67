"""Dataclasses as JSON objects: fields are keys, and what is read back is checked against their annotations."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from itertools import count, repeat
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Record = TypeVar("Record")
_Reader = Callable[[Any], Any]

_SCALARS: dict[Any, tuple[tuple[type, ...], str]] = {
    str: ((str,), "a text"),
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((float, int), "a number"),
    NoneType: ((NoneType,), "null"),
}


ADDED_LATER: Final[Mapping[str, Any]] = MappingProxyType({"added later": True})
"""The `metadata` of a field that a version after 0.1.0 added: `fields_of` leaves its default out, so that the digests
of records without it stay what they were."""


def fields_of(record: Any) -> dict[str, Any]:
    """The fields of a dataclass by name, not copied (`dataclasses.asdict` copies every value below them).

    Nested dataclasses stay what they are; `json.dumps(..., default=fields_of)` writes them. TypeError for other types.
    """
    if not is_dataclass(record):
        raise TypeError(f"{type(record).__name__} is not written as JSON")
    values = {name: getattr(record, name) for name in record.__dataclass_fields__}
    for name, default in _added_later(record.__class__):
        if values[name] == default:
            del values[name]
    return values


@functools.cache
def _added_later(cls: Any) -> tuple[tuple[str, Any], ...]:
    """Name and default of the fields of a dataclass that a later version added."""
    return tuple((field.name, field.default) for field in fields(cls) if field.metadata == ADDED_LATER)


def from_json(cls: type[Record], value: Any, *, ignore_unknown: bool = False) -> Record:
    """The dataclass `cls` from parsed JSON, nested dataclasses, tuples and mappings included.

    A key without a field is an error unless `ignore_unknown`, which holds for the outermost object only; a field with
    a default may be missing. A whole number stays one where a float is annotated, so that digests do not change.

    Raises ValueError that names the key: `segments: 0: windows: expected a whole number, not "12"`.
    """
    annotation: Any = cls
    if ignore_unknown and isinstance(value, dict):
        value = {key: entry for key, entry in value.items() if key in annotation.__dataclass_fields__}
    record: Record = _reader(annotation)(value)
    return record


@functools.cache
def _reader(annotation: Any) -> _Reader:
    """What turns a parsed value into one of the annotated type; TypeError for a type that is not read from JSON."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return lambda value: value
    if annotation in _SCALARS:
        return functools.partial(_scalar, *_SCALARS[annotation])
    if isinstance(annotation, type) and is_dataclass(annotation):
        hints = get_type_hints(annotation)
        readers = {field.name: _reader(hints[field.name]) for field in fields(annotation)}
        required = {
            field.name for field in fields(annotation) if field.default is MISSING and field.default_factory is MISSING
        }
        return functools.partial(_dataclass, annotation, readers, required)
    if origin is Literal:
        return functools.partial(_literal, arguments)
    if origin in (Union, UnionType):
        present = [argument for argument in arguments if argument is not NoneType]
        if len(present) == 1:
            return functools.partial(_optional, _reader(present[0]))
    if origin is Mapping and arguments[0] is str:
        return functools.partial(_mapping, _reader(arguments[1]), _SCALARS.get(arguments[1], ((), ""))[0])
    if origin is Sequence or (origin is tuple and arguments[-1] is Ellipsis):
        return functools.partial(_sequence, _reader(arguments[0]))
    if origin is tuple:
        return functools.partial(_tuple, tuple(map(_reader, arguments)))
    raise TypeError(f"{annotation} is not read from JSON")


def _scalar(types: tuple[type, ...], expected: str, value: Any) -> Any:
    if type(value) not in types:  # not isinstance: true is no whole number
        raise _mismatch(expected, value)
    return value


def _literal(choices: tuple[Any, ...], value: Any) -> Any:
    if value not in choices:
        raise _mismatch(" or ".join(map(str, choices)), value)
    return value


def _optional(read: _Reader, value: Any) -> Any:
    return None if value is None else read(value)


def _mapping(read: _Reader, scalars: tuple[type, ...], value: Any) -> dict[str, Any]:
    if set(map(type, _object(value).values())) <= set(scalars):  # as most are: at the speed of C
        return dict(value)
    return _entries(_object(value), repeat(read), value.values())


def _sequence(read: _Reader, value: Any) -> tuple[Any, ...]:
    return tuple(_entries(count(), repeat(read), _list(value)).values())


def _tuple(readers: tuple[_Reader, ...], value: Any) -> tuple[Any, ...]:
    if len(_list(value)) != len(readers):
        raise _mismatch(f"{len(readers)} entries", value)
    return tuple(_entries(count(), readers, value).values())


def _dataclass(cls: Callable[..., Any], readers: Mapping[str, _Reader], required: set[str], value: Any) -> Any:
    unknown = _object(value).keys() - readers.keys()
    if unknown:
        raise ValueError(f"{cls.__name__} has no field {min(unknown)}")
    missing = required - value.keys()
    if missing:
        raise ValueError(f"{min(missing)} is missing")
    return cls(**_entries(value, map(readers.__getitem__, value), value.values()))


def _entries(keys: Iterable[Any], readers: Iterable[_Reader], values: Iterable[Any]) -> dict[Any, Any]:
    """The entries of an object or a list, each read; ValueError with the key of the first that cannot be."""
    key: Any = None
    try:
        result = {}
        for key, read, value in zip(keys, readers, values, strict=False):
            result[key] = read(value)
        return result
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _mismatch("an object", value)
    return value


def _list(value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise _mismatch("a list", value)
    return value


def _mismatch(expected: str, value: Any) -> ValueError:
    shown = repr(value)
    return ValueError(f"expected {expected}, not {shown if len(shown) <= 40 else type(value).__name__}")
