"""Dataclasses read from JSON: every kind of field, errors that name the key, and every job file read back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from curriculum import fs


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    first: int
    pairs: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Whole:
    name: str
    shape: Literal["round", "flat"]
    weight: float
    parts: Mapping[str, Part]
    order: tuple[Part, ...] = ()
    blocks: Sequence[Mapping[str, Mapping[str, Any]]] = ()
    limit: int | None = None
    final: bool = False
    labels: Mapping[str, Any] = field(default_factory=dict)


WHOLE = Whole(
    name="a",
    shape="flat",
    weight=0.5,
    parts={"x": Part(first=1, pairs=((1, 2), (3, 4))), "y": Part(first=2)},
    order=(Part(first=3),),
    blocks=({"filter": {"n": [1, None]}},),
    limit=7,
    labels={"any": ["thing"]},
)


def written(**changes: Any) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(fs.canonical_json(WHOLE))
    return {**value, **changes}


def test_what_is_written_comes_back_equal() -> None:
    assert fs.from_json(Whole, written()) == WHOLE


def test_a_field_with_a_default_may_be_missing_and_a_whole_number_stays_one() -> None:
    least = {"name": "a", "shape": "round", "weight": 1, "parts": {}}
    read = fs.from_json(Whole, least)
    assert (read.order, read.limit, read.final, read.labels) == ((), None, False, {})
    assert type(read.weight) is int


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": "12"}, "weight: expected a number, not '12'"),
        ({"limit": True}, "limit: expected a whole number, not True"),
        ({"limit": 1.5}, "limit: expected a whole number, not 1.5"),
        ({"final": 1}, "final: expected true or false, not 1"),
        ({"name": None}, "name: expected a text, not None"),
        ({"shape": "square"}, "shape: expected round or flat, not 'square'"),
        ({"parts": []}, "parts: expected an object, not []"),
        ({"parts": {"x": {"first": "1"}}}, "parts: x: first: expected a whole number, not '1'"),
        ({"parts": {"x": {}}}, "parts: x: first is missing"),
        ({"order": {"first": 1}}, "order: expected a list, not {'first': 1}"),
        ({"order": [{"first": 1}, {"first": 1, "last": 2}]}, "order: 1: Part has no field last"),
        ({"order": [{"first": 1, "pairs": [[1, 2, 3]]}]}, "order: 0: pairs: 0: expected 2 entries, not [1, 2, 3]"),
        ({"order": [{"first": 1, "pairs": [[1, "b"]]}]}, "order: 0: pairs: 0: 1: expected a whole number, not 'b'"),
        ({"color": 1}, "Whole has no field color"),
        ({"limit": "n" * 50}, "limit: expected a whole number, not str"),
    ],
)  # fmt: skip
def test_an_error_names_the_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as raised:
        fs.from_json(Whole, written(**changes))
    assert str(raised.value) == message


def test_unknown_keys_are_ignored_only_where_asked_and_only_at_the_top() -> None:
    assert fs.from_json(Whole, written(color=1), ignore_unknown=True) == WHOLE
    with pytest.raises(ValueError, match="Part has no field color"):
        fs.from_json(Whole, written(parts={"x": {"first": 1, "color": 2}}), ignore_unknown=True)
    with pytest.raises(ValueError, match="expected an object, not"):
        fs.from_json(Whole, [1], ignore_unknown=True)


def test_an_annotation_that_json_cannot_hold_is_a_programming_error() -> None:
    @dataclass
    class Unreadable:
        value: complex

    with pytest.raises(TypeError, match="complex"):
        fs.from_json(Unreadable, {"value": 1})
    with pytest.raises(TypeError, match="set is not written as JSON"):
        fs.canonical_json({"value": {1}})
