"""`from: {average: …}` and `from: {ema: …}`: a curriculum that starts from an average of weights."""

from typing import Annotated, Any, ClassVar, Self

from pydantic import Discriminator, Field, Tag, model_validator

from curriculum.config.entry import Entry, Size, Text, Texts, Weights, exactly_one
from curriculum.config.fields import Refusal


class LastEntry(Entry):
    """The last checkpoints of the cadence up to an address, the address included."""

    last: Size = Field(description="How many; as in `5`.")
    of: Text = Field(description="NAME[/STAGE][@TOKENS] that the last of them is; as in `v1.1/basic`.")

    @model_validator(mode="after")
    def _several(self) -> Self:
        if self.last < 2:
            raise Refusal("of 1 averages nothing", "as in `last: 5`", "last")
        return self


class AverageEntry(Entry):
    """The average of checkpoints, of the listed ones or of the last ones of a stage; or one's moving average."""

    one_of: ClassVar[tuple[str, ...]] = ("average", "ema")

    average: (
        Annotated[
            Annotated[Texts, Tag("listed")] | Annotated[LastEntry, Tag("latest")],
            Discriminator(lambda value: "latest" if isinstance(value, dict | LastEntry) else "listed"),
        ]
        | None
    ) = Field(default=None, description="NAME[/STAGE][@TOKENS] of each, or `{last: 5, of: NAME}`; as in `[a, b@1.9T]`.")
    ema: Text | None = Field(
        default=None,
        description="NAME[/STAGE][@TOKENS] of one checkpoint that keeps a moving average; as in `v1.1@1.9T`.",
    )
    weights: Weights | None = Field(
        default=None, description="How much each counts, on any scale, else all the same; as in `[1, 2]`."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        exactly_one(self, "`average: [a, b]` is of several checkpoints, `ema: a` the moving average that one keeps")
        if self.average is None:
            if self.weights is not None:
                raise Refusal("belongs to `average`", "a moving average is of one checkpoint: leave it out", "weights")
            return self
        number = self.average.last if isinstance(self.average, LastEntry) else len(self.average)
        if number < 2:
            raise Refusal("names one checkpoint", "an average is of several, as in `[a, b@1.9T]`", "average")
        if self.weights is not None and len(self.weights) != number:
            raise Refusal(f"has {len(self.weights)} numbers for {number} checkpoints", "give one for each", "weights")
        return self


def is_average(value: Any) -> bool:
    return isinstance(value, dict | AverageEntry)
