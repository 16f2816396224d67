"""Integer arrays: exact conversion to int64, and positions grouped by value."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Index = TypeVar("Index", int, Integers)
"""An int or an integer array of any shape; functions of it return the same kind."""


def exact_indices(value: object, most: int, what: str) -> Integers:
    """`value` (an int or an integer array) as int64 of the same shape, all within 0 … `most`.

    Raises ValueError that names `what` and the first value out of range; nothing is wrapped, rounded or clipped.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value <= most:
            raise ValueError(f"{what} must be from 0 to {most:,}, not {value:,}")
        return np.array(value, dtype=np.int64)
    array: NDArray[Any] = np.asarray(value)
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"{what} is a whole number, not {array.dtype}")
    if array.size and (int(array.min()) < 0 or int(array.max()) > most):
        wrong = int(array.min()) if int(array.min()) < 0 else int(array.max())
        raise ValueError(f"{what} must be from 0 to {most:,}, not {wrong:,}")
    return array.astype(np.int64, copy=False)


def same_kind(index: Index, result: Integers) -> Index:
    """`result` as an int if `index` is one (also a numpy scalar), else as an array."""
    is_array = isinstance(index, np.ndarray) or result.ndim > 0
    return cast(Index, result if is_array else int(result))


def positions_by_value(values: NDArray[np.integer]) -> Iterator[tuple[int, slice | Integers]]:
    """Every distinct value of `values` (`[n]`), ascending, with its positions as an index into arrays of that shape."""
    if not len(values):
        return
    least, most = int(values.min()), int(values.max())
    if least == most:
        yield least, slice(None)
        return
    narrow = (values - least).astype(np.uint16) if most - least < 1 << 16 else values  # sorts much faster
    order = np.argsort(narrow, kind="stable")
    ascending = values[order]
    begins = np.flatnonzero(np.diff(ascending, prepend=least - 1))
    for begin, end in itertools.pairwise([*begins.tolist(), len(order)]):
        yield int(ascending[begin]), order[begin:end]
