"""The base model of all files: types of single values, and mappings with known keys.

Every error is a `fields.Refusal`, which `validation` gives its place.
"""

from fractions import Fraction
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, PlainSerializer, model_validator

from curriculum.config import fields
from curriculum.config.fields import LARGEST_COUNT, LARGEST_SIZE, BatchScale, Refusal
from curriculum.units import Length

# A dump holds a Fraction as a float, a length as its text.
_as_float = PlainSerializer(float, return_type=float)
_as_text = PlainSerializer(str, return_type=str)
_number, _length, _integer = fields.number, fields.length, fields.integer

Text = Annotated[str, fields.text]
Texts = Annotated[tuple[str, ...], fields.one_or_more(fields.text)]
Name = Annotated[str, fields.name]
Names = Annotated[tuple[str, ...], fields.one_or_more(fields.name)]
Evidence = Annotated[fields.Evidence, fields.evidence, PlainSerializer(str, return_type=str)]
Hub = Annotated[str, fields.hub]
Values = Annotated[tuple[str | int | bool, ...], fields.one_or_more(fields.column_value)]
Flag = Annotated[bool, fields.flag]
Layers = Annotated[
    int | tuple[int, ...],
    fields.layers,
    PlainSerializer(lambda some: some if isinstance(some, int) else list(some), return_type=Any),
]
FlagOrAuto = Annotated[bool | None, fields.flag_or_auto]

Size = Annotated[int, _integer(1, LARGEST_SIZE, "2048")]
SizeOrZero = Annotated[int, _integer(0, LARGEST_SIZE, "4")]
Window = Annotated[int, _integer(2, 10_000, "128")]
Seed = Annotated[int, _integer(0, LARGEST_COUNT, "3407")]
Count = Annotated[int, _integer(1, LARGEST_COUNT, "659B")]
TokenPosition = Annotated[int, _integer(1, LARGEST_COUNT, "1.2T", unit="token")]
Weight = Annotated[Fraction, _number("75", zero=True), _as_float]
Weights = Annotated[
    tuple[Fraction, ...],
    fields.one_or_more(_number("2")),
    PlainSerializer(lambda weights: [float(weight) for weight in weights], return_type=list[float]),
]
Passes = Annotated[Fraction, _number("4"), _as_float]
Rate = Annotated[Fraction, _number("4e-4"), _as_float]
RateOrZero = Annotated[Fraction, _number("4e-5", zero=True), _as_float]
LearningRate = Annotated[Fraction, fields.learning_rate("4e-4"), _as_float]
LearningRateOrZero = Annotated[Fraction, fields.learning_rate("4e-5", zero=True), _as_float]
Exponent = Annotated[Fraction, _number("0.5", most="1"), _as_float]
Betas = Annotated[
    tuple[Fraction, Fraction],
    fields.pair(_number("0.9", zero=True, most="0.999999")),
    PlainSerializer(lambda both: [float(beta) for beta in both], return_type=list[float]),
]
Scale = Annotated[Fraction, _number("1e-3", most="1"), _as_float]
HeldOutShare = Annotated[Fraction, _number("5%", most="50%"), _as_float]
Position = Annotated[Length, _length("1.5T", "tokens", explicit="number"), _as_text]
Positions = Annotated[
    tuple[Length, ...],
    fields.one_or_more(_length("1.2T", "tokens", explicit="number")),
    PlainSerializer(lambda positions: [str(position) for position in positions], return_type=list[str]),
]
PositionOrZero = Annotated[
    Length, _length("1.6T", "tokens", "steps", "sequences", explicit="number", zero=True), _as_text
]
Tokens = Annotated[Length, _length("350B", "tokens", "steps", "sequences", explicit="number"), _as_text]
Span = Annotated[Length, _length("2000 steps", "steps", "tokens", "sequences", explicit="scale"), _as_text]
Batch = Annotated[Length, _length("896 sequences", "sequences", "tokens", explicit="unit"), _as_text]
BatchScaling = Annotated[BatchScale, fields.batch_scale]
Throughput = Annotated[Fraction, fields.rate("tokens/s/gpu", "24k tokens/s/gpu"), _as_float]
Price = Annotated[Fraction, fields.rate("USD/gpu-hour", "2 USD/gpu-hour"), _as_float]
Memory = Annotated[int, fields.memory]
Label = Annotated[str, fields.label()]
Subdomain = Annotated[str, fields.label(dots=True)]
Quantity = Annotated[str, fields.quantity]
Peak = Annotated[Fraction, fields.rate("TFLOP/s", "989 TFLOP/s"), _as_float]


class Entry(BaseModel):
    """A mapping with known keys. An unknown key, a missing one and a key without a value are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, defer_build=True)
    one_of: ClassVar[tuple[str, ...]] = ()
    """Keys of which exactly one must be stated; `exactly_one` refuses the rest."""

    @model_validator(mode="before")
    @classmethod
    def _keys(cls, value: Any) -> Any:
        if isinstance(value, cls):
            return value
        keys = {field.alias or name: field for name, field in cls.model_fields.items()}
        if not isinstance(value, dict):
            empty = "; an empty one is written `{}`" if value is None else ""
            hint = f"its keys are: {', '.join(keys)}{empty}"
            raise Refusal(f"must be a mapping, not {fields.describe(value)}", hint)
        for key, item in value.items():
            if key not in keys:
                raise fields.unknown_key(key, keys)
            if item is None:
                hint = "give it one, or leave the key out"
                raise Refusal(f"gives `{key}` no value", hint, key, on_key=True)
        for key, field in keys.items():
            if field.is_required() and key not in value:
                raise lacks(key, field.description)
        return value


def lacks(key: str, description: str | None) -> Refusal:
    """The error for a mapping without `key`."""
    return Refusal(f"lacks `{key}`", f"add `{key}:`, {inside_a_sentence(description or '')}")


def inside_a_sentence(description: str) -> str:
    """A key's description without its capital, unless its first word is all capitals."""
    return description if description[1:2].isupper() else f"{description[:1].lower()}{description[1:]}"


def exactly_one(entry: Entry, hint: str) -> str:
    """The one of its `one_of` that the entry states; a Refusal for none and for several."""
    keys = entry.one_of
    set_keys = {type(entry).model_fields[name].alias or name for name in entry.model_fields_set}
    stated = [key for key in keys if key in set_keys]
    if not stated:
        raise Refusal(f"lacks one of {', '.join(f'`{key}`' for key in keys)}", hint)
    if len(stated) > 1:
        raise Refusal(f"is one too many: `{stated[0]}` is given as well", hint, stated[1])
    return stated[0]
