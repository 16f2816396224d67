"""Deterministic mixture sampling in closed form: the source of sequence i, exact shares, no state, an inverse.

*Counts.* The sources are merged two by two, lightest first (Huffman's tree). At a node whose children weigh
l and r, w = l + r, the first m sequences that reach it send

    left(m) = round_half_up(m·l/w) = q·l + (2·t·l + w) // (2·w)        where q, t = divmod(m, w)

to the left and the rest to the right. Both only ever grow, by 0 or 1 a sequence, because l/w and r/w are
below 1. So walking down gives the source of a sequence and its ordinal in it, and walking up the inverse.
Exact in int64: t and l are below w < 2^31, hence 2·t·l + w < 2^63, and q·l <= m.

*Error.* A child's count is its share of its parent's count, off by at most 1/2 by the rounding, and the
parent's own error arrives scaled by that share. Unrolled from the root down to a source of weight s: at most
s/2 times the sum of 1/weight over the source and its ancestors below the root (`Tree.bound`). When two nodes
merge they are the two lightest, and merged weights never fall, so the node that their parent merges with weighs at
least as much as either: going up, each weight is at least the sum of the two before it. Thus s·Σ 1/weight
stays below 1 + 1 + 1/2 + 1/3 + 1/5 + … = 3.35989 (the reciprocal Fibonacci constant), and every source of
every mixture within 1.68 sequences of its share at every position. The same growth makes a tree of the
largest total at most 44 deep.

*Ramps.* While the share moves in a straight line from one tree to another over n sequences, a split above the
two gives the tree after `round_half_up(i²/(2n))` of the first i, the integral of i/n. See `Ramp`.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left
from collections.abc import Mapping
from fractions import Fraction
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from curriculum.plan.arrays import Index, Integers, exact_indices, same_kind

Int32 = npt.NDArray[np.int32]

LARGEST_TOTAL: Final = 2**31 - 1
"""Of the integer weights of a tree, and of the sequences of a ramp: beyond it the products leave int64."""

LARGEST_INDEX: Final = 2**62
"""No sequence is beyond this index; at 2,048 tokens each that is 9.4e21 tokens."""

_INDEX = "a sequence's index"
_ORDINAL = "an ordinal"


def integer_weights(weights: Mapping[str, Fraction], *, lossy: bool = False) -> dict[str, int]:
    """The smallest integers in the proportion of `weights`, sorted by name; zero weights are left out.

    Where their total would exceed 2^31 - 1, that total is apportioned by largest remainder (ties: the smaller name),
    which changes a share by less than 2^-31. Raises ValueError when no weight is above zero, when one is negative, and
    when one would be rounded to zero; `lossy` leaves such a source out.
    """
    for name, weight in weights.items():
        if weight < 0:
            raise ValueError(f"the weight of {name} is negative: {weight}")
    exact = {name: Fraction(weights[name]) for name in sorted(weights) if weights[name]}
    if not exact:
        raise ValueError("a mixture needs at least one source with a weight above zero")
    denominator = math.lcm(*(weight.denominator for weight in exact.values()))
    integers = {name: int(weight * denominator) for name, weight in exact.items()}
    common = math.gcd(*integers.values())
    integers = {name: weight // common for name, weight in integers.items()}
    if sum(integers.values()) <= LARGEST_TOTAL:
        return integers
    apportioned = _apportion(integers)
    if not lossy and not all(apportioned.values()):
        lost = next(name for name, weight in apportioned.items() if weight == 0)
        raise ValueError(f"the weight of {lost} is too small next to the others: below one part in 2^31")
    return {name: weight for name, weight in apportioned.items() if weight}


def _apportion(weights: Mapping[str, int]) -> dict[str, int]:
    """`LARGEST_TOTAL` in the proportion of `weights`, by largest remainder."""
    total = sum(weights.values())
    shares = {name: divmod(weight * LARGEST_TOTAL, total) for name, weight in weights.items()}
    missing = LARGEST_TOTAL - sum(quotient for quotient, _ in shares.values())
    rounded_up = sorted(shares, key=lambda name: (-shares[name][1], name))[:missing]
    return {name: quotient + (name in rounded_up) for name, (quotient, _) in shares.items()}


class _Turn(NamedTuple):
    """One split on the way from the root to a source."""

    left: int  # weight of the left child
    weight: int  # of the node
    goes_left: bool


class Tree:
    """A mixture with constant weights: the source of sequence 0, 1, 2, … without end.

    `weights` are positive integers with a sum of at most 2^31 - 1; only their proportions and the names matter, never
    the order of the mapping. `names` is sorted; a *source number* is an index into it. Indices and ordinals count from
    0. Raises ValueError for weights, indices, ordinals and names outside these ranges.
    """

    __slots__ = ("_child", "_left", "_turn_at", "_weight", "names", "total", "weights")

    def __init__(self, weights: Mapping[str, int]) -> None:
        if not weights:
            raise ValueError("a mixture needs at least one source")
        for name, weight in weights.items():
            if weight < 1 or weight != int(weight):
                raise ValueError(f"the weight of {name} is not a whole number above zero: {weight}")
        self.names: tuple[str, ...] = tuple(sorted(weights))
        self.weights: dict[str, int] = {name: int(weights[name]) for name in self.names}
        self.total: int = sum(self.weights.values())
        if self.total > LARGEST_TOTAL:
            raise ValueError(f"the weights add up to {self.total:,}, which is above 2^31 - 1")
        self._grow()

    def _grow(self) -> None:
        """Huffman merge. Nodes are numbered in order of creation (parents after children); ~number is a source."""
        heap = [(weight, name, ~number) for number, (name, weight) in enumerate(self.weights.items())]
        heapq.heapify(heap)
        left: list[int] = []
        weight: list[int] = []
        child: list[tuple[int, int]] = []
        while len(heap) > 1:
            lighter, heavier = heapq.heappop(heap), heapq.heappop(heap)
            heapq.heappush(heap, (lighter[0] + heavier[0], min(lighter[1], heavier[1]), len(left)))
            left.append(lighter[0])
            weight.append(lighter[0] + heavier[0])
            child.append((heavier[2], lighter[2]))  # child[node][goes_left] is the next node
        self._left: Integers = np.array(left, dtype=np.int64)
        self._weight: Integers = np.array(weight, dtype=np.int64)
        self._child: Integers = np.array(child, dtype=np.int64).reshape(-1, 2)

        turns: dict[int, list[int]] = {(~0 if not child else len(child) - 1): []}
        for node in reversed(range(len(child))):
            for goes_left in (False, True):
                turns[child[node][goes_left]] = [*turns[node], 2 * node + goes_left]
        # [depth, source]: 2 * node + 1 where the path goes left, 2 * node where right; -1 below the source
        self._turn_at: Integers = np.full((max(map(len, turns.values())), len(self.names)), -1, dtype=np.int64)
        for number in range(len(self.names)):
            self._turn_at[: len(turns[~number]), number] = turns[~number]

    def draw(self, index: int | Integers) -> tuple[Int32, Integers]:
        """The source number of sequence `index` and its ordinal in that source; both shaped as `index`."""
        indices = exact_indices(index, LARGEST_INDEX, _INDEX)
        source = np.zeros(indices.size, dtype=np.int32)
        ordinal = indices.reshape(-1).copy()
        if len(self.names) == 1:
            return source.reshape(indices.shape), ordinal.reshape(indices.shape)
        position = np.arange(indices.size)
        node = np.array([len(self._left) - 1])  # the root, for all; numpy divides by one number much faster
        m = ordinal
        while position.size:
            left, weight = self._left[node], self._weight[node]
            lefts, remainder = _lefts(m, left, weight)
            goes_left = remainder >= 2 * (weight - left)  # then 2·l more carries left(m + 1) over left(m)
            m = np.where(goes_left, lefts, m - lefts)
            node = self._child[node, goes_left.astype(np.int64)]
            is_source = node < 0
            if is_source.any():
                source[position[is_source]] = ~node[is_source]
                ordinal[position[is_source]] = m[is_source]
                position, node, m = position[~is_source], node[~is_source], m[~is_source]
        return source.reshape(indices.shape), ordinal.reshape(indices.shape)

    def count(self, name: str, index: Index) -> Index:
        """How many of the first `index` sequences are of `name`."""
        m = exact_indices(index, LARGEST_INDEX, _INDEX)
        if m.ndim == 0:  # plain ints are faster one at a time, for plans of hundreds of sources
            single = int(m)
            for turn in self._turns(name):
                left = _lefts_of_one(single, turn.left, turn.weight)
                single = left if turn.goes_left else single - left
            return same_kind(index, np.asarray(single))
        for turn in self._turns(name):
            lefts, _ = _lefts(m, turn.left, turn.weight)
            m = lefts if turn.goes_left else m - lefts
        return same_kind(index, np.asarray(m))

    def counts(self, index: int) -> dict[str, int]:
        """How many of the first `index` sequences each source fills; they add up to `index`."""
        exact_indices(index, LARGEST_INDEX, _INDEX)
        count_at = [0] * len(self._left)
        result = [int(index)] * len(self.names)
        for node in reversed(range(len(count_at))):
            m = int(index) if node == len(count_at) - 1 else count_at[node]
            left, weight = int(self._left[node]), int(self._weight[node])
            lefts = _lefts_of_one(m, left, weight)
            for child, count in zip(self._child[node].tolist(), (m - lefts, lefts), strict=True):
                if child < 0:
                    result[~child] = count
                else:
                    count_at[child] = count
        return dict(zip(self.names, result, strict=True))

    def where(self, name: str, ordinal: Index) -> Index:
        """The index of the sequence that is the `ordinal`-th of `name`: the inverse of `draw`.

        At each node upwards, the k-th of the left child is the sequence with which left(m) passes k + 1/2:
        ⌈w(2k+1)/(2l)⌉ - 1, and on the right ⌊w(2k+1)/(2r)⌋.
        """
        k = exact_indices(ordinal, LARGEST_INDEX, _ORDINAL)
        for turn in reversed(self._turns(name)):
            own = turn.left if turn.goes_left else turn.weight - turn.left
            rounds, rest = np.divmod(k, own)
            if np.any(rounds > LARGEST_INDEX // turn.weight):
                break
            k = rounds * turn.weight + (turn.weight * (2 * rest + 1) - turn.goes_left) // (2 * own)
        else:
            if not np.any(k > LARGEST_INDEX):
                return same_kind(ordinal, np.asarray(k))
        raise ValueError(f"sequence {int(np.max(ordinal)):,} of {name} comes after the last index, 2^62")

    def share(self, name: str) -> Fraction:
        """The exact share of sequences that `name` fills."""
        self._check_name(name)
        return Fraction(self.weights[name], self.total)

    def bound(self, name: str) -> Fraction:
        """The largest distance of `count(name, i)` from `i * share(name)` over all i: below 1.68 (proof at the top)."""
        turns = self._turns(name)
        below_root = [turn.weight for turn in turns[1:]] + ([self.weights[name]] if turns else [])
        return Fraction(self.weights[name], 2) * sum((Fraction(1, weight) for weight in below_root), Fraction())

    def count_each(self, source: npt.NDArray[np.integer], index: Integers) -> Integers:
        """`count` with a source number for each index; both have shape `[n]`."""
        m = index
        for turn in self._turn_at:
            step = turn[source]
            lefts, _ = _lefts(m, self._left[step >> 1], self._weight[step >> 1])
            m = np.where(step < 0, m, np.where(step & 1 == 1, lefts, m - lefts))
        return m

    def _turns(self, name: str) -> list[_Turn]:
        self._check_name(name)
        turns = self._turn_at[:, bisect_left(self.names, name)].tolist()
        left, weight = self._left, self._weight
        return [_Turn(int(left[t >> 1]), int(weight[t >> 1]), bool(t & 1)) for t in turns if t >= 0]

    def _check_name(self, name: str) -> None:
        if name not in self.weights:
            raise ValueError(f"this mixture has no source {name}")

    def __repr__(self) -> str:
        return f"Tree({self.weights!r})"


class Ramp:
    """`sequences` sequences over which the shares change linearly from one tree's to another's.

    Of the first i sequences the tree `after` fills A(i) = round_half_up(i²/(2n)) = (i·i + n) // (2n), from its own
    index 0 on; the tree `before` fills the rest, from its `before_index` on. A(i) grows by 0 or 1 a sequence, since
    (2i+1)/(2n) < 1 for i < n, and i·i + n stays in int64 for n < 2^31.

    Indices run from 0 to `sequences`, ordinals count from the ramp's start, and a source in both trees has
    one series of ordinals. After the ramp the tree `after` continues at `after_index(sequences)`. A ramp that
    begins inside another takes `Tree(integer_weights(other.shares(i), lossy=True))` as its `before`, at index 0:
    a share below 2^-31 would not come to a sequence in the longest ramp.
    """

    __slots__ = (
        *("before", "before_index", "after", "sequences", "names"),
        *("_before_names", "_after_names", "_as_before", "_as_after", "_counts_at_start"),
    )

    def __init__(self, before: Tree, before_index: int, after: Tree, sequences: int) -> None:
        if not 1 <= sequences <= LARGEST_TOTAL:
            raise ValueError(f"a ramp takes from 1 to 2^31 - 1 sequences, not {sequences:,}")
        exact_indices(before_index, LARGEST_INDEX - sequences, "the index at which a ramp begins")
        self.before = before
        self.before_index = int(before_index)
        self.after = after
        self.sequences = int(sequences)
        self.names: tuple[str, ...] = tuple(sorted({*before.names, *after.names}))
        number = {name: i for i, name in enumerate(self.names)}
        # from a tree's source numbers to the ramp's, and back (-1: not in that tree)
        self._before_names = np.array([number[name] for name in before.names], dtype=np.int32)
        self._after_names = np.array([number[name] for name in after.names], dtype=np.int32)
        self._as_before = np.full(len(number), -1, dtype=np.int64)
        self._as_before[self._before_names] = np.arange(len(before.names))
        self._as_after = np.full(len(number), -1, dtype=np.int64)
        self._as_after[self._after_names] = np.arange(len(after.names))
        self._counts_at_start: Integers = np.array(list(before.counts(self.before_index).values()), dtype=np.int64)

    def after_index(self, index: Index) -> Index:
        """How many of the ramp's first `index` sequences the tree `after` fills."""
        i = exact_indices(index, self.sequences, _INDEX)
        return same_kind(index, np.asarray((i * i + self.sequences) // (2 * self.sequences)))

    def draw(self, index: int | Integers) -> tuple[Int32, Integers]:
        """The source number (in `names`) of sequence `index` and its ordinal in the ramp; both shaped as `index`."""
        indices = exact_indices(index, self.sequences - 1, _INDEX)
        i = indices.reshape(-1)
        n = self.sequences
        a, remainder = np.divmod(i * i + n, 2 * n)
        of_after = remainder + 2 * i + 1 >= 2 * n  # then 2i + 1 more carries A(i + 1) over A(i)
        source = np.empty(i.size, dtype=np.int32)
        source[of_after] = self._after_names[self.after.draw(a[of_after])[0]]
        source[~of_after] = self._before_names[self.before.draw(self.before_index + (i - a)[~of_after])[0]]
        return source.reshape(indices.shape), self._count_each(source, i, a).reshape(indices.shape)

    def _count_each(self, source: Int32, i: Integers, a: Integers) -> Integers:
        """How many of `source` are among the first `i`, of which the tree `after` fills `a`."""
        result = np.zeros(i.size, dtype=np.int64)
        in_after, in_before = self._as_after[source], self._as_before[source]
        of_tree = in_after >= 0
        result[of_tree] += self.after.count_each(in_after[of_tree], a[of_tree])
        of_tree = in_before >= 0
        counts = self.before.count_each(in_before[of_tree], self.before_index + (i - a)[of_tree])
        result[of_tree] += counts - self._counts_at_start[in_before[of_tree]]
        return result

    def count(self, name: str, index: Index) -> Index:
        """How many of the ramp's first `index` sequences are of `name`."""
        i = exact_indices(index, self.sequences, _INDEX)
        a = (i * i + self.sequences) // (2 * self.sequences)
        result = np.zeros(i.shape, dtype=np.int64)
        self._check_name(name)
        if name in self.after.weights:
            result = result + self.after.count(name, np.asarray(a))
        if name in self.before.weights:
            result = result + self.before.count(name, np.asarray(self.before_index + i - a))
            result = result - self.before.count(name, self.before_index)
        return same_kind(index, np.asarray(result))

    def counts(self, index: int) -> dict[str, int]:
        """How many of the ramp's first `index` sequences each source fills; they add up to `index`."""
        a = self.after_index(index)
        after, before = self.after.counts(a), self.before.counts(self.before_index + int(index) - a)
        start = self.before.counts(self.before_index)
        return {n: after.get(n, 0) + before.get(n, 0) - start.get(n, 0) for n in self.names}

    def where(self, name: str, ordinal: Index) -> Index:
        """The index of the ramp's sequence that is the `ordinal`-th of `name`: the inverse of `draw`.

        For a source of one tree A is inverted: the j-th of `after` is sequence ⌈√(n(2j+1))⌉ - 1, the j-th of `before`
        n - ⌊√(n(n-1-2j) - 1)⌋ - 1. For a source of both it is bisection.
        """
        n = self.sequences
        in_all = self.count(name, n)
        if in_all == 0:
            raise ValueError(f"this ramp draws nothing from {name}")
        k = exact_indices(ordinal, in_all - 1, f"the ordinal of a sequence of {name} in this ramp")
        if name not in self.before.weights:
            j = np.asarray(self.after.where(name, k))
            result = _isqrt(n * (2 * j + 1) - 1)  # ⌈√v⌉ - 1 = ⌊√(v - 1)⌋
        elif name not in self.after.weights:
            start = self.before.count(name, self.before_index)
            j = np.asarray(self.before.where(name, np.asarray(k + start))) - self.before_index
            result = n - _isqrt(n * (n - 1 - 2 * j) - 1) - 1
        else:
            low, high = np.zeros_like(k), np.full_like(k, n - 1)
            for _ in range(n.bit_length()):
                middle = (low + high) // 2
                enough = self.count(name, np.asarray(middle + 1)) > k
                low, high = np.where(enough, low, middle + 1), np.where(enough, middle, high)
            result = low
        return same_kind(ordinal, np.asarray(result))

    def shares(self, index: int) -> dict[str, Fraction]:
        """The exact shares in force at `index`: on the line from `before`'s at 0 to `after`'s at the end."""
        exact_indices(index, self.sequences, _INDEX)
        progress = Fraction(int(index), self.sequences)
        return {n: _share(self.before, n) * (1 - progress) + _share(self.after, n) * progress for n in self.names}

    def bound(self, name: str) -> Fraction:
        """The largest distance of the count of `name` from the integral of its share over all indices: below 3.86.

        Both trees' bounds, each below 1.68, plus half the change of share, for A(i) is off by at most 1/2 and
        so many sequences change sides. Counted from index 0 of `before`, not from the ramp's start: counts
        in the ramp alone also carry the error, within `before.bound(name)`, with which the ramp began.
        """
        self._check_name(name)
        either = sum((t.bound(name) for t in (self.before, self.after) if name in t.weights), Fraction())
        return either + abs(_share(self.after, name) - _share(self.before, name)) / 2

    def _check_name(self, name: str) -> None:
        if name not in self.names:
            raise ValueError(f"this ramp has no source {name}")

    def __repr__(self) -> str:
        return f"Ramp({self.before!r}, {self.before_index}, {self.after!r}, {self.sequences})"


def _share(tree: Tree, name: str) -> Fraction:
    return tree.share(name) if name in tree.weights else Fraction()


def _lefts(m: Integers, left: int | Integers, weight: int | Integers) -> tuple[Integers, Integers]:
    """How many of the first `m` at a node go left; and (2ml + w) mod 2w, which decides the side of the next."""
    part, w = np.asarray(left), np.asarray(weight)
    q = m // w
    product = 2 * (m - q * w) * part + w
    rounded = product // (2 * w)
    return q * part + rounded, product - rounded * (2 * w)


def _lefts_of_one(m: int, left: int, weight: int) -> int:
    """`_lefts` for a single `m`, in integers of any size: ⌊(2ml + w) / 2w⌋."""
    return (2 * m * left + weight) // (2 * weight)


def _isqrt(value: Integers) -> Integers:
    """⌊√value⌋ for 0 <= value <= 2^62.

    Rounding to float is monotone, and the float root of a rounded square k² is k: so the float root is never
    too small, and too large by at most one, just below a square.
    """
    root = np.sqrt(np.asarray(value).astype(np.float64)).astype(np.int64)
    return np.asarray(root - (root * root > value))
