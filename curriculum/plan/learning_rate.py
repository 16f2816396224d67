"""The learning-rate schedule as a pure function of the position.

Positions count tokens from the curriculum's root, so a change of batch moves neither the curve nor a boundary. A step
uses the rate at the position where it *ends*, so that the first step of a warm-up does not train at zero.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

Shape: TypeAlias = Literal["cosine", "wsd", "linear", "constant"]
DecayShape: TypeAlias = Literal["linear", "sqrt"]

LARGEST_POSITION: Final = 2**62
"""In tokens, so that every position fits a signed 64-bit integer."""


@dataclass(frozen=True, slots=True)
class Rewarm:
    """A straight line from `value` at position `start` to the curve's own value `tokens` later."""

    start: int
    tokens: int
    value: float


@dataclass(frozen=True, slots=True)
class LearningRate:
    """A learning-rate curve over positions in tokens.

    From 0 to `warmup`: a straight line from 0 to `max`. Then, up to `horizon`:

    - `cosine`: half a cosine from `max` to `min` (as TinyLlama's and nanoGPT's `get_lr`);
    - `linear`: a straight line from `max` to `min`;
    - `wsd` (warm-up, stable, decay): `max`, until the last `decay` tokens fall to `min`, in a straight line
      (`decay_shape="linear"`) or as 1 - √progress (`"sqrt"`, Hägele et al. 2024);
    - `constant`: `max` without end; it needs no `min` and no `horizon`.

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

    def __post_init__(self) -> None:
        if self.shape not in get_args(Shape):
            raise ValueError(f"a learning rate has no shape {self.shape}; there are {', '.join(get_args(Shape))}")
        if self.decay_shape not in get_args(DecayShape):
            raise ValueError(f"a decay is linear or sqrt, not {self.decay_shape}")
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
        if self.shape != "wsd" and self.decay:
            raise ValueError(f"only the shape wsd has a decay, {self.shape} has none")
        if self.rewarm is not None and not (
            0 <= self.rewarm.start <= LARGEST_POSITION
            and 0 < self.rewarm.tokens <= LARGEST_POSITION
            and 0 <= self.rewarm.value < math.inf
        ):
            raise ValueError(f"a rewarm has a start, a length above zero and a rate, not {self.rewarm}")

    def at(self, position: int) -> float:
        """The rate of the step that ends at `position` (tokens from the root)."""
        if not 0 <= position <= LARGEST_POSITION:
            raise ValueError(f"a position must be from 0 to 2^62 tokens, not {position:,}")
        if self.rewarm is not None:
            start, tokens, value = self.rewarm.start, self.rewarm.tokens, self.rewarm.value
            if start <= position < start + tokens:
                return value + (position - start) / tokens * (self._curve(start + tokens) - value)
        return self._curve(position)

    def _curve(self, position: int) -> float:
        if position < self.warmup:
            return position / self.warmup * self.max
        falls_from = self.falls_from
        if falls_from is None:
            return self.max
        if position >= self.horizon:
            return self.min
        if position <= falls_from:
            return self.max
        progress = (position - falls_from) / (self.horizon - falls_from)
        if self.shape == "cosine":
            factor = 0.5 * (1.0 + math.cos(math.pi * progress))
        elif self.shape == "wsd" and self.decay_shape == "sqrt":
            factor = 1.0 - math.sqrt(progress)
        else:
            factor = 1.0 - progress
        return self.min + factor * (self.max - self.min)

    # --- piecewise form: two curves with equal forms at a position have equal values there ---------------------

    @property
    def falls_from(self) -> int | None:
        """The last position at which the rate is still `max`; None when it never falls."""
        if self.shape == "constant":
            return None
        return self.horizon - self.decay if self.shape == "wsd" else self.warmup

    def form(self, position: int) -> tuple[object, ...]:
        """The formula at `position` with its parameters; constant up to the next of `breaks`."""
        rewarm = self.rewarm
        if rewarm is not None and rewarm.start <= position < rewarm.start + rewarm.tokens:
            return ("line", rewarm, self._curve(rewarm.start + rewarm.tokens))
        if position < self.warmup:
            return ("warm-up", self.warmup, self.max)
        fall = self.falls_from
        if fall is None or (position <= fall and position < self.horizon):
            return ("steady", self.max)
        if position >= self.horizon:
            return ("steady", self.min)
        curve = {"cosine": "cosine", "linear": "linear", "wsd": self.decay_shape}[self.shape]
        return (curve, fall, self.horizon, self.max, self.min)

    def breaks(self) -> list[int]:
        """Every position at which the form may change, ascending."""
        breaks = {self.warmup}
        if self.falls_from is not None:
            breaks |= {self.falls_from + 1, self.horizon}
        if self.rewarm is not None:
            breaks |= {self.rewarm.start, self.rewarm.start + self.rewarm.tokens}
        return sorted(breaks)

    def until(self, position: int) -> dict[str, Any]:
        """The fields that decide the curve up to `position`: those of a decay or a rewarm after it are None."""
        value = asdict(self)
        reached = position
        if self.rewarm is not None and position < self.rewarm.start:
            value["rewarm"] = None
        elif self.rewarm is not None:
            reached = max(position, self.rewarm.start + self.rewarm.tokens)
        if self.falls_from is None or reached <= self.falls_from:
            value.update(dict.fromkeys(("shape", "min", "horizon", "decay", "decay_shape")))
        return value
