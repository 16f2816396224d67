"""The reference oracle of the order: the design's definitions walked one sequence at a time, with fractions and lists.

Nothing here is taken from the implementation: no closed form, no numpy, no position is ever computed, only reached.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import Any


def nearest(number: int, whole: int) -> int:
    """`number / whole` rounded, halves upwards, in whole numbers without bounds."""
    return (2 * number + whole) // (2 * whole)


class Node:
    """A split of two, or a source; it is given each sequence that reaches it."""

    def __init__(self, weight: Fraction, name: str, left: Node | None = None, right: Node | None = None) -> None:
        self.weight, self.name, self.left, self.right, self.reached = weight, name, left, right, 0
        self.share = left.weight / weight if left is not None else Fraction(0)

    def next(self) -> str:
        if self.left is None or self.right is None:
            return self.name
        part, whole = self.share.numerator, self.share.denominator
        before, after = nearest(self.reached * part, whole), nearest((self.reached + 1) * part, whole)
        self.reached += 1
        return (self.left if after > before else self.right).next()


def tree(weights: Mapping[str, Fraction]) -> Node:
    """The two lightest are joined, ties by the smallest name inside, until one is left."""
    nodes = [Node(weight, name) for name, weight in weights.items() if weight]
    while len(nodes) > 1:
        nodes.sort(key=lambda node: (node.weight, node.name))
        left, right = nodes.pop(0), nodes.pop(0)
        nodes.append(Node(left.weight + right.weight, min(left.name, right.name), left, right))
    return nodes[0]


@dataclass
class Mixing:
    """What sequences are drawn from: a tree, or for `length` sequences two of them, the second more and more."""

    shares: dict[str, Fraction]
    after: Node
    before: Node | None = None
    shares_before: dict[str, Fraction] = field(default_factory=dict)
    length: int = 0
    taken: int = 0
    in_ramp: bool = False

    def next(self) -> str:
        self.in_ramp = self.before is not None and self.taken < self.length
        if not self.in_ramp:
            return self.after.next()
        assert self.before is not None
        i, n = self.taken, self.length
        self.taken += 1
        # the share of `after` is i/n, and i²/2n what it comes to
        gone, going = nearest(i * i, 2 * n), nearest((i + 1) ** 2, 2 * n)
        return (self.after if going > gone else self.before).next()

    def in_force(self) -> dict[str, Fraction]:
        """Shares where the last sequence was drawn."""
        if not self.in_ramp:
            return self.shares
        gone = Fraction(self.taken, self.length)
        names = {*self.shares, *self.shares_before}
        return {
            name: self.shares_before.get(name, Fraction()) * (1 - gone) + self.shares.get(name, Fraction()) * gone
            for name in names
        }


def shares_of(weights: Mapping[str, int]) -> dict[str, Fraction]:
    return {name: Fraction(weight, sum(weights.values())) for name, weight in weights.items()}


def copied(mixing: Mixing) -> Mixing:
    def node(one: Node | None) -> Node | None:
        if one is None:
            return None
        new = Node(one.weight, one.name, node(one.left), node(one.right))
        new.reached = one.reached
        return new

    after = node(mixing.after)
    assert after is not None
    return Mixing(
        dict(mixing.shares),
        after,
        node(mixing.before),
        dict(mixing.shares_before),
        mixing.length,
        mixing.taken,
        mixing.in_ramp,
    )


@dataclass
class Lineage:
    """Where a curriculum stands: its clock, its mixing, and how far it has come in each source's passes."""

    step: int = 0
    position: int = 0
    mixing: Mixing | None = None
    used: dict[str, int] = field(default_factory=dict)
    restarted: dict[str, tuple[int, int]] = field(default_factory=dict)  # source: (item, pass) of the last restart
    reseeds: list[tuple[dict[str, int], int]] = field(default_factory=list)  # what was used then, and the data seed
    skips: list[tuple[int, int]] = field(default_factory=list)  # of the stage under way, those that are to come

    def copy(self) -> Lineage:
        mixing = copied(self.mixing) if self.mixing else None
        used, restarted = dict(self.used), dict(self.restarted)
        return Lineage(self.step, self.position, mixing, used, restarted, list(self.reseeds), list(self.skips))


@dataclass(frozen=True)
class Text:
    """A source: how many windows it has, and whether they are read in order."""

    windows: int
    in_order: bool = False


Slot = tuple[str, int, int]
"""Source, pass and window."""


def take(
    lineage: Lineage, stage: Mapping[str, Any], texts: Mapping[str, Text], *, seed: int, length: int
) -> Iterator[tuple[int, list[Slot]]]:
    """Take the stage's steps one by one: `(step, slots)`; `lineage` moves along and may be copied in between."""
    _enter(lineage, stage, texts, length)
    levels = sorted(stage.get("levels", ()))  # (position, batch) of what is not the stage's first batch
    lineage.skips = sorted(stage.get("skip", ()))
    while lineage.position < stage["until"]:
        batch = [stage["batch"], *(batch for position, batch in levels if position <= lineage.position)][-1]
        while lineage.skips and lineage.position >= lineage.skips[0][0]:
            begin, end = lineage.skips.pop(0)
            thrown = 0
            while thrown < end - begin:
                for _ in range(batch):
                    _item(lineage)
                thrown += batch * length
        items = [_item(lineage) for _ in range(batch)]
        read = [(name, *_window(lineage, texts[name], name, item, seed)) for name, item in items]
        turn = _turn(seed, lineage.step, batch)
        slots = [read[(slot + turn) % batch] for slot in range(batch)]
        step = lineage.step
        lineage.step += 1
        lineage.position += batch * length
        yield step, slots


def joined(stage: Mapping[str, Any], left: Mapping[str, Any]) -> dict[str, Any]:
    """A branch's first stage with what was `left` undone of the stage that it branches in.

    A restart and a data seed happen all the same; a mixture that the branch states takes the place of a mixture, its
    ramp and skips.
    """
    both = dict(stage)
    if left.get("restart"):
        both["restart"] = True
    both["data_seeds"] = [*left.get("data_seeds", ()), *stage.get("data_seeds", ())]
    if "mixture" not in stage:
        both |= {key: left[key] for key in ("mixture", "ramp") if key in left}
        both["skip"] = [*left.get("skip", ()), *stage.get("skip", ())]
    return both


def _enter(lineage: Lineage, stage: Mapping[str, Any], texts: Mapping[str, Text], length: int) -> None:
    old, ramp = lineage.mixing, -(-stage.get("ramp", 0) // length)
    if stage.get("restart"):
        for name in texts:
            used = lineage.used.get(name, 0)
            item, number = lineage.restarted.get(name, (0, 0))
            while item < used:  # whole passes, also one that was broken off
                item, number = item + texts[name].windows, number + 1
            lineage.restarted[name] = (used, number)
    lineage.reseeds += [(dict(lineage.used), data_seed) for data_seed in stage.get("data_seeds", ())]
    if "mixture" not in stage:
        return  # nothing is said of it: it goes on as it was, also along a ramp
    shares = shares_of(stage["mixture"])
    if old is None:
        lineage.mixing = Mixing(shares, tree(shares))
    elif not ramp:
        # the same mixture is gone on with, and a ramp to it that was left half-way is over
        lineage.mixing = Mixing(shares, old.after if old.shares == shares else tree(shares))
    else:
        before = tree(old.in_force()) if old.in_ramp else old.after
        lineage.mixing = Mixing(shares, tree(shares), before, old.in_force(), ramp)


def _item(lineage: Lineage) -> tuple[str, int]:
    assert lineage.mixing is not None
    name = lineage.mixing.next()
    item = lineage.used.get(name, 0)
    lineage.used[name] = item + 1
    return name, item


def _window(lineage: Lineage, text: Text, name: str, item: int, seed: int) -> tuple[int, int]:
    begin, number = lineage.restarted.get(name, (0, 0))
    while item >= begin + text.windows:
        begin, number = begin + text.windows, number + 1
    if text.in_order:
        return number, item - begin
    windows = order(seed, name, number, text.windows)
    for used, data_seed in lineage.reseeds:
        read = max(0, used.get(name, 0) - begin)  # of this pass; what is left of it is put in another order
        rest = windows[read:]
        again = order(seed, name, number, len(rest), data_seed, used.get(name, 0)) if rest else []
        windows = [*windows[:read], *(rest[place] for place in again)]
    return number, windows[item - begin]


# --- keyed arithmetic, in whole numbers ---------------------------------------------------------------------


def _hashed(purpose: bytes, parts: list[int | str]) -> bytes:
    message = b"".join(len(str(p).encode()).to_bytes(8, "little") + str(p).encode() for p in parts)
    return hashlib.blake2b(message, digest_size=64, person=purpose).digest()


@lru_cache(maxsize=4096)
def _turn(seed: int, step: int, batch: int) -> int:
    key = int.from_bytes(_hashed(b"curriculum/slots", [1, seed, step])[:16], "little")
    return key * batch // 2**128


@lru_cache(maxsize=4096)
def order(seed: int, source: str, number: int, size: int, *further: int) -> list[int]:
    """A pass over a source of at most 256 windows: twenty-four rounds on the smallest grid that is nearly square.

    `further` is a data seed, and the item from which on it holds.
    """
    parts: list[int | str] = [1, seed, source, number, "0", *further]
    purpose = b"curriculum/rest" if further else b"curriculum/order"
    stream = b"".join(_hashed(purpose, [*parts, *more]) for more in ([], [1], [2]))
    keys = [int.from_bytes(stream[at : at + 8], "little") for at in range(0, 192, 8)]
    columns = next(b for b in range(1, 20) if b * b >= size)
    rows = -(-size // columns)

    def below(value: int, key: int, side: int) -> int:
        x = (value + key) % 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return (x // 2**32) * side // 2**32

    def moved(cell: int) -> int:
        row, column = divmod(cell, columns)
        for turn, key in enumerate(keys):
            if turn % 2 == 0:
                row = (row + below(column, key, rows)) % rows
            else:
                column = (column + below(row, key, columns)) % columns
        return row * columns + column

    windows = []
    for place in range(size):
        cell = moved(place)
        while cell >= size:
            cell = moved(cell)
        windows.append(cell)
    return windows
