"""The formulas of which a learning-rate curve is made, each over a range of positions.

A form is a tuple of its name and its numbers; equal forms have equal values at equal positions, and so two curves are
compared without a visit of every step. A piece is the first position of a form, which holds up to the next piece.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal, TypeAlias, get_args

Form: TypeAlias = tuple[Any, ...]
Piece: TypeAlias = tuple[int, Form]

DecayShape: TypeAlias = Literal["linear", "sqrt", "cosine", "exponential"]
Between: TypeAlias = Literal["linear", "sqrt", "cosine", "exponential", "constant", "power"]

LARGEST_POSITION: Final = 2**62
"""In tokens, so that every position fits a signed 64-bit integer."""


@dataclass(frozen=True, slots=True)
class Point:
    """A rate at position `at`, and how the rate moves from there to the next point.

    `linear`, `sqrt` (1 - √progress), `cosine` (half a cosine) and `exponential` meet the next point's rate. `constant`
    stays and `power` is `rate * (at / position) ** exponent`, up to the next point; behind it the rate jumps.
    """

    at: int
    rate: float
    then: Between = "linear"
    exponent: float | None = None


def value_of(form: Form, position: int) -> float:
    """The rate that `form` gives at `position`, in tokens from the root."""
    name = form[0]
    if name == "steady":
        return float(form[1])
    if name == "warm-up":
        return float(position / form[1] * form[2])
    if name == "line":
        rewarm, target = form[1], form[2]
        return float(rewarm.value + (position - rewarm.start) / rewarm.tokens * (target - rewarm.value))
    if name == "power":
        begin, rate, exponent = form[1:]
        return float(rate * (begin / position) ** exponent)
    begin, end, first, last = form[1:]
    progress = (position - begin) / (end - begin)
    if name == "exponential":
        return float(first * (last / first) ** progress)
    if name == "cosine":
        factor = 0.5 * (1.0 + math.cos(math.pi * progress))
    elif name == "sqrt":
        factor = 1.0 - math.sqrt(progress)
    else:
        factor = 1.0 - progress
    return float(last + factor * (first - last))


def check_points(points: Sequence[Point]) -> None:
    """ValueError for points out of order, a rate that is no number, or a movement that its rates do not allow."""
    if not points:
        raise ValueError("the shape points has no points")
    for point in points:
        if not 0 <= point.at <= LARGEST_POSITION:
            raise ValueError(f"the position of a point must be from 0 to 2^62 tokens, not {point.at:,}")
        if not 0 <= point.rate < math.inf:
            raise ValueError(f"the rate of a point is a finite number from 0 up, not {point.rate}")
        if point.then not in get_args(Between):
            raise ValueError(f"from point to point a rate moves {', '.join(get_args(Between))}, not {point.then}")
        if (point.then == "power") != (point.exponent is not None):
            raise ValueError("an exponent belongs to a point whose rate moves by a power, and to no other")
        if point.exponent is not None and not (point.at > 0 and 0 < point.exponent < math.inf):
            raise ValueError("a power of the position needs a position and an exponent above 0")
    for point, after in pairwise(points):
        if after.at < point.at:
            raise ValueError(f"the points are out of order: {after.at:,} tokens come after {point.at:,}")
        if point.then == "exponential" and after.at > point.at and not (point.rate > 0 and after.rate > 0):
            raise ValueError(
                f"a rate moves exponentially between rates above 0, not from {point.rate:g} to {after.rate:g}"
            )
    for first, last in zip(points, points[2:], strict=False):
        if first.at == last.at:
            raise ValueError(f"three points are at {first.at:,} tokens: two are a jump, a third is one too many")


def pieces_through(points: Sequence[Point]) -> tuple[Piece, ...]:
    """The pieces of a curve through `points`: a straight rise from 0 to the first, the last one's rate for ever.

    Of two points at one position the first is the rate there, of the step that ends there; the second holds behind it.
    """
    first, last = points[0], points[-1]
    pieces: list[Piece] = [(0, ("warm-up", first.at, first.rate))] if first.at else []
    pieces.append((first.at, ("steady", first.rate)))
    for point, after in pairwise(points):
        if after.at == point.at:
            continue
        if point.then == "power":
            form: Form = ("power", point.at, point.rate, point.exponent)
        elif point.then == "constant" or point.rate == after.rate:
            form = ("steady", point.rate)
        else:
            form = (point.then, point.at, after.at, point.rate, after.rate)
        pieces.append((point.at + 1, form))
        if point.then not in ("constant", "power"):
            pieces.append((after.at, ("steady", after.rate)))
    pieces.append((last.at + 1, ("steady", last.rate)))
    return joined(pieces)


def joined(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """The pieces without empty ones, and without breaks between equal forms."""
    kept: list[Piece] = []
    for piece in pieces:
        if kept and kept[-1][0] == piece[0]:
            kept.pop()
        if not kept or kept[-1][1] != piece[1]:
            kept.append(piece)
    return tuple(kept)
