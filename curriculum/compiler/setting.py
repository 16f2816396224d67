"""One stage with every setting stated, its batch on the token clock, and a lineage's way through it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction

from curriculum import config
from curriculum.artifacts import huggingface
from curriculum.compiler.address import Address
from curriculum.config.yaml import Document
from curriculum.errors import Place, PlanError
from curriculum.plan.ranks import nearest_divisors
from curriculum.units import Length, show_count


@dataclass(frozen=True, slots=True)
class BatchLevel:
    """From the first step boundary at or past the full-size `position` on, the batch in sequences."""

    position: int
    batch: Length


@dataclass(frozen=True, slots=True)
class AverageMember:
    """A checkpoint of an average: its address, the stages that lead to it, and how much it counts.

    With `ema` it is the moving average that the checkpoint keeps, alone.
    """

    address: Address
    stages: tuple[LineageStage, ...]
    weight: Fraction
    ema: bool = False


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One stage with every setting stated. `until` is its declared end: full-size tokens from the root.

    `rope_theta` and `rope_scaling` are those that stages state in place of the model's, if any.
    `imported` is the Hugging Face directory that the lineage starts from, whose model and tokenizer it keeps;
    `batch` is that of its first step and `batch_levels` what follows on the clock, also beyond its end.
    `held_out_windows` is 0 where no file states it; `keep` may name positions outside the stage, for other stages;
    `data_seeds` are its own, several where it also does what a stage without a step left undone.
    """

    curriculum: str
    stage: str
    seed: int
    model: config.ModelNumbers
    tokenizer: str
    optimizer: config.OptimizerEntry
    every: config.EveryEntry
    keep: tuple[Length, ...] = ()
    held_out_windows: int = 0
    sequence_length: int
    rope_theta: Fraction | None = None
    rope_scaling: config.AnyScaling | None = None
    learning_rate: config.LearningRateEntry
    mixture: str
    own_mixture: bool = True
    batch: Length
    batch_levels: tuple[BatchLevel, ...] = ()
    own_rate_exponent: float | None = None
    mask_documents: bool
    until: int
    ramp: Length | None = None
    skip: tuple[config.SkipEntry, ...] = ()
    leave_out: tuple[config.LeaveOutEntry, ...] = ()
    left_out: tuple[config.LeaveOutEntry, ...] = ()
    data_seeds: tuple[int, ...] = ()
    earlier_data_seeds: tuple[int, ...] = ()
    positions: str | None = None
    reset_optimizer: bool = False
    own_learning_rate: bool = False
    rewarm: Length | None = None
    measure: tuple[str, ...] = ()
    imported: huggingface.Directory | None = None
    average: tuple[AverageMember, ...] = ()
    document: Document = field(repr=False)
    path: tuple[str | int, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.curriculum}/{self.stage}"

    def place(self, key: str) -> Place:
        """The place of `key` in this stage, or of the same key above the stages, or of the stage itself."""
        for path in ((*self.path, key), (key,), self.path):
            try:
                return self.document.place(path)
            except KeyError:
                continue
        return self.document.place(())


@dataclass(frozen=True, slots=True)
class LineageStage:
    """A stage as far as a lineage goes through it; `cut` is the branch position (full-size tokens) or None."""

    setting: Setting
    cut: int | None = None

    @property
    def name(self) -> str:
        return self.setting.name

    @property
    def left_at(self) -> int:
        """The full-size position at which the lineage leaves the stage: the branch position or its declared end."""
        return self.setting.until if self.cut is None else self.cut


def kept_tokens(batch: Length, before: Setting, sequence_length: int) -> Length:
    """A batch that is inherited: in its tokens where windows take another length."""
    if before.sequence_length == sequence_length or batch.unit == "tokens":
        return batch
    return Length(batch.amount * before.sequence_length, "tokens")


def with_batch_levels(
    setting: Setting, stated: Length | config.BatchEntry | None, before: Setting | None, start: int
) -> Setting:
    """The setting with the batch that is in force at its `start` (full-size tokens), and those that follow."""
    if stated is None and before is not None:
        due = [level for level in before.batch_levels if level.position <= start]
        ahead = tuple(level for level in before.batch_levels if level.position > start)
        batch = kept_tokens(due[-1].batch if due else before.batch, before, setting.sequence_length)
        ahead = tuple(
            replace(level, batch=kept_tokens(level.batch, before, setting.sequence_length)) for level in ahead
        )
        return replace(setting, batch=batch, batch_levels=ahead)
    if not isinstance(stated, config.BatchEntry):
        return setting
    exponent = float(stated.rate_exponent) if stated.rate_exponent is not None else None
    levels = _even_levels(setting, stated, start) if stated.to is not None else _stated_levels(setting, stated, start)
    return replace(setting, batch_levels=levels, own_rate_exponent=exponent)


def _even_levels(setting: Setting, stated: config.BatchEntry, start: int) -> tuple[BatchLevel, ...]:
    assert stated.to is not None
    assert stated.over is not None
    assert stated.in_ is not None
    first, last, number = batch_sequences(setting, stated.from_), batch_sequences(setting, stated.to), stated.in_
    place = setting.document.place((*setting.path, "batch", "in"))
    if last <= first:
        raise PlanError(
            f"the batch is to grow from {first:,} to {last:,} sequences",
            place=setting.document.place((*setting.path, "batch", "to")),
            hint="`to` is above `from`; a batch that shrinks is written with `at: {POSITION: BATCH}`",
        )
    if (last - first) % number:
        raise PlanError(
            f"from {first:,} to {last:,} sequences are not {number} equal steps: {last - first:,} are to be added",
            place=place,
            hint=f"the nearest that fit: `in: {nearest_divisors(last - first, number)}`",
        )
    over = length_in_tokens(setting, stated.over, "batch")
    return tuple(
        BatchLevel(start - (-over * k // number), Length(first + (last - first) // number * k, "sequences"))
        for k in range(1, number + 1)
    )


def _stated_levels(setting: Setting, stated: config.BatchEntry, start: int) -> tuple[BatchLevel, ...]:
    assert stated.at is not None
    levels = [BatchLevel(at, Length(batch_sequences(setting, batch), "sequences")) for at, batch in stated.at.items()]
    levels.sort(key=lambda level: level.position)
    if levels[0].position <= start:
        raise PlanError(
            f"the batch is to change at {show_count(levels[0].position)} tokens, where stage `{setting.stage}` has "
            f"not started: it does at {show_count(start)}",
            place=setting.document.place((*setting.path, "batch", "at")),
            hint="positions count from the root; what holds at the stage's start is `from`",
        )
    return tuple(levels)


def length_in_tokens(setting: Setting, length: Length, key: str) -> int:
    """A full-size length in tokens, steps being those of the stage's own batch; `key` is where it is written."""
    try:
        return length.tokens(
            sequence_length=setting.sequence_length, batch_sequences=batch_sequences(setting, setting.batch)
        )
    except ValueError as error:
        raise PlanError(str(error), place=setting.place(key), hint="shorten it") from None


def batch_sequences(setting: Setting, batch: Length | None = None) -> int:
    """A full-size batch, else the stage's first, in sequences; PlanError naming the nearest whole number of them."""
    batch = setting.batch if batch is None else batch
    if batch.unit == "sequences":
        return batch.amount
    if batch.unit == "tokens":
        sequences, rest = divmod(batch.amount, setting.sequence_length)
        if rest == 0:
            return sequences
        near = [f"{n} sequences ({n * setting.sequence_length:,} tokens)" for n in (sequences, sequences + 1) if n]
        raise PlanError(
            f"a batch of {batch.amount:,} tokens is not a whole number of sequences of {setting.sequence_length:,}",
            place=setting.place("batch"),
            hint=f"the nearest that fit: {' or '.join(near)}",
        )
    raise PlanError(
        f"a batch is given in sequences or tokens, not `{batch}`",
        place=setting.place("batch"),
        hint="as in `batch: 896 sequences`",
    )
