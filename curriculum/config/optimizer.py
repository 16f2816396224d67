"""`optimizer` of a stage file: AdamW or Muon, what joins the loss, what is skipped, and an average of the weights."""

import math
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainSerializer, model_validator

from curriculum.config import fields
from curriculum.config.entry import Betas, Entry, Flag, Rate, RateOrZero, Window
from curriculum.config.fields import Refusal
from curriculum.units import Length

_half_life = fields.length("2000 steps", "steps", "tokens", "sequences", explicit="scale")


@fields.form(**_half_life.shape)
def _ema(value: Any) -> Length:
    """A half-life; Refusal for a decay by step, which changes with the batch and with the size."""
    decay = _decay(value)
    if decay is not None:
        steps = max(1, round(math.log(0.5, decay)))
        hint = f"at {value} a step the average forgets half of its weights in {steps} steps: write `{steps} steps`"
        raise Refusal(f"must be a half-life, in tokens or steps, not the decay {value}", hint)
    return _half_life.read(value)  # type: ignore[no-any-return]


def _decay(value: Any) -> float | None:
    """The value as a number between 0 and 1; None for any other."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if 0 < number < 1 else None


HalfLife = Annotated[Length, _ema, PlainSerializer(str, return_type=str)]


class OutlierEntry(Entry):
    """Steps whose gradient norm is far above those of the steps before are no update; `{}` takes the defaults."""

    window: Window = Field(default=128, description="How many steps before it are compared.")
    deviations: Rate = Field(
        default=Fraction(6), description="Standard deviations above their mean from which a step is skipped."
    )


class OptimizerEntry(Entry):
    """The optimizer; the same for every stage until a stage says `optimizer: reset`."""

    name: Literal["adamw", "muon"] = Field(
        default="adamw", description="adamw; or muon for the blocks' matrices, AdamW for the rest."
    )
    momentum: Rate | None = Field(default=None, description="Muon's momentum; else 0.95.")
    adjust_rate: Literal["match_rms_adamw", "original"] | None = Field(
        default=None, description="How muon scales the rate by a matrix's shape; else match_rms_adamw."
    )
    betas: Betas = Field(default=(Fraction(9, 10), Fraction(95, 100)), description="Adam's two decay rates.")
    eps: Rate = Field(default=Fraction(1, 10**8), description="Adam's epsilon.")
    weight_decay: RateOrZero = Field(description="Decoupled weight decay; as in `0.1`.")
    decay: Literal["all", "matrices"] = Field(
        default="all", description="What decays: all parameters, or matrices only."
    )
    decay_embeddings: Flag | None = Field(
        default=None, description="Whether the embedding decays; `false` spares it, and a tied output weight."
    )
    z_loss: Rate | None = Field(
        default=None, description="Weight of the squared log-partition, which it keeps near 0; as in `1e-5`."
    )
    clip_norm: Rate = Field(default=Fraction(1), description="Norm that the global gradient is clipped to.")
    skip_outliers: OutlierEntry | None = Field(
        default=None, description="Skips steps of outlying gradient norm, as in `{window: 128, deviations: 6}`."
    )
    ema: HalfLife | None = Field(
        default=None,
        description="Half-life of an exponential moving average of the weights, kept beside them; as in `700 steps`.",
    )

    @model_validator(mode="after")
    def _of_muon(self) -> Self:
        for key in ("momentum", "adjust_rate"):
            if self.name != "muon" and getattr(self, key) is not None:
                raise Refusal("belongs to muon", "say `name: muon`, or remove it", key)
        if self.momentum is not None and self.momentum >= 1:
            raise Refusal("must be below 1", "as in `0.95`", "momentum")
        return self
