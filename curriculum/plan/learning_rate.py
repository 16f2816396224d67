"""The learning rate as a pure function of the token clock, and the exact arithmetic of step boundaries.

Positions count tokens from the curriculum's root, so a change of batch moves neither the curve nor a
boundary. A step uses the learning rate at the position where it *ends*: the first step of a warm-up is not
wasted on zero.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal, TypeAlias, get_args

Shape: TypeAlias = Literal["cosine", "wsd", "linear", "constant"]
DecayShape: TypeAlias = Literal["linear", "sqrt"]

LARGEST_POSITION: Final = 2**62
"""In tokens. Refused beyond: everything that reads a plan can hold a position in a signed 64-bit integer."""


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
      (`decay_shape="linear"`) or as 1 - √ of the part gone (`"sqrt"`, Hägele et al. 2024);
    - `constant`: `max`, for ever; it needs no `min` and no `horizon`.

    At and beyond the horizon: `min`. `rewarm` replaces the curve between its start and its end. Raises
    ValueError for a curve that cannot be meant; equal `max` and `min` once made TinyLlama train at a constant
    rate unnoticed.
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
            raise ValueError(
                f"a learning rate has no shape {self.shape}; there are {', '.join(get_args(Shape))}"
            )
        if self.decay_shape not in get_args(DecayShape):
            raise ValueError(f"a decay is linear or sqrt, not {self.decay_shape}")
        if not (math.isfinite(self.max) and self.min >= 0):
            raise ValueError(
                f"a learning rate is a finite number from 0 up, not from {self.min} to {self.max}"
            )
        if not self.max > self.min:
            raise ValueError(
                f"the largest learning rate, {self.max:g}, is not above the smallest, {self.min:g}; "
                "use the shape constant for a rate that stays"
            )
        for what, tokens in (("warm-up", self.warmup), ("horizon", self.horizon), ("decay", self.decay)):
            if not 0 <= tokens <= LARGEST_POSITION:
                raise ValueError(
                    f"the {what} of a learning rate lies from 0 to 2^62 tokens, not at {tokens:,}"
                )
        if self.shape != "constant" and self.horizon <= self.warmup:
            raise ValueError(
                f"the horizon, {self.horizon:,} tokens, is not after the warm-up, {self.warmup:,} tokens"
            )
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
            raise ValueError(f"a position lies from 0 to 2^62 tokens, not at {position:,}")
        if self.rewarm is not None:
            start, tokens, value = self.rewarm.start, self.rewarm.tokens, self.rewarm.value
            if start <= position < start + tokens:
                return value + (position - start) / tokens * (self._curve(start + tokens) - value)
        return self._curve(position)

    def _curve(self, position: int) -> float:
        if position < self.warmup:
            return position / self.warmup * self.max
        if self.shape == "constant":
            return self.max
        if position >= self.horizon:
            return self.min
        falls_from = self.horizon - self.decay if self.shape == "wsd" else self.warmup
        if position <= falls_from:
            return self.max
        gone = (position - falls_from) / (self.horizon - falls_from)
        if self.shape == "cosine":
            part = 0.5 * (1.0 + math.cos(math.pi * gone))
        elif self.shape == "wsd" and self.decay_shape == "sqrt":
            part = 1.0 - math.sqrt(gone)
        else:
            part = 1.0 - gone
        return self.min + part * (self.max - self.min)

    # --- what decides a value: two curves with equal forms at a position have equal values there --------------

    @property
    def falls_from(self) -> int | None:
        """The last position at which the rate is still `max`; None when it never falls."""
        if self.shape == "constant":
            return None
        return self.horizon - self.decay if self.shape == "wsd" else self.warmup

    def form(self, position: int) -> tuple[object, ...]:
        """The formula in force at `position` with all its numbers; the same until the next of `breaks`."""
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
        """Every position from which another form may be in force, in order."""
        found = {self.warmup}
        if self.falls_from is not None:
            found |= {self.falls_from + 1, self.horizon}
        if self.rewarm is not None:
            found |= {self.rewarm.start, self.rewarm.start + self.rewarm.tokens}
        return sorted(found)

    def until(self, position: int) -> dict[str, Any]:
        """The fields without what no position up to `position` has felt: a fall or a rewarm still ahead."""
        value = asdict(self)
        reached = position
        if self.rewarm is not None and position < self.rewarm.start:
            value["rewarm"] = None
        elif self.rewarm is not None:
            reached = max(position, self.rewarm.start + self.rewarm.tokens)
        if self.falls_from is None or reached <= self.falls_from:
            value.update(dict.fromkeys(("shape", "min", "horizon", "decay", "decay_shape")))
        return value

    def rewarmed(self, *, start: int, tokens: int, value: float) -> LearningRate:
        """This curve, joined `tokens` after `start` by a straight line from `value`; its only rewarm."""
        return replace(self, rewarm=Rewarm(start, tokens, value))


def steps_to(position: int, start: int, batch_tokens: int) -> int:
    """How many steps of `batch_tokens`, the first beginning at `start`, reach or pass `position`."""
    if batch_tokens < 1:
        raise ValueError(f"a batch has at least one token, not {batch_tokens:,}")
    if start < 0 or max(position, start) > LARGEST_POSITION - batch_tokens:
        raise ValueError(f"positions lie from 0 to 2^62 tokens; {start:,} and {position:,} do not both fit")
    return max(0, -((start - position) // batch_tokens))


def step_boundary(position: int, start: int, batch_tokens: int) -> int:
    """The first boundary at or past `position` of steps of `batch_tokens`, the first beginning at `start`."""
    return start + steps_to(position, start, batch_tokens) * batch_tokens


def sequences_to_hold(tokens: int, sequence_length: int) -> int:
    """⌈tokens / sequence_length⌉: how many whole sequences hold at least `tokens`."""
    if tokens < 0 or sequence_length < 1:
        raise ValueError(f"{tokens:,} tokens cannot be cut into sequences of {sequence_length:,}")
    return -(-tokens // sequence_length)
