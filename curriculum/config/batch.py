"""`batch` of a stage that changes inside the stage: even steps up to a size, or a size from each position on."""

from typing import Annotated, Any, ClassVar, Self

from pydantic import ConfigDict, Field, PlainSerializer, model_validator

from curriculum.config import fields
from curriculum.config.entry import Batch, Entry, Exponent, Size, Span, exactly_one
from curriculum.config.fields import Refusal
from curriculum.units import NUMBER, SUFFIX, Length, parse_length


@fields.form(type="string", pattern=fields.input_pattern(NUMBER + SUFFIX + r"(?:\s+tokens?)?", above_zero=True))
def _position(value: Any) -> int:
    try:
        position = parse_length(value)
    except ValueError:
        raise Refusal(f"is no position: {fields.describe(value)}", "as in `{252B: 1024 sequences}`") from None
    if position.unit != "tokens" or not 0 < position.amount <= fields.LARGEST_COUNT:
        raise Refusal(f"is no position: {fields.describe(value)}", "positions are tokens from the root, above 0")
    return position.amount


Positions = Annotated[
    dict[Annotated[int, _position], Batch],
    PlainSerializer(lambda levels: {str(Length(at, "tokens")): str(batch) for at, batch in levels.items()}),
]


class BatchEntry(Entry):
    """A batch that changes inside its stage, on the token clock: at the first step boundary at or past a position."""

    one_of: ClassVar[tuple[str, ...]] = ("to", "at")
    model_config = ConfigDict(
        json_schema_extra={
            "if": {"required": ["to"]},
            "then": {"required": ["over", "in"]},
            "else": {"properties": {"over": False, "in": False}},
        }
    )

    from_: Batch = Field(alias="from", description="The batch of the stage's first step; as in `512 sequences`.")
    to: Batch | None = Field(default=None, description="The batch after `over`; as in `4096 sequences`.")
    over: Span | None = Field(default=None, description="How long it takes to get there; as in `100B tokens`.")
    in_: Size | None = Field(
        default=None,
        alias="in",
        description="In how many steps of equal size and length, the last at its end; as in `8`.",
    )
    at: Positions | None = Field(
        default=None, description="Positions to the batch from there on; as in `{252B: 1024 sequences}`."
    )
    rate_exponent: Exponent | None = Field(
        default=None, description="The rate times (batch / `from`) to this power, else untouched; as in `0.5`."
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        key = exactly_one(self, "`to: 4096 sequences` in even steps, or `at: {252B: 1024 sequences}`")
        for name, stated in (("over", self.over), ("in", self.in_)):
            if key == "to" and stated is None:
                raise Refusal(f"lacks `{name}`", "as in `{from: 512 sequences, to: 4096 sequences, over: 100B, in: 8}`")
            if key == "at" and stated is not None:
                raise Refusal("is not supported with `at`", "each position of `at` is a change by itself", name)
        if key == "at" and not self.at:
            raise Refusal("is empty", "as in `at: {252B: 1024 sequences}`", "at")
        return self
