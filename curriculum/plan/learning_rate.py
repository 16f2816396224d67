"""The learning-rate schedule as a pure function of the position.

Positions count tokens from the curriculum's root, so a change of batch moves neither the curve nor a boundary. A step
uses the rate at the position where it *ends*, so that the first step of a warm-up does not train at zero.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeAlias, get_args

from curriculum import fs
from curriculum.plan.rate_forms import (
    LARGEST_POSITION as LARGEST_POSITION,
    DecayShape,
    Form,
    Piece,
    Point,
    check_points,
    joined,
    pieces_through,
    value_of,
)

Shape: TypeAlias = Literal["cosine", "wsd", "linear", "constant", "points"]


@dataclass(frozen=True, slots=True)
class Rewarm:
    """A straight line from `value` at position `start` to the curve's own value `tokens` later."""

    start: int
    tokens: int
    value: float


@dataclass(frozen=True)
class LearningRate:
    """A learning-rate curve over positions in tokens.

    From 0 to `warmup`: a straight line from 0 to `max`. Then, up to `horizon`:

    - `cosine`: half a cosine from `max` to `min` (as TinyLlama's and nanoGPT's `get_lr`);
    - `linear`: a straight line from `max` to `min`;
    - `wsd` (warm-up, stable, decay): `max`, until the last `decay` tokens fall to `min`: in a straight line
      (`decay_shape="linear"`), as 1 - √progress (`"sqrt"`, Hägele et al. 2024), half a cosine or exponentially;
    - `constant`: `max` without end; it needs no `min` and no `horizon`;
    - `points`: through `points`, whose first ends the warm-up and whose last is the horizon (`through` makes it).

    At and beyond the horizon: `min`. `rewarm` replaces the curve between its start and its end. Raises ValueError for
    contradictory numbers; equal `max` and `min` once made TinyLlama train at a constant rate unnoticed.
    """

    shape: Shape
    max: float
    min: float = 0.0
    warmup: int = 0
    horizon: int = 0
    decay: int = 0
    decay_shape: DecayShape = "linear"
    rewarm: Rewarm | None = None
    points: tuple[Point, ...] = field(default=(), metadata=fs.ADDED_LATER)

    @staticmethod
    def through(points: Sequence[Point]) -> LearningRate:
        """The curve through `points`; ValueError for points that no curve goes through."""
        check_points(points)
        return LearningRate("points", points=tuple(points), **_bounds(points))

    def __post_init__(self) -> None:
        if self.shape not in get_args(Shape):
            raise ValueError(f"a learning rate has no shape {self.shape}; there are {', '.join(get_args(Shape))}")
        if self.decay_shape not in get_args(DecayShape):
            raise ValueError(f"a decay is {', '.join(get_args(DecayShape))}, not {self.decay_shape}")
        if (self.shape == "points") != bool(self.points):
            raise ValueError(f"points belong to the shape points, and the shape {self.shape} has {len(self.points)}")
        if self.shape == "points":
            self._check_points()
        else:
            self._check_numbers()
        if self.rewarm is not None and not (
            0 <= self.rewarm.start <= LARGEST_POSITION
            and 0 < self.rewarm.tokens <= LARGEST_POSITION
            and 0 <= self.rewarm.value < math.inf
        ):
            raise ValueError(f"a rewarm has a start, a length above zero and a rate, not {self.rewarm}")

    def _check_points(self) -> None:
        check_points(self.points)
        bounds = {"max": self.max, "min": self.min, "warmup": self.warmup, "horizon": self.horizon}
        if self.decay or bounds != _bounds(self.points):
            raise ValueError(f"the bounds {bounds} are not those of the points of the curve, {_bounds(self.points)}")
        if not self.max > 0:
            raise ValueError("every point of the learning rate is 0: nothing would be learnt")

    def _check_numbers(self) -> None:
        if not (math.isfinite(self.max) and self.min >= 0):
            raise ValueError(f"a learning rate is a finite number from 0 up, not from {self.min} to {self.max}")
        if not self.max > self.min:
            raise ValueError(
                f"the largest learning rate, {self.max:g}, is not above the smallest, {self.min:g}; "
                "use the shape constant for a rate that stays"
            )
        for what, tokens in (("warm-up", self.warmup), ("horizon", self.horizon), ("decay", self.decay)):
            if not 0 <= tokens <= LARGEST_POSITION:
                raise ValueError(f"the {what} of a learning rate must be from 0 to 2^62 tokens, not {tokens:,}")
        if self.shape != "constant" and self.horizon <= self.warmup:
            raise ValueError(f"the horizon, {self.horizon:,} tokens, is not after the warm-up, {self.warmup:,} tokens")
        if self.shape == "wsd" and not 0 < self.decay <= self.horizon - self.warmup:
            raise ValueError(
                f"the decay, {self.decay:,} tokens, does not fit between the end of the warm-up "
                f"and the horizon, which are {self.horizon - self.warmup:,} tokens apart"
            )
        if self.shape == "wsd" and self.decay_shape == "exponential" and not self.min > 0:
            raise ValueError("an exponential decay never reaches 0: its smallest rate must be above it")
        if self.shape != "wsd" and self.decay:
            raise ValueError(f"only the shape wsd has a decay, {self.shape} has none")

    def at(self, position: int) -> float:
        """The rate of the step that ends at `position` (tokens from the root)."""
        if not 0 <= position <= LARGEST_POSITION:
            raise ValueError(f"a position must be from 0 to 2^62 tokens, not {position:,}")
        return value_of(self.form(position), position)

    # --- piecewise form: two curves with equal forms at a position have equal values there ---------------------

    @property
    def falls_from(self) -> int | None:
        """The last position at which the rate is still `max`; None when it never falls, and for `points`."""
        if self.shape in ("constant", "points"):
            return None
        return self.horizon - self.decay if self.shape == "wsd" else self.warmup

    @property
    def last_fall(self) -> int | None:
        """Where the fall to `min` at the end begins, of a curve that has stayed or risen before; else None."""
        if self.shape == "wsd":
            return self.falls_from
        last = self.points[-2:]
        falls = len(last) == 2 and last[0].rate > last[1].rate and last[0].then not in ("constant", "power")
        return last[0].at if falls else None

    @cached_property
    def _pieces(self) -> tuple[Piece, ...]:
        if self.shape == "points":
            return pieces_through(self.points)
        pieces: list[Piece] = [(0, ("warm-up", self.warmup, self.max))] if self.warmup else []
        pieces.append((self.warmup, ("steady", self.max)))
        if (fall := self.falls_from) is not None:
            curve = self.decay_shape if self.shape == "wsd" else self.shape
            pieces.append((fall + 1, (curve, fall, self.horizon, self.max, self.min)))
            pieces.append((self.horizon, ("steady", self.min)))
        return joined(pieces)

    def form(self, position: int) -> Form:
        """The formula at `position` with its parameters; constant up to the next of `breaks`."""
        rewarm = self.rewarm
        if rewarm is not None and rewarm.start <= position < (end := rewarm.start + rewarm.tokens):
            return ("line", rewarm, value_of(self._form(end), end))
        return self._form(position)

    def _form(self, position: int) -> Form:
        """The formula at `position` of the curve without its rewarm."""
        return self._pieces[bisect.bisect_right(self._pieces, position, key=lambda piece: piece[0]) - 1][1]

    def breaks(self) -> list[int]:
        """Every position at which the form may change, ascending."""
        breaks = {start for start, _ in self._pieces if start}
        if self.rewarm is not None:
            breaks |= {self.rewarm.start, self.rewarm.start + self.rewarm.tokens}
        return sorted(breaks)

    def until(self, position: int) -> dict[str, Any]:
        """The fields that decide the curve up to `position`: those of a decay or a rewarm after it are None.

        Of `points` these are the pieces that begin up to `position`.
        """
        value = asdict(self)
        del value["points"]
        reached = position
        if self.rewarm is not None and position < self.rewarm.start:
            value["rewarm"] = None
        elif self.rewarm is not None:
            reached = max(position, self.rewarm.start + self.rewarm.tokens)
        if self.shape == "points":
            pieces = [piece for piece in self._pieces if piece[0] <= reached]
            return {"shape": self.shape, "pieces": pieces, "rewarm": value["rewarm"]}
        if self.falls_from is None or reached <= self.falls_from:
            value.update(dict.fromkeys(("shape", "min", "horizon", "decay", "decay_shape")))
        return value


def _bounds(points: Sequence[Point]) -> dict[str, Any]:
    """The fields of a curve that follow from its points."""
    return {
        "max": max(point.rate for point in points),
        "min": points[-1].rate,
        "warmup": points[0].at,
        "horizon": points[-1].at,
    }
