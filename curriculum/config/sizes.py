"""sizes.yaml: what is scaled. A size belongs to a run's identity."""

from typing import Any, Self

from pydantic import ConfigDict, Field, RootModel, model_validator

from curriculum.config.entry import BatchScaling, Entry, LearningRate, LearningRateOrZero, Name, Scale, Size, Span, Text
from curriculum.config.learning_rate import min_below_max
from curriculum.config.stages import ModelOverride


class SizeRates(Entry):
    """What a size changes in the learning rate; the rest of the curve keeps its ratio to the highest value."""

    max: LearningRate | None = Field(default=None, description="The highest value of the root's curve at this size.")
    min: LearningRateOrZero | None = Field(
        default=None, description="The value at its horizon, which else keeps its ratio to `max`."
    )
    warmup: Span | None = Field(default=None, description="The root's warm-up, in this size's own steps or tokens.")

    @model_validator(mode="after")
    def _min_below_max(self) -> Self:
        min_below_max(self.min, self.max)
        return self


class AtLeast(Entry):
    """Floors where scaling makes a length too short."""

    ramp: Span | None = Field(default=None, description="The shortest ramp, in this size's own steps or tokens.")
    warmup: Span | None = Field(default=None, description="The shortest warm-up.")


class AtMost(Entry):
    """Ceilings where scaling makes a number too large."""

    evaluations: Size | None = Field(default=None, description="Evaluations in a stage.")
    checkpoints: Size | None = Field(
        default=None, description="Checkpoints in a stage: every n-th of those it asks for, to stay at round positions."
    )
    held_out_windows: Size | None = Field(default=None, description="Windows of each held-out set in an evaluation.")


class SizeEntry(Entry):
    """A size. What it does not state is as in the curriculum."""

    about: Text | None = Field(default=None, description="What it is, for people.")
    tokens: Scale | None = Field(default=None, description="The scale of every length; as in `1e-6`.")
    batch: BatchScaling | None = Field(
        default=None, description="What the root's batch becomes, others keep their ratio to it; as in `16 sequences`."
    )
    sequence_length: Size | None = Field(
        default=None, description="Tokens of the root's windows; others keep their ratio."
    )
    tokenizer: Name | None = Field(default=None, description="A tokenizer of sources.yaml.")
    model: ModelOverride | None = Field(default=None, description="The model's numbers that change.")
    learning_rate: SizeRates | None = Field(default=None, description="The curve's numbers that change.")
    stand_ins: dict[Name, Name] = Field(default={}, description="Source to the source that replaces it.")
    at_least: AtLeast | None = Field(default=None, description="Floors.")
    at_most: AtMost | None = Field(default=None, description="Ceilings.")


class SizesFile(RootModel[Any]):
    """sizes.yaml: what is scaled; part of a run's identity. The default is `rehearsal`, or the only one there is."""

    model_config = ConfigDict(frozen=True, defer_build=True)
    root: dict[Name, SizeEntry]
