"""stages/*.yaml: what is trained after what."""

import math
from collections.abc import Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from curriculum.config import fields
from curriculum.config.averages import AverageEntry, is_average
from curriculum.config.batch import BatchEntry
from curriculum.config.entry import (
    Batch,
    Entry,
    Flag,
    Layers,
    Name,
    Names,
    Position,
    Positions,
    Rate,
    Seed,
    Size,
    SizeOrZero,
    Span,
    Text,
    TokenPosition,
    Tokens,
    exactly_one,
    lacks,
)
from curriculum.config.fields import Refusal
from curriculum.config.layout import PREFIX
from curriculum.config.learning_rate import LearningRateEntry
from curriculum.config.model_catalogue import CATALOGUE
from curriculum.config.optimizer import OptimizerEntry
from curriculum.errors import did_you_mean


@fields.form(enum=sorted(CATALOGUE))
def _known_model(value: Any) -> str:
    if not isinstance(value, str) or value not in CATALOGUE:
        hint = did_you_mean(value, CATALOGUE) if isinstance(value, str) else f"there are: {', '.join(CATALOGUE)}"
        raise Refusal(f"is no model of the catalogue: {fields.describe(value)}", f"{hint}; or give its numbers here")
    return value


ModelName = Annotated[str, _known_model]


class RopeScaling(Entry):
    """Llama 3's way to a longer context: slow rotations are divided by `factor`, fast ones stay."""

    rope_type: Literal["llama3"] = Field(default="llama3", description="`llama3`, which may be left out.")
    factor: Rate = Field(description="What slow rotations are divided by, as in `factor: 32`.")
    low_freq_factor: Rate = Field(default=Fraction(1), description="Turns below which a rotation is slow.")
    high_freq_factor: Rate = Field(default=Fraction(4), description="Turns above which a rotation is fast.")
    original_max_position_embeddings: Size = Field(description="The context that turns are counted over.")

    @model_validator(mode="before")
    @classmethod
    def _known_kind(cls, value: Any) -> Any:
        kind = value.get("rope_type", "llama3") if isinstance(value, dict) else "llama3"
        if kind != "llama3":
            raise Refusal(f"cannot be {fields.describe(kind)}", "there are: llama3, yarn, linear", "rope_type")
        return value

    @model_validator(mode="after")
    def _low_below_high(self) -> Self:
        if self.low_freq_factor >= self.high_freq_factor:
            raise Refusal("must be below `high_freq_factor`", "as in `1` and `4`", "low_freq_factor")
        return self


class YarnScaling(Entry):
    """YaRN: rotations of many turns stay, those of few are divided by `factor`, and attention is sharpened."""

    rope_type: Literal["yarn"] = Field(description="`yarn`.")
    factor: Rate = Field(description="What slow rotations are divided by, as in `factor: 4`.")
    original_max_position_embeddings: Size = Field(description="The context that turns are counted over.")
    beta_fast: Rate | None = Field(default=None, description="Turns above which a rotation is fast; else 32.")
    beta_slow: Rate | None = Field(default=None, description="Turns below which a rotation is slow; else 1.")
    attention_factor: Rate | None = Field(
        default=None, description="What queries and keys are multiplied by; else 0.1 ln(factor) + 1."
    )
    truncate: Flag | None = Field(default=None, description="Whether its bounds are whole channels; else they are.")


class LinearScaling(Entry):
    """Position interpolation: every rotation is divided by `factor`."""

    rope_type: Literal["linear"] = Field(description="`linear`.")
    factor: Rate = Field(description="What all rotations are divided by, as in `factor: 4`.")


def _scaling_kind(value: Any) -> str:
    kind = value.get("rope_type") if isinstance(value, dict) else getattr(value, "rope_type", None)
    return kind if kind in ("yarn", "linear") else "llama3"


AnyScaling = Annotated[
    Annotated[RopeScaling, Tag("llama3")]
    | Annotated[YarnScaling, Tag("yarn")]
    | Annotated[LinearScaling, Tag("linear")],
    Discriminator(_scaling_kind),
]


class ModelOverride(Entry):
    """What a size changes in the model; the rest stays."""

    hidden_size: Size | None = Field(default=None, description="Width of the residual stream.")
    num_hidden_layers: Size | None = Field(default=None, description="Number of blocks.")
    num_attention_heads: Size | None = Field(default=None, description="Query heads; they divide hidden_size.")
    num_key_value_heads: Size | None = Field(default=None, description="Key and value heads.")
    head_dim: Size | None = Field(default=None, description="Width of a head.")
    intermediate_size: Size | None = Field(default=None, description="Width of the feed-forward layer.")
    vocab_size: Size | None = Field(default=None, description="Rows of the embedding.")
    rms_norm_eps: Rate | None = Field(default=None, description="Epsilon of RMSNorm.")
    rope_theta: Rate | None = Field(default=None, description="Base of the rotary embedding.")
    rope_scaling: AnyScaling | None = Field(default=None, description="How rotations are stretched.")
    tie_word_embeddings: Flag | None = Field(default=None, description="Whether both embeddings are one.")
    attention_bias: Literal["none", "qkv", "all"] | None = Field(
        default=None, description="Biases of attention: none, qkv (as Qwen2) or all."
    )
    mlp_bias: Flag | None = Field(default=None, description="Whether the feed-forward layer has biases.")
    qk_norm: Literal["none", "head", "all"] | None = Field(
        default=None, description="Norm of queries and keys: by head (Qwen3), or over all heads (OLMo 2)."
    )
    norm: Literal["before", "after"] | None = Field(
        default=None, description="Norms before attention and feed-forward layer, or after them (OLMo 2)."
    )
    no_rope: Layers | None = Field(default=None, description="Layers without rotations; as in `every 4th`.")
    sliding_window: Size | None = Field(default=None, description="Tokens that a token attends to; as in `4096`.")
    full_attention: Layers | None = Field(
        default=None, description="Layers that no sliding window limits; as in `every 4th`."
    )
    embedding_multiplier: Rate | None = Field(
        default=None, description="What embeddings are multiplied by; as in `12`."
    )
    residual_multiplier: Rate | None = Field(
        default=None, description="What each sublayer's output is multiplied by before it is added; as in `0.22`."
    )
    attention_multiplier: Rate | None = Field(
        default=None, description="What products of queries and keys are multiplied by; else 1 / √head_dim."
    )
    logits_scaling: Rate | None = Field(default=None, description="What logits are divided by; as in `8`.")
    init: Literal["tinyllama", "llama", "olmo"] | None = Field(
        default=None, description="How first weights are drawn: tinyllama, llama or olmo."
    )

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        self.check_heads()
        return self

    def check_heads(self) -> None:
        """Refusal for heads that do not divide the width, or key-value heads that do not divide the query heads."""
        width, heads, groups = self.hidden_size, self.num_attention_heads, self.num_key_value_heads
        if self.head_dim and self.head_dim % 2:
            raise Refusal(f"of {self.head_dim} is odd", "rotations turn pairs: take an even one", "head_dim")
        if width and heads and not self.head_dim and width % (2 * heads):
            if width % 2:
                near = [size for size in (width // (2 * heads) * 2 * heads,) if size]
                fit = " or ".join(str(size) for size in (*near, (width // (2 * heads) + 1) * 2 * heads))
                raise Refusal(f"of {width} is odd, and heads have an even size", f"{fit} would do", "hidden_size")
            message = f"of {heads} does not cut a width of {width} into heads of even size"
            raise Refusal(message, f"{_near_divisors(heads, width // 2)} would do", "num_attention_heads")
        for key in ("no_rope", "full_attention"):
            named, number = getattr(self, key), self.num_hidden_layers
            if number and isinstance(named, tuple) and named[-1] >= number:
                raise Refusal(f"names layer {named[-1]} of {number}", f"they count from 0 to {number - 1}", key)
        if heads and groups and heads % groups:
            message = f"of {groups} does not divide {heads} query heads"
            raise Refusal(message, f"{_near_divisors(groups, heads)} would do", "num_key_value_heads")


class ModelNumbers(ModelOverride):
    """A model under Hugging Face's key names; without the switches from `attention_bias` on it is a Llama."""

    hidden_size: Size = Field(description="Width of the residual stream.")
    num_hidden_layers: Size = Field(description="Number of blocks.")
    num_attention_heads: Size = Field(description="Query heads; they divide hidden_size.")
    num_key_value_heads: Size = Field(description="Key and value heads; they divide the query heads.")
    head_dim: Size | None = Field(default=None, description="Width of a head; else hidden_size by heads.")
    intermediate_size: Size = Field(description="Width of the feed-forward layer.")
    vocab_size: Size = Field(description="Rows of the embedding; no less than the tokenizer has.")
    rms_norm_eps: Rate = Field(default=Fraction(1, 100000), description="Epsilon of RMSNorm.")
    rope_theta: Rate = Field(default=Fraction(10000), description="Base of the rotary embedding.")
    rope_scaling: AnyScaling | None = Field(default=None, description="How rotations are stretched, if at all.")
    tie_word_embeddings: Flag = Field(default=False, description="Whether input and output embedding are one.")

    @model_validator(mode="after")
    def _windows_fit(self) -> Self:
        if self.full_attention is not None and self.sliding_window is None:
            hint = "add `sliding_window: 4096`, which limits the other layers, or remove it"
            raise Refusal("needs `sliding_window`", hint, "full_attention")
        return self


def _near_divisors(number: int, dividend: int) -> str:
    """The divisors of `dividend` next to `number`, as `8 or 16`."""
    small = [k for k in range(1, math.isqrt(dividend) + 1) if dividend % k == 0]
    divisors = sorted({d for k in small for d in (k, dividend // k)})
    below, above = [d for d in divisors if d < number], [d for d in divisors if d > number]
    return " or ".join(map(str, below[-1:] + above[:1]))


class EveryEntry(Entry):
    """Cadences on the token clock."""

    evaluate: Span | None = Field(default=None, description="Between evaluations on held-out text; as in `10B`.")
    checkpoint: Span | None = Field(default=None, description="Between checkpoints; every stage's end is one anyway.")
    keep: Span | None = Field(
        default=None, description="Between checkpoints that stay on disk; of the others the last two do; as in `100B`."
    )
    tasks: dict[Text, Span] = Field(
        default={},
        description="Task or group of lm-evaluation-harness to its cadence; as in `{tinyllama_commonsense: 100B}`.",
    )


_KEEP: Final = "Positions at which a checkpoint is taken and stays on disk; as in `[1.2T, 1.35T]`."
_HELD_OUT_WINDOWS: Final = "Windows of each held-out set that an evaluation reads at most; as in `128`."


class SkipEntry(Entry):
    """A range of data that is left out; clock and learning rate stay."""

    from_: TokenPosition = Field(alias="from", description="Position at which to skip; as in `1.2T`.")
    to: TokenPosition = Field(description="Position whose data the stage continues with; as in `1.201T`.")
    why: Text | None = Field(default=None, description="The reason, for people; as in `loss spike`.")

    @model_validator(mode="after")
    def _forwards(self) -> Self:
        if self.to <= self.from_:
            raise Refusal("must be after `from`", "as in `{from: 1.2T, to: 1.201T}`", "to")
        return self


class LeaveOutEntry(Entry):
    """A shard of a source that is excluded; the source begins its next pass without it."""

    source: Name = Field(description="The source; as in `slimpajama`.")
    shard: SizeOrZero = Field(description="Its shard, counted from 0; as in `17`.")
    why: Text | None = Field(default=None, description="The reason, for people; as in `garbled text`.")


class StageEntry(Entry):
    """One stage. It keeps, from the stage before it, everything it does not state."""

    one_of: ClassVar[tuple[str, ...]] = ("until", "tokens")
    own: ClassVar = (
        *("name", "until", "tokens", "ramp", "skip", "leave_out", "positions", "data_seed", "optimizer", "rewarm"),
        "measure",
    )
    """Keys that hold for their stage alone; the others are inherited by the stages after it."""

    name: Name = Field(description="Its name, unique in the file; as in `cooldown`.")
    until: Position | None = Field(default=None, description="Position at which it ends, from the root; as in `2T`.")
    tokens: Tokens | None = Field(default=None, description="Its own length instead; as in `150B`.")
    mixture: Name | None = Field(default=None, description="A file of mixtures/, without `.yaml`; as in `math-code`.")
    batch: (
        Annotated[
            Annotated[Batch, Tag("one")] | Annotated[BatchEntry, Tag("changing")],
            Discriminator(lambda value: "changing" if isinstance(value, dict | BatchEntry) else "one"),
        ]
        | None
    ) = Field(default=None, description="Sequences or tokens of a step, or how it changes; as in `896 sequences`.")
    sequence_length: Size | None = Field(default=None, description="Tokens of a window; needs `positions: restart`.")
    rope_theta: Rate | None = Field(default=None, description="Another base of the rotations; as in `5e6`.")
    rope_scaling: AnyScaling | None = Field(default=None, description="Another way to stretch the rotations.")
    ramp: Span | None = Field(default=None, description="How long shares move to the mixture's; as in `6B`.")
    skip: tuple[SkipEntry, ...] | None = Field(
        default=None, description="Ranges of data to leave out; as in `[{from: 1.2T, to: 1.201T}]`."
    )
    leave_out: tuple[LeaveOutEntry, ...] | None = Field(
        default=None, description="Shards excluded from here on; as in `[{source: slimpajama, shard: 17}]`."
    )
    positions: Literal["restart", "unseen"] | None = Field(
        default=None, description="restart: sources begin their next pass; unseen: fail rather than repeat."
    )
    data_seed: Seed | None = Field(
        default=None, description="Reads the rest of every pass, and later ones, in another order; as in `2`."
    )
    optimizer: Literal["reset"] | None = Field(default=None, description="reset: begin with fresh optimizer state.")
    learning_rate: LearningRateEntry | None = Field(default=None, description="Another curve, on the root's clock.")
    rewarm: Span | None = Field(default=None, description="How long the rate moves to the stage's own curve.")
    mask_documents: Flag | None = Field(default=None, description="Whether attention ends at a document's end.")
    every: EveryEntry | None = Field(default=None, description="Cadence of evaluations and checkpoints.")
    keep: Positions | None = Field(default=None, description=_KEEP)
    held_out_windows: Size | None = Field(default=None, description=_HELD_OUT_WINDOWS)
    measure: Names | None = Field(
        default=None,
        description="Sources whose held-out text is measured besides those of its mixtures; as in `[code]`.",
    )

    @model_validator(mode="after")
    def _one_end(self) -> Self:
        exactly_one(self, "`until: 2T` is a position from the root, `tokens: 150B` a length")
        return self


ROOT_KEYS: Final = ("seed", "model", "tokenizer", "sequence_length", "optimizer", "learning_rate")
"""What a curriculum without `from:` must state; a variant takes them from its branch point."""
_OF_STAGES: Final = ("sequence_length", "learning_rate")
"""Those of them that a root's first stage may state instead."""


def _first_stage(*keys: str) -> dict[str, Any]:
    """The JSON schema of a curriculum whose first stage states `keys`."""
    return {"properties": {"stages": {"items": [{"required": list(keys)}]}}}


def _root() -> dict[str, Any]:
    """The JSON schema of a curriculum that has no parent to take anything from."""
    either = [{"anyOf": [{"required": [key]}, _first_stage(key)]} for key in _OF_STAGES]
    return {
        "required": [key for key in ROOT_KEYS if key not in _OF_STAGES],
        "allOf": [_first_stage("mixture", "batch"), *either],
    }


class CurriculumFile(Entry):
    """stages/NAME.yaml: one curriculum. With `from`, every unstated key comes from the branch point."""

    model_config = ConfigDict(
        json_schema_extra={
            "allOf": [
                {"if": {"not": {"required": ["from"]}}, "then": _root()},
                {
                    "if": {"required": ["from"], "properties": {"from": {"type": "object"}}},
                    "else": {"required": ["stages"]},
                },
            ]
        }
    )
    """What the lineage refuses of a root, for editors."""

    about: Text | None = Field(default=None, description="What it is, for people.")
    from_: (
        Annotated[
            Annotated[Text, Tag("one")] | Annotated[AverageEntry, Tag("several")],
            Discriminator(lambda value: "several" if is_average(value) else "one"),
        ]
        | None
    ) = Field(
        default=None,
        alias="from",
        description="NAME[/STAGE][@TOKENS] that it branches from, an average of weights, or hf:DIR, a Hugging Face "
        "folder; as in `v1.1@1.2T`.",
    )
    seed: Seed | None = Field(default=None, description="Keys every draw; as in `3407`.")
    model: (
        Annotated[
            Annotated[ModelName, Tag("name")] | Annotated[ModelNumbers, Tag("numbers")],
            Discriminator(lambda value: "numbers" if isinstance(value, dict | ModelNumbers) else "name"),
        ]
        | None
    ) = Field(default=None, description="A model of the catalogue, or its numbers; as in `tinyllama-1.1b`.")
    tokenizer: Name | None = Field(default=None, description="A tokenizer of sources.yaml.")
    sequence_length: Size | None = Field(default=None, description="Tokens of a window; as in `2048`.")
    optimizer: OptimizerEntry | None = Field(default=None, description="The optimizer.")
    learning_rate: LearningRateEntry | None = Field(default=None, description="The curve over the curriculum.")
    every: EveryEntry | None = Field(default=None, description="Cadence of evaluations and checkpoints.")
    keep: Positions | None = Field(default=None, description=_KEEP)
    held_out_windows: Size | None = Field(default=None, description=_HELD_OUT_WINDOWS)
    stages: tuple[StageEntry, ...] = Field(
        default=(),
        description="The stages, in order; an average needs none; as in `[{name: basic, until: 1.5T}]`.",
        json_schema_extra={"minItems": 1},
    )

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        if not self.stages and isinstance(self.from_, AverageEntry) and "stages" not in self.model_fields_set:
            return self
        if "stages" not in self.model_fields_set:
            raise lacks("stages", type(self).model_fields["stages"].description)
        if not self.stages:
            raise Refusal("is empty", "as in `- {name: basic, until: 1.5T, mixture: NAME}`", "stages")
        names: set[str] = set()
        for number, stage in enumerate(self.stages):
            if stage.name in names:
                hint = "a stage's name is unique in its curriculum"
                raise Refusal(f"is taken: another stage is called `{stage.name}`", hint, "stages", number, "name")
            names.add(stage.name)
        imported = isinstance(self.from_, str) and self.from_.startswith(PREFIX)
        if imported and self.from_ == PREFIX:
            hint = f"as in `from: {PREFIX}models/my-llama`, from the project's folder or absolute"
            raise Refusal("names no directory", hint, "from")
        for key in ("model", "tokenizer"):
            if imported and getattr(self, key) is not None:
                hint = f"leave it out: the directory's own {key} is kept"
                raise Refusal(f"cannot be stated with `from: {PREFIX}…`", hint, key)
        first = self.stages[0].learning_rate
        for key, curve in (("stages", first), ("learning_rate", self.learning_rate)):
            if curve is not None and curve.shape == "decay" and (self.from_ is None or imported):
                path = (key, 0, "learning_rate", "shape") if key == "stages" else (key, "shape")
                hint = "`decay` falls from the rate that the stage before left; a root says `shape: wsd` or another"
                raise Refusal("has no rate to fall from: the first stage is the root", hint, *path)
        for key in ("ramp", "positions", "optimizer", "rewarm"):
            if (self.from_ is None or imported) and getattr(self.stages[0], key) is not None:
                hint = "remove it; or say with `from:` what the curriculum branches from"
                if imported:
                    hint = "remove it; an import begins with fresh optimizer state and unread sources"
                raise Refusal("has nothing to continue from: the first stage is the root", hint, "stages", 0, key)
        return self


MODELS: Final[Mapping[str, ModelNumbers]] = MappingProxyType(
    {name: ModelNumbers.model_validate(dict(numbers)) for name, numbers in CATALOGUE.items()}
)
