"""`learning_rate` of a stage file: the shapes of a curve, their keys, and what one file suffices to refuse."""

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any, Final, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from curriculum.config.entry import (
    Entry,
    LearningRate,
    LearningRateOrZero,
    Position,
    PositionOrZero,
    Positions,
    Rate,
    Span,
    lacks,
)
from curriculum.config.fields import Refusal
from curriculum.units import Length


@dataclass(frozen=True, slots=True)
class _Keys:
    """The keys of a shape: those that it needs, and those that it may have."""

    needs: tuple[str, ...]
    may: tuple[str, ...] = ()


_FALL: Final = ("decay_shape", "half_life")
_SHAPES: Final = {
    "cosine": _Keys(("max", "min", "horizon"), ("warmup",)),
    "wsd": _Keys(("max", "min", "horizon", "decay"), ("warmup", *_FALL)),
    "linear": _Keys(("max", "min", "horizon"), ("warmup",)),
    "constant": _Keys(("max",), ("warmup",)),
    "exponential": _Keys(("max", "min", "horizon"), ("warmup", "half_life")),
    "power": _Keys(("max", "warmup", "horizon"), ("exponent", "min", "decay", *_FALL)),
    "wsd-s": _Keys(("max", "min", "cycles", "decay"), ("warmup", "return", *_FALL)),
    "points": _Keys(("points",)),
    "decay": _Keys(("min", "decay"), _FALL),
}
_WSD_FALLS: Final = "wsd falls at its end, as in `decay: 200B`"
_WSD_DECAY: Final = ("wsd", "decay")


def _schema() -> list[Any]:
    """What `_consistent_shape` refuses, for editors; of shape and keys, not of the rates."""
    every = sorted({key for keys in _SHAPES.values() for key in (*keys.needs, *keys.may)})
    rules: list[dict[str, Any]] = []
    for shape, keys in _SHAPES.items():
        others = {key: False for key in every if key not in (*keys.needs, *keys.may)}
        halves = "min" in keys.needs and "half_life" in keys.may
        needs = [key for key in keys.needs if key != "min" or not halves]
        then: dict[str, Any] = {"required": needs, "properties": others}
        if halves:
            then["oneOf"] = [{"required": ["min"]}, {"required": ["half_life"]}]
        rules.append({"if": {"required": ["shape"], "properties": {"shape": {"const": shape}}}, "then": then})
    return rules


class PointEntry(Entry):
    """A point of the curve, and how the rate moves from there to the next one."""

    at: PositionOrZero = Field(description="Position, in tokens or in steps of the root's first batch; as in `1.6T`.")
    rate: LearningRateOrZero = Field(description="The rate of the step that ends there; as in `4.2e-4`.")
    then: Literal["linear", "constant", "cosine", "exponential"] = Field(
        default="linear", description="How the rate moves to the next point; a `constant` one jumps behind it."
    )


class LearningRateEntry(Entry):
    """One curve over the curriculum, on the token clock."""

    model_config = ConfigDict(json_schema_extra={"allOf": _schema()})

    shape: Literal["cosine", "wsd", "linear", "constant", "exponential", "power", "wsd-s", "points", "decay"] = Field(
        description="How the rate moves after the warm-up; as in `cosine`."
    )
    max: LearningRate | None = Field(
        default=None, description="The highest value, reached at the end of the warm-up; as in `4e-4`."
    )
    min: LearningRateOrZero = Field(
        default=Fraction(0), description="The value at the horizon and beyond; as in `4e-5`."
    )
    warmup: Span | None = Field(default=None, description="Straight rise from 0; as in `2000 steps`.")
    horizon: Position = Field(default=Length(0, "tokens"), description="Where the fall ends; as in `2T`.")
    decay: Span | None = Field(
        default=None,
        description="How long the fall is: wsd's ends at the horizon, that of `decay` begins with the stage, "
        "in whose steps it may be given.",
    )
    decay_shape: Literal["linear", "sqrt", "1-sqrt", "cosine", "exponential"] = Field(
        default="linear", description="The fall: straight, 1 - √ of the part gone, half a cosine or exponential."
    )
    half_life: Span | None = Field(
        default=None, description="In place of `min`: how long an exponential fall takes to halve the rate."
    )
    exponent: Rate = Field(
        default=Fraction(1, 2), description="power's: the rate is max * (warmup / position)^exponent."
    )
    cycles: Positions | None = Field(
        default=None, description="wsd-s's: where each fall ends, behind which the rate is max again."
    )
    return_: Span | None = Field(
        default=None, alias="return", description="wsd-s's: a straight rise back to max; at once unless stated."
    )
    points: tuple[PointEntry, ...] | None = Field(
        default=None,
        description="What the curve goes through, in order; as in `[{at: 2000 steps, rate: 4e-4}]`.",
        json_schema_extra={"minItems": 1},
    )

    @model_validator(mode="after")
    def _consistent_shape(self) -> Self:
        fields = {field.alias or name: field for name, field in type(self).model_fields.items()}
        stated = [key for key, field in fields.items() if _name(key) in self.model_fields_set]
        shape = _SHAPES[self.shape]
        for key in fields:
            if key in stated and key not in ("shape", *shape.needs, *shape.may):
                raise Refusal(f"is not supported with `shape: {self.shape}`", _owners(key), key)
            if key in shape.needs and key not in stated and not (key == "min" and self.half_life is not None):
                hint = fields[key].description
                raise Refusal(f"lacks `{key}`", _WSD_FALLS) if (self.shape, key) == _WSD_DECAY else lacks(key, hint)
        exponential = "exponential" in (self.shape, self.decay_shape)
        if self.half_life is not None and not exponential:
            message = f"is not supported with `decay_shape: {self.decay_shape}`"
            raise Refusal(message, "only an exponential fall halves the rate again and again", "half_life")
        if self.half_life is not None and "min" in stated:
            raise Refusal("is one too many: `min` is given as well", "a half-life decides the last value", "half_life")
        if self.shape == "power" and self.decay is None:
            for key in ("min", *_FALL):
                if key in stated:
                    raise Refusal("needs a `decay`", "without one the rate follows the power up to the horizon", key)
        if exponential and self.half_life is None and self.shape != "power" and not self.min:
            raise Refusal("must be above 0", "an exponential fall never reaches 0; `half_life` may replace it", "min")
        min_below_max(self.min, self.max)
        self._check_points()
        self._check_cycles()
        return self

    def _check_points(self) -> None:
        points = self.points or ()
        if self.shape == "points" and not points:
            raise Refusal("is empty", "as in `[{at: 2000 steps, rate: 4e-4}, {at: 2T, rate: 4e-5}]`", "points")
        if points and not any(point.rate for point in points):
            raise Refusal("has no rate above 0", "as in `{at: 2000 steps, rate: 4e-4}`", "points")
        for number, (point, after) in enumerate(pairwise(points)):
            same_unit = point.at.unit == after.at.unit
            if same_unit and after.at.amount < point.at.amount:
                hint = "points are listed in the order of their positions, which count from the root"
                raise Refusal(f"is out of order: {after.at} comes after {point.at}", hint, "points", number + 1, "at")
            jump = same_unit and after.at == point.at
            if point.then == "exponential" and not jump and not (point.rate and after.rate):
                at = number if not point.rate else number + 1
                raise Refusal("must be above 0", "an exponential movement never reaches 0", "points", at, "rate")
        for number, (point, last) in enumerate(zip(points, points[2:], strict=False)):
            if point.at == last.at:
                hint = "two points at one position are a jump: the rate up to it, and the rate behind it"
                raise Refusal(f"is the third point at {last.at}", hint, "points", number + 2, "at")

    def _check_cycles(self) -> None:
        for before, after in pairwise(self.cycles or ()):
            if after.amount <= before.amount:
                hint = "the positions at which the rate is lowest follow each other, as in `[50B, 100B, 200B]`"
                raise Refusal(f"is out of order: {after} comes after {before}", hint, "cycles")


def _name(key: str) -> str:
    """The name of the field of a key."""
    return "return_" if key == "return" else key


def _owners(key: str) -> str:
    """The hint for a key that the stated shape does not have."""
    if key in ("min", "horizon", "max"):
        return "leave it out, or take another shape"
    shapes = [name for name, keys in _SHAPES.items() if key in (*keys.needs, *keys.may)]
    if shapes[0] == "wsd":
        return "it belongs to the shape wsd"
    return f"it belongs to the shape {' and '.join(shapes) if len(shapes) < 3 else shapes[0]}"


def min_below_max(low: Fraction | None, high: Fraction | None) -> None:
    if low is not None and high is not None and low >= high:
        shown = f"of {float(low):g} is not below `max`, {float(high):g}"
        raise Refusal(shown, "a rate that stays is `shape: constant`; else one of the two is mistyped", "min")
