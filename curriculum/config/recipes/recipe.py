"""A recipe as read from files of another trainer: stages, blends and numbers, each with its place in those files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

from curriculum.config.fields import LARGEST_COUNT, describe
from curriculum.errors import ConfigError, Place

SEQUENCE_LENGTH: Final = 2048
"""Where a recipe does not state it."""
_LONGEST_NUMBER: Final = 40


@dataclass(frozen=True, slots=True)
class Statement:
    """A value of a foreign file under its `key` there; without a place it is a default of the trainer."""

    key: str
    value: Any
    place: Place | None

    @property
    def where(self) -> str:
        """`run.sh:12`."""
        return f"{Path(self.place.file).name}:{self.place.line}" if self.place else "by default"

    @property
    def origin(self) -> str:
        """`run.sh:12 --seq-length`, `config.yaml:7 sequence_length`."""
        return f"{self.where} {self.key.rpartition('.')[2]}"

    def integer(self, least: int = 1) -> int:
        """The value as a whole number, also from `"4096"` and `1e9`; ConfigError for any other."""
        number = exact(self.value)
        if number is None or number != int(number) or not least <= number <= LARGEST_COUNT:
            raise self.refused(f"must be a whole number from {least} up, not {describe(self.value)}", "as in `4096`")
        return int(number)

    def number(self) -> Decimal:
        """The value as an exact number from 0 up; ConfigError for any other."""
        number = exact(self.value)
        if number is None or number < 0:
            raise self.refused(f"must be a number from 0 up, not {describe(self.value)}", "as in `3e-4`")
        return number

    def refused(self, what: str, hint: str) -> ConfigError:
        return ConfigError(f"`{self.key}` {what}", place=self.place, hint=hint)


def exact(value: object) -> Decimal | None:
    """A number or its text without rounding; None for anything else, and for numbers too long to be meant."""
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        return None
    if isinstance(value, str) and len(value) > _LONGEST_NUMBER:
        return None
    try:
        number = Decimal(value)
    except InvalidOperation:
        return None
    return number if number.is_finite() and abs(number.adjusted()) <= _LONGEST_NUMBER else None


def spelled(number: Decimal | int) -> str:
    """A number as the YAML files here spell it, exactly: `0.333`, `50000`, `1e-8`."""
    if number == int(number):
        return str(int(number))
    return str(Decimal(number).normalize()).lower()


@dataclass(frozen=True, slots=True)
class Fact:
    """A value as YAML text, and the places that it is from; without one it is not stated there, but ours."""

    text: str
    origin: str = ""

    @property
    def assumed(self) -> bool:
        return not self.origin


def fact(text: str, *stated: Statement | None) -> Fact:
    """`text` with the places of those of `stated` that are there."""
    return Fact(text, ", ".join(dict.fromkeys(each.origin for each in stated if each is not None)))


@dataclass(frozen=True, slots=True)
class Text:
    """What a source of the recipe reads: `read` as sources.yaml states it."""

    path: str
    read: Mapping[str, str | tuple[str, ...]]
    stated: Statement
    name: str = ""
    """The name in the foreign file, if it has one; else the path gives it."""


@dataclass(frozen=True, slots=True)
class Blend:
    """Weights of texts by path, each with its place; `passes` are the most that the foreign file allows."""

    weights: Mapping[str, Statement]
    passes: Mapping[str, Fact] = field(default_factory=dict)

    def shares(self) -> dict[str, Decimal]:
        return {path: weight.number() for path, weight in self.weights.items()}


@dataclass(frozen=True, slots=True)
class RecipeStage:
    """A stage: its length as YAML text (`3_450_000 steps`), sequences in a batch, and its blend."""

    name: str
    length: Fact
    batch: Fact
    blend: Blend


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What files of one trainer say. `root` are the keys of the stage file that they state, without the stages."""

    trainer: str
    files: tuple[str, ...]
    stages: Sequence[RecipeStage]
    texts: Mapping[str, Text]
    root: Mapping[str, Fact]
    tokenizer: Statement | None = None
    mask_documents: Fact | None = None
    notes: Sequence[str] = ()
    left_out: Sequence[str] = ()


def blend(weighted: Iterable[tuple[Text, Statement]], notes: list[str], texts: dict[str, Text]) -> Blend:
    """The blend of weighted texts, which join `texts`; a note for each that has weight 0, or is named twice."""
    weights: dict[str, Statement] = {}
    for text, weight in weighted:
        if weight.number() == 0:
            notes.append(f"{weight.origin}: `{text.path}` has weight 0 and is left out")
            continue
        if text.path in weights:
            notes.append(f"{weight.origin}: `{text.path}` is named twice; its weights are added")
            weight = Statement(weight.key, weights[text.path].number() + weight.number(), weight.place)
        weights[text.path] = weight
        texts.setdefault(text.path, text)
    return Blend(weights)


def curve(
    place: Place | None,
    entries: Mapping[str, str],
    *,
    warmup: int,
    horizon: int = 0,
    decay: int = 0,
    unit: str = "steps",
    tokens: int,
) -> str:
    """`learning_rate` as YAML text; `warmup`, `horizon` and `decay` are in `unit`s of `tokens` each.

    ConfigError where they contradict each other.
    """
    entry = dict(entries)
    if warmup:
        entry["warmup"] = f"{warmup:_} {unit}"
    if entry["shape"] != "constant":
        if horizon <= warmup or decay > horizon - warmup:
            raise ConfigError(
                f"the learning rate rises for {warmup:,} {unit}"
                + (f" and falls for {decay:,}" if decay else "")
                + f", but ends at {horizon:,}",
                place=place,
                hint="the rise, then the fall, must fit before the end of the fall: one of these numbers is mistyped",
            )
        entry["horizon"] = f"{horizon * tokens:_}"
    if decay:
        entry["decay"] = f"{decay:_} {unit}"
    return flow(entry)


def flow(entries: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in entries.items()) + "}"
