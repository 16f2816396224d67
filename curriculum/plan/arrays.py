"""Integer arrays of the order, and values grouped by key."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


def each(number: NDArray[np.integer]) -> Iterator[tuple[int, slice | Integers]]:
    """Every value in `number` (`[n]`), ascending, with where it stands, to index other arrays by."""
    if not len(number):
        return
    least = int(number.min())
    most = int(number.max())
    if least == most:
        yield least, slice(None)
        return
    small = (number - least).astype(np.uint16) if most - least < 1 << 16 else number  # sorts much faster
    order = np.argsort(small, kind="stable")
    ordered = number[order]
    begins = np.flatnonzero(np.diff(ordered, prepend=least - 1))
    for begin, end in itertools.pairwise([*begins.tolist(), len(order)]):
        yield int(ordered[begin]), order[begin:end]
