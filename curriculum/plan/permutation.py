"""The order of a source's windows in one epoch: a keyed pseudo-random permutation in closed form, with its inverse.

An epoch reads window `p(0)`, `p(1)`, … `p(size - 1)`, each once. There is no shuffle buffer and no index file: any
position in the order, and the position of any window, is computed alone.

A Feistel network on a grid of ⌈n/b⌉ rows and b = ⌈√n⌉ columns, cell `row * b + column`: eight rounds alternately add to
the row a keyed function of the column and to the column one of the row, each of which can be subtracted again. The grid
has fewer than b cells too many; a value that lands on one of those is mapped again until inside (cycle walking), at
most 4/3 applications on average (n = 3).

Eight rounds and two multiplications were chosen by statistical tests: with six rounds neighbours in an order of some
dozens of windows are correlated, with one multiplication neighbours among a thousand. Small grids need more: over
100,000 keys, eight rounds make one distance between neighbours 10.3% more frequent than another among 6 windows, 6.9%
among 12, 3.5% among 30 and none from 49 on; sixteen leave 0.66% among 6, twenty-four nothing at any size. So grids of
at most 16 columns (256 windows) take twenty-four rounds.

Everything is uint64 *arrays*: a uint64 scalar would warn on overflow, and uint64 with int64 would become float64.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from curriculum.plan.arrays import Index, Integers, exact_indices, same_kind

UInt64 = npt.NDArray[np.uint64]

ORDER_VERSION: Final = 1
"""Part of every key. A change of the arithmetic below must raise it, so that no two orders share a name."""

LARGEST_SIZE: Final = 2**40
ROUNDS: Final = 8
ROUNDS_ON_SMALL_GRIDS: Final = 24
SMALL_GRID: Final = 16
"""Columns up to which a grid is small."""

# The two multipliers and shifts of splitmix64's finaliser (Stafford's variant 13). Its last shift only stirs
# the low half, which is never read here.
_MULTIPLY = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFT = (np.uint64(30), np.uint64(27))
_HALF, _LOW = np.uint64(32), np.uint64(2**32 - 1)


@dataclass(frozen=True, slots=True)
class Permutation:
    """The order of one epoch over one segment of a source of `size` windows (1 to 2^40).

    `p(k)` is the k-th window read, `p.inverse(w)` the position at which window w is read; both take an int or an
    integer array of any shape and return the same kind, int64. The order depends on the seed, the source's name, the
    epoch (`pass_number`), the segment's name and the size, on nothing else; or also on `further` numbers, which key an
    order that is not the epoch's own.

    Raises ValueError for a size out of range and for positions outside 0 … size - 1.
    """

    size: int
    seed: int = field(kw_only=True)
    source: str = field(kw_only=True)
    pass_number: int = field(kw_only=True)
    segment: str = field(kw_only=True)
    further: tuple[int, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        if not 1 <= self.size <= LARGEST_SIZE:
            raise ValueError(f"an order has from 1 to 2^40 windows, not {self.size:,}")

    def __call__(self, k: Index) -> Index:
        """The `k`-th window read."""
        return self._walk(k, inverse=False)

    def inverse(self, window: Index) -> Index:
        """The position at which `window` is read: `p.inverse(p(k)) == k`."""
        return self._walk(window, inverse=True)

    def _walk(self, start: Index, *, inverse: bool) -> Index:
        starts = exact_indices(start, self.size - 1, "a place in the order")
        cell = starts.reshape(-1).astype(np.uint64)
        return same_kind(start, self._grid.walk(cell, inverse).astype(np.int64).reshape(starts.shape))

    @property
    def _grid(self) -> _Grid:
        columns = math.isqrt(self.size - 1) + 1  # ⌈√size⌉
        rounds = ROUNDS_ON_SMALL_GRIDS if columns <= SMALL_GRID else ROUNDS
        keys = _round_keys(int(self.seed), self.source, int(self.pass_number), self.segment, rounds, self.further)
        return _Grid(np.uint64(self.size), np.uint64(-(-self.size // columns)), np.uint64(columns), keys)


def permuted(parts: Sequence[tuple[Permutation, Integers]]) -> list[Integers]:
    """`order(positions)` of each part (int64 `[n]` each), computed together.

    Of few positions of many orders, numpy's calls would cost more than the arithmetic. ValueError as from an order.
    """
    grids = [order._grid for order, _ in parts]
    windows = [position for _, position in parts]
    for rounds in {len(grid.keys) for grid in grids}:
        at = [number for number, grid in enumerate(grids) if len(grid.keys) == rounds]
        lengths = [len(parts[number][1]) for number in at]
        cell = np.concatenate([parts[number][1] for number in at]).astype(np.uint64)  # a negative one becomes huge
        sides = np.array([(grids[number].size, grids[number].rows, grids[number].columns) for number in at], np.uint64)
        size, rows, columns = np.repeat(sides.T, lengths, axis=1)
        if (cell >= size).any():
            return [order(position) for order, position in parts]  # one of them says which
        keys = np.repeat(np.concatenate([grids[number].keys for number in at], axis=1), lengths, axis=1)
        window = _Grid(size, rows, columns, keys).walk(cell).astype(np.int64)
        begin = 0
        for number, length in zip(at, lengths, strict=True):
            windows[number] = window[begin : begin + length]
            begin += length
    return windows


def rotation(seed: int, step: int, batch: int) -> int:
    """The offset by which `step` rotates its `batch` sequences over the slots: 0 … batch - 1, keyed by seed and step.

    Slot q reads sequence (q + rotation) mod batch. Without it a source that is drawn once a batch would always be read
    by the same rank. Uniform up to 2^-100: 128 keyed bits are mapped onto the batch by a multiplication.
    """
    if batch < 1:
        raise ValueError(f"a batch has at least one sequence, not {batch:,}")
    (key,) = _rotation_keys(int(seed), [int(step)])
    return (int.from_bytes(key[:16], "little") * int(batch)) >> 128


def rotations(seed: int, steps: Integers, batch: int | Integers) -> Integers:
    """`rotation` of each of `steps` (`[n]`), for one batch or that of each; cheaper than one by one."""
    if not steps.size:
        return steps
    batches = np.broadcast_to(np.asarray(batch, np.uint64), steps.shape)
    if not 1 <= batches.min() <= batches.max() <= _LOW:
        each = zip(steps.tolist(), batches.tolist(), strict=True)
        return np.array([rotation(seed, step, sequences) for step, sequences in each], np.int64)
    keys = np.frombuffer(b"".join(_rotation_keys(int(seed), steps.tolist())), "<u8").reshape(-1, 8).astype(np.uint64)
    carry = _times(keys[:, 0], batches, np.uint64(0))
    return _times(keys[:, 1], batches, carry).astype(np.int64)


def _times(key: UInt64, batch: UInt64, carry: UInt64 | np.uint64) -> UInt64:
    """(key · batch + carry) >> 64, for a batch below 2^32 and a carry below the batch: no term leaves 64 bits."""
    low = (key & _LOW) * batch + carry
    high: UInt64 = ((key >> _HALF) * batch + (low >> _HALF)) >> _HALF
    return high


@dataclass(frozen=True, slots=True)
class _Grid:
    """`rows` times `columns` cells, of which the first `size` are in the order.

    Each is one number, or one for every cell that is walked, and `keys` are `[rounds, 1]` or `[rounds, n]`.
    """

    size: np.uint64 | UInt64
    rows: np.uint64 | UInt64
    columns: np.uint64 | UInt64
    keys: UInt64

    def walk(self, start: UInt64, inverse: bool = False) -> UInt64:
        """The cell to which each of `start` (`[n]`, below `size`) is mapped, until it is in the order."""
        cell = self._feistel(start, inverse)
        outside = np.flatnonzero(cell >= self.size)
        while outside.size:
            part = self._of(outside)
            moved = part._feistel(cell[outside], inverse)
            cell[outside] = moved
            outside = outside[moved >= part.size]
        return cell

    def _of(self, at: Integers) -> _Grid:
        """The grid of the cells numbered `at`."""
        if isinstance(self.size, np.ndarray):
            assert isinstance(self.rows, np.ndarray)
            assert isinstance(self.columns, np.ndarray)
            return _Grid(self.size[at], self.rows[at], self.columns[at], self.keys[:, at])
        return self

    def _feistel(self, cell: UInt64, inverse: bool) -> UInt64:
        """One application of the grid's bijection, or of its inverse, to `cell` (`[n]`)."""
        height, width = self.rows, self.columns
        row = cell // width
        column = cell - row * width
        for turn in reversed(range(len(self.keys))) if inverse else range(len(self.keys)):
            key = self.keys[turn]
            if turn % 2 == 0:
                row = _add_modulo(row, _keyed_value(column, key, height), height, inverse)
            else:
                column = _add_modulo(column, _keyed_value(row, key, width), width, inverse)
        return row * width + column


def _add_modulo(value: UInt64, by: UInt64, side: np.uint64 | UInt64, back: bool) -> UInt64:
    """(value ± by) mod side: unsigned wrap-around makes the wrong candidate huge, the minimum is right."""
    moved = value - by if back else value + by
    other = moved + side if back else moved - side
    least: UInt64 = np.minimum(moved, other, out=other)
    return least


def _keyed_value(value: UInt64, key: UInt64, side: np.uint64 | UInt64) -> UInt64:
    """A keyed number below `side` (at most 2^20) for each value: high bits, times the side, high bits."""
    x = value + key
    for shift, multiplier in zip(_SHIFT, _MULTIPLY, strict=True):
        x ^= x >> shift
        x *= multiplier
    x >>= _HALF
    x *= side
    x >>= _HALF
    return x


@lru_cache(maxsize=4096)
def _round_keys(
    seed: int, source: str, pass_number: int, segment: str, rounds: int, further: tuple[int, ...]
) -> UInt64:
    names = (ORDER_VERSION, seed, source, pass_number, segment)
    purpose = b"curriculum/rest" if further else b"curriculum/order"
    key = _hash(purpose, *names, *further).digest()
    for more in range(1, -(-rounds // 8)):
        key += _hash(purpose, *names, *further, more).digest()
    keys = np.frombuffer(key, dtype="<u8").astype(np.uint64)[:rounds, None]
    keys.flags.writeable = False
    return keys


def _hash(purpose: bytes, *parts: int | str) -> hashlib.blake2b:
    """BLAKE2b, 64 bytes, of the parts, each preceded by its length, so that no two lists of parts hash alike."""
    digest = hashlib.blake2b(digest_size=64, person=purpose)
    for part in parts:
        text = str(part).encode("utf-8")
        digest.update(_length(text) + text)
    return digest


def _length(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little")


def _rotation_keys(seed: int, steps: Sequence[int]) -> list[bytes]:
    """64 keyed bytes of each step: the hash of seed and step, whose common beginning is hashed once."""
    prefixes: dict[int, hashlib.blake2b] = {}  # by the length of a step's number, which precedes it
    keys = []
    for step in steps:
        text = b"%d" % step
        digest = prefixes.get(len(text))
        if digest is None:
            digest = prefixes[len(text)] = _slots_of_seed(seed).copy()
            digest.update(_length(text))
        digest = digest.copy()
        digest.update(text)
        keys.append(digest.digest())
    return keys


@lru_cache(maxsize=16)
def _slots_of_seed(seed: int) -> hashlib.blake2b:
    """The common beginning of the keys of all steps; copy it before adding a step."""
    return _hash(b"curriculum/slots", ORDER_VERSION, seed)
