"""mixtures/*.yaml: in what proportions sources are read."""

import contextlib
from fractions import Fraction
from typing import Annotated, Any, Final, Self

from pydantic import Field, PlainSerializer, model_validator

from curriculum.config import fields
from curriculum.config.entry import Entry, Evidence, Name, Passes, Text, Weight
from curriculum.config.fields import Refusal
from curriculum.errors import did_you_mean
from curriculum.units import parse_fraction

_ROUNDING: Final = Fraction(1, 200)
"""How far percentages that were rounded one by one may miss 100%."""


class MixtureFile(Entry):
    """mixtures/NAME.yaml: proportions only."""

    about: Text | None = Field(default=None, description="What it is, for people.")
    weights: dict[Name, Weight] = Field(
        description="Source to its proportion of the tokens, on any scale; as in `{slimpajama: 75, code: 25}`."
    )
    passes: dict[Name, Passes] = Field(
        default={},
        description="Source to the passes allowed over the lineage, else 4, or 1 if `in-order`; as in `{code: 8}`.",
    )
    take: dict[Name, Annotated[Fraction, fields.number("20%", most="1"), PlainSerializer(float)]] = Field(
        default={},
        description="Source to the part of its text that is read, unless all of it was before; as in `{code: 20%}`.",
    )
    evidence: Evidence | None = Field(
        default=None,
        description="The decision of a study that the weights rest on, which `plan` checks; as in `domains@0001`.",
    )

    @model_validator(mode="before")
    @classmethod
    def _percentages_of_one_whole(cls, value: Any) -> Any:
        """Refuse percentages beside plain numbers, and those that miss 100% by more than rounding does."""
        weights = value.get("weights") if isinstance(value, dict) else None
        if not isinstance(weights, dict):
            return value
        signed = {name: str(weight) for name, weight in weights.items() if str(weight).rstrip().endswith("%")}
        plain = [name for name, weight in weights.items() if name not in signed and weight != 0]
        if signed and plain:
            hint = "write all of them with a percent sign, or none: `weights` are on any scale"
            raise Refusal(f"has no percent sign, and `{next(iter(signed))}` has one", hint, "weights", plain[0])
        total = Fraction(1)
        with contextlib.suppress(ValueError):  # a number that is none has its own error
            total = sum(map(parse_fraction, signed.values()), Fraction(not signed))
        if abs(total - 1) > _ROUNDING:
            hint = "make them 100%; or leave the signs out, since `weights` are on any scale"
            raise Refusal(f"adds up to {float(100 * total):.4g}%, not 100%", hint, "weights")
        return value

    @model_validator(mode="after")
    def _something_to_draw(self) -> Self:
        if not any(self.weights.values()):
            raise Refusal("gives no source any weight", "as in `weights: {slimpajama: 75, code: 25}`", "weights")
        for key, verb, names in (("passes", "limits", self.passes), ("take", "takes a part of", self.take)):
            for name in names:
                if name not in self.weights:
                    hint = did_you_mean(name, self.weights)
                    raise Refusal(f"{verb} `{name}`, which has no weight here", hint, key, name, on_key=True)
        return self
