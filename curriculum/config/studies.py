"""studies/*.yaml: which futures of a curriculum are trained beside each other, and what is wanted of them."""

import re
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple, Self

from pydantic import Field, PlainSerializer, model_validator

from curriculum.config import fields
from curriculum.config.entry import (
    Batch,
    Entry,
    Name,
    Names,
    Position,
    Rate,
    RateOrZero,
    Size,
    Span,
    Text,
    Tokens,
    Weight,
    exactly_one,
    lacks,
)
from curriculum.config.fields import Refusal
from curriculum.config.stages import EveryEntry
from curriculum.units import FRACTION, NUMBER, SUFFIX, Length, parse_count, parse_fraction

LEAST_RUNS_OVER: Final = 3
"""A swarm has at least this many runs more than sources: one more than the law of a mixture has numbers."""
RUNS_A_SOURCE: Final = 5
"""The runs of a swarm for each of its sources, where a study does not say."""
LEAST_SHARES: Final = 3
"""Of a line of shares: fewer do not fix a curve."""


def _unnamed(pattern: str) -> str:
    """`pattern` without the names of its groups, to be used twice."""
    return re.sub(r"\?P<\w+>", "?:", pattern)


_NUMBER: Final = _unnamed(NUMBER)
_SHARE: Final = _unnamed(FRACTION)
_LIMIT = re.compile(
    rf"(?P<base>before|control)(?:\s*(?P<sign>[+-])\s*(?P<by>{_NUMBER}))?|(?P<loss>{_NUMBER})", re.ASCII
)
_BUDGET = re.compile(rf"(?P<amount>{_NUMBER}\s?{_unnamed(SUFFIX)})\s+(?P<unit>tokens|USD|gpu-hours)", re.ASCII)
_BOUNDS = re.compile(rf"(?P<low>{_SHARE})\s*(?:\.\.\s*(?P<high>{_SHARE}))?", re.ASCII)
_FACTOR = re.compile(rf"x\s?(?P<factor>{_NUMBER})", re.ASCII)
_ADDED = re.compile(r"(?P<name>\S+)(?P<zero>\s+from\s+0)?")
_COLUMNS = re.compile(r"[^*]*\*[^*]*")


class Limit(NamedTuple):
    """The largest loss (nats a token) that `keep` allows: `base` plus `by`.

    `base` is the loss at the branch point (`before`), that of the arm that goes on as the stage's parent (`control`),
    or `loss`: 0.
    """

    base: Literal["before", "control", "loss"]
    by: Fraction

    def __str__(self) -> str:
        if self.base == "loss":
            return f"{float(self.by):g}"
        sign = "-" if self.by < 0 else "+"
        return f"{self.base} {sign} {float(abs(self.by)):g}" if self.by else self.base


class Budget(NamedTuple):
    """What all runs of a study may take together, at full size."""

    amount: Fraction
    unit: Literal["tokens", "USD", "gpu-hours"]


class Bounds(NamedTuple):
    """The smallest and the largest share that a source may have."""

    low: Fraction
    high: Fraction


class Varied(NamedTuple):
    """A source of a swarm; with `from_zero` the mixture around which it is varied gives it no weight."""

    name: str
    from_zero: bool


def _text_form(pattern: re.Pattern[str], example: str) -> dict[str, Any]:
    return {"type": "string", "pattern": fields.input_pattern(pattern.pattern), "examples": [example]}


def _words(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


_limit_text = _text_form(_LIMIT, "before + 0.02")


@fields.form(anyOf=[{"type": "number", "exclusiveMinimum": 0}, _limit_text])
def _limit(value: Any) -> Limit:
    hint = "as in `before`, `before + 0.02`, `control + 0.01`, or a loss in nats a token: `2.87`"
    written = format(value, "f") if isinstance(value, Decimal) else str(value) if isinstance(value, int) else value
    match = _LIMIT.fullmatch(_words(written))
    if match is None or isinstance(value, bool):
        raise Refusal(f"must be a limit of a loss, not {fields.describe(value)}", hint)
    if match["base"] is None:
        by = parse_fraction(match["loss"])
        if not by:
            raise Refusal("must be a loss above 0", hint)
        return Limit("loss", by)
    by = parse_fraction(match["by"]) if match["by"] else Fraction(0)
    base: Literal["before", "control"] = "before" if match["base"] == "before" else "control"
    return Limit(base, -by if match["sign"] == "-" else by)


@fields.form(**_text_form(_BUDGET, "12T tokens"))
def _budget(value: Any) -> Budget:
    match = _BUDGET.fullmatch(_words(value))
    amount = Fraction(0)
    if match is not None:
        try:
            amount = Fraction(parse_count(match["amount"]))
        except ValueError:
            match = None
    if match is None or not amount:
        hint = "as in `12T tokens`, `300 USD` or `40 gpu-hours`; it holds for all runs together"
        raise Refusal(f"must be an amount of tokens, USD or gpu-hours, not {fields.describe(value)}", hint)
    unit: Literal["tokens", "USD", "gpu-hours"] = match["unit"]  # type: ignore[assignment]
    return Budget(amount, unit)


@fields.form(anyOf=[{"type": "number", "minimum": 0, "maximum": 1}, _text_form(_BOUNDS, "20%..40%")])
def _bounds(value: Any) -> Bounds:
    hint = "as in `20%..40%`, or `30%` for a share that stays"
    written = format(value, "f") if isinstance(value, Decimal) else str(value) if isinstance(value, int) else value
    match = _BOUNDS.fullmatch(_words(written))
    if match is None or isinstance(value, bool):
        raise Refusal(f"must be a share or two, not {fields.describe(value)}", hint)
    low = parse_fraction(match["low"])
    high = parse_fraction(match["high"]) if match["high"] else low
    if not low <= high <= 1:
        raise Refusal(f"must be from the smaller to the larger, at most 100%, not {fields.describe(value)}", hint)
    return Bounds(low, high)


@fields.form(anyOf=[{"const": "kept"}, _text_form(_FACTOR, "x0.5")])
def _rate_factor(value: Any) -> Fraction:
    """By how much the learning rate is multiplied; `kept` is 1."""
    if value == "kept":
        return Fraction(1)
    match = _FACTOR.fullmatch(_words(value))
    factor = parse_fraction(match["factor"]) if match else None
    if not factor:
        raise Refusal(
            f"must be `kept` or a factor above 0, not {fields.describe(value)}", "as in `[kept, x0.5, x0.25]`"
        )
    return factor


@fields.form(type="string", pattern=r"^[a-z][a-z0-9.-]*(\s+from\s+0)?$")
def _varied(value: Any) -> Varied:
    match = _ADDED.fullmatch(_words(value))
    if match is None or not fields.is_name(match["name"]):
        hint = "as in `[stack-edu, finemath]`; `finemath from 0` varies a source that the mixture gives no weight"
        raise Refusal(f"must be a source, not {fields.describe(value)}", hint)
    return Varied(match["name"], match["zero"] is not None)


@fields.form(type="string", pattern=f"^{_COLUMNS.pattern}$", examples=["train_the_pile_*"])
def _columns(value: Any) -> str:
    if not isinstance(value, str) or not _COLUMNS.fullmatch(value):
        hint = "as in `train_the_pile_*`: the name of the source is where the star is"
        raise Refusal(f"must be a column's name with one `*`, not {fields.describe(value)}", hint)
    return value


def _form_of(annotated: Any) -> fields.Form:
    """The parser of an annotated type of `entry`."""
    form = annotated.__metadata__[0]
    assert isinstance(form, fields.Form)
    return form


_shares = fields.one_or_more(fields.number("40%", zero=True))
_batches = fields.one_or_more(_form_of(Batch))
_as_texts = PlainSerializer(lambda values: [str(value) for value in values], return_type=list[str])
_as_floats = PlainSerializer(lambda values: [float(value) for value in values], return_type=list[float])
_shown = PlainSerializer(str, return_type=str)
_plain = PlainSerializer(
    lambda pair: [float(part) if isinstance(part, Fraction) else part for part in pair], return_type=list[Any]
)

LossLimit = Annotated[Limit, _limit, _shown]
StudyBudget = Annotated[Budget, _budget, _plain]
ShareBounds = Annotated[Bounds, _bounds, _plain]
Shares = Annotated[tuple[Fraction, ...], _shares, _as_floats]
Batches = Annotated[tuple[Length, ...], _batches, _as_texts]
Lengths = Annotated[tuple[Length, ...], fields.one_or_more(_form_of(Tokens)), _as_texts]
Spans = Annotated[tuple[Length, ...], fields.one_or_more(_form_of(Span)), _as_texts]
Factors = Annotated[tuple[Fraction, ...], fields.one_or_more(_rate_factor), _as_floats]
Flags = Annotated[tuple[bool, ...], fields.one_or_more(fields.flag)]
VariedSources = Annotated[tuple[Varied, ...], fields.one_or_more(_varied)]
Columns = Annotated[str, _columns]


class SwarmEntry(Entry):
    """A swarm: mixtures around one, chosen so that the runs tell most about the law."""

    around: Name = Field(description="The mixture that the swarm is around; as in `math-code`.")
    runs: Size | None = Field(default=None, description="Runs of the swarm, else five for each source; as in `15`.")
    only: VariedSources | None = Field(
        default=None,
        description="Sources that vary; the others keep their ratios to each other. `NAME from 0` adds a source; "
        "as in `[stack-edu, finemath from 0]`.",
    )


class ShareEntry(Entry):
    """A line: one source at several shares, the others in their own proportions."""

    of: Name = Field(description="The source; as in `slimpajama`.")
    at: Shares = Field(description="Its shares, each an arm; as in `[10%, 25%, 40%, 60%]`.")

    @model_validator(mode="after")
    def _different_shares(self) -> Self:
        for number, share in enumerate(self.at):
            hint = "three different shares below 100% fix a curve, as in `[10%, 25%, 40%]`"
            if share >= 1:
                raise Refusal(f"is {float(share):.4g} of the whole: nothing is left for the others", hint, "at", number)
            if share in self.at[:number]:
                raise Refusal("is stated twice", hint, "at", number)
        return self


class AddEntry(Entry):
    """New sources, each tried alone at the same share."""

    sources: Names = Field(description="The sources, each an arm; as in `[finemath, stack-edu]`.")
    share: Annotated[Fraction, fields.number("30%", most="0.999999"), PlainSerializer(float)] = Field(
        description="The share that each gets; as in `30%`."
    )
    into: Name | None = Field(
        default=None, description="The mixture that they are added to, else what the branch point reads."
    )

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        _unique(self.sources, "sources")
        return self


def _unique(values: tuple[Any, ...], *at: str) -> None:
    for number, value in enumerate(values):
        if value in values[:number]:
            raise Refusal("is stated twice", "each value is one arm: leave one of the two out", *at, number)


READ: Final = ("mixture", "share", "add", "list")
"""Keys of `vary` that change what is read; one of them at most."""


class VaryEntry(Entry):
    """What differs between the arms: one key, or a grid of all combinations."""

    mixture: SwarmEntry | None = Field(
        default=None, description="A swarm of mixtures; as in `{around: math-code, runs: 15}`."
    )
    share: ShareEntry | None = Field(
        default=None, description="A line of shares; as in `{of: slimpajama, at: [10%, 25%, 40%]}`."
    )
    add: AddEntry | None = Field(
        default=None, description="One new source at a time; as in `{sources: [finemath], share: 30%}`."
    )
    list: Names | None = Field(default=None, description="Mixtures by name; as in `[math-code, math-code-2]`.")
    batch: Batches | None = Field(default=None, description="Batches; as in `[896 sequences, 3584 sequences]`.")
    learning_rate: Factors | None = Field(
        default=None, description="Factors of the learning rate; as in `[kept, x0.5, x0.25]`."
    )
    tokens: Lengths | None = Field(default=None, description="Lengths of the arms; as in `[50B, 100B]`.")
    ramp: Spans | None = Field(default=None, description="How long shares move; as in `[6B, 20B]`.")
    rewarm: Spans | None = Field(default=None, description="How long the rate moves; as in `[1B, 5B]`.")
    mask_documents: Flags | None = Field(
        default=None, description="Whether attention ends at a document's end; as in `[true, false]`."
    )

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        stated = [key for key in type(self).model_fields if key in self.model_fields_set]
        if not stated:
            raise Refusal("varies nothing", "as in `vary: {mixture: {around: math-code, runs: 15}}`")
        read = [key for key in stated if key in READ]
        if len(read) > 1:
            hint = f"what is read is varied by one of {', '.join(READ)}"
            raise Refusal(f"is one too many: `{read[0]}` is given as well", hint, read[1])
        for key in ("mixture", "share", "add"):
            if key in stated and len(stated) > 1:
                other = next(name for name in stated if name != key)
                hint = f"ask for `{other}` in a study of its own; `list` of mixtures may be part of a grid"
                raise Refusal(f"cannot be part of a grid with `{key}`", hint, other)
        for key in stated:
            values = getattr(self, key)
            if isinstance(values, tuple):
                _unique(values, key)
        if self.mixture is None and self.add is None and self.share is None and self.points < 2:
            raise Refusal("varies nothing: it has one value", "give at least two, as in `[kept, x0.5]`", stated[0])
        return self

    @property
    def points(self) -> int:
        """The combinations of a grid."""
        count = 1
        for key in GRID:
            count *= len(getattr(self, key) or (None,))
        return count


GRID: Final = ("list", "batch", "learning_rate", "tokens", "ramp", "rewarm", "mask_documents")
"""Keys of `vary` whose values are combined."""


class GoalEntry(Entry):
    """What is wanted: losses on held-out text."""

    lower: dict[Text, Weight] = Field(
        description="Source to its weight in the mean held-out loss that is minimised; as in `{proof-pile-2: 1}`."
    )
    keep: dict[Text, LossLimit] = Field(
        default={}, description="Source to the loss it may not exceed; as in `{slimpajama: before + 0.02}`."
    )

    @model_validator(mode="after")
    def _a_question(self) -> Self:
        if not any(self.lower.values()):
            hint = "as in `lower: {proof-pile-2: 1}`: the held-out losses whose mean is minimised"
            raise Refusal("minimises nothing", hint, "lower")
        for name in self.keep:
            if name in self.lower:
                hint = "what is minimised cannot be a limit too: leave one of the two out"
                raise Refusal(f"limits `{name}`, which `lower` minimises", hint, "keep", name, on_key=True)
        return self


class AnnealEntry(Entry):
    """Arms whose learning rate falls in a straight line from that of the branch point."""

    to: RateOrZero = Field(description="The rate at an arm's end; as in `0`.")


class ForecastEntry(Entry):
    """A schedule that is not trained: the law of the runs that are there predicts its end."""

    shape: Literal["cosine", "wsd", "linear", "constant"] = Field(description="cosine, wsd, linear or constant.")
    horizon: Position = Field(description="Where it ends; as in `3T`.")
    max: Rate | None = Field(default=None, description="The highest rate, else the arms' own.")
    min: RateOrZero | None = Field(default=None, description="The last rate, else the arms' own.")
    decay: Span | None = Field(default=None, description="How long wsd's fall is; as in `100B`.")

    @model_validator(mode="after")
    def _decay_of_wsd(self) -> Self:
        if (self.shape == "wsd") != (self.decay is not None):
            if self.shape == "wsd":
                raise Refusal("lacks `decay`", "wsd falls at its end, as in `decay: 100B`")
            raise Refusal(f"is not supported with `shape: {self.shape}`", "it belongs to the shape wsd", "decay")
        return self


class TableEntry(Entry):
    """Runs that others trained: two CSV files, a row for each run."""

    shares: Text = Field(description="CSV file of the share of each source; as in `data/mixtures.csv`.")
    losses: Text = Field(description="CSV file of the held-out losses; as in `data/losses.csv`.")
    join: Text = Field(default="index", description="Column that both files have, and that names the run.")
    share_columns: Columns = Field(
        default="*", description="Columns of shares, `*` the source's name; as in `train_the_pile_*`."
    )
    loss_columns: Columns = Field(
        default="*", description="Columns of losses, `*` the source's name; as in `metric/the_pile_*_val_loss`."
    )


CONTROLS: Final = ("kept", "stated", "natural", "uniform")
ASKS_OF_RUNS: Final = ("vary", "tokens", "budget", "controls", "repetition", "learning_rate", "every")
"""Keys that say something of runs that are trained for the study; `arms:` and `table:` have none."""

_NEEDS: Final[Mapping[str, str]] = {
    "for": "`for: v1.1-math-code/continual` asks about a stage",
    "from": "`from: v1.1/basic` with `tokens:` starts arms from a checkpoint",
    "arms": "`arms: [v1.1, v1.1-wsd]` takes runs that are there",
    "table": "`table:` those of others",
}


class StudyFile(Entry):
    """studies/NAME.yaml: a question, and the runs that answer it."""

    one_of: ClassVar[tuple[str, ...]] = ("for", "from", "arms", "table")

    about: Text | None = Field(default=None, description="What is asked, for people.")
    for_: Text | None = Field(
        default=None, alias="for", description="NAME/STAGE whose setting is in question; as in `v1.1/cooldown`."
    )
    from_: Text | None = Field(
        default=None, alias="from", description="NAME[/STAGE][@TOKENS] that every arm branches from; with `tokens`."
    )
    arms: Names | None = Field(default=None, description="Curricula that are compared; as in `[v1.1, v1.1-wsd]`.")
    table: TableEntry | None = Field(default=None, description="Runs that others trained, as CSV files.")
    tokens: Tokens | None = Field(
        default=None, description="Length of each arm; with `for`, else the stage's own; as in `10B`."
    )
    vary: VaryEntry | None = Field(default=None, description="What differs between the arms.")
    goal: GoalEntry = Field(description="What is minimised and what may not get worse.")
    budget: StudyBudget | None = Field(
        default=None, description="What all runs may take, at full size: tokens, USD or gpu-hours; as in `12T tokens`."
    )
    replicates: Size = Field(
        default=3, description="Runs of each control and each proposal, each reading its text in another order."
    )
    seeds: Size | None = Field(
        default=None,
        description="Trunks under other seeds; else 2 below full size where the second costs less than a quarter of "
        "the arms; as in `2`.",
    )
    controls: Annotated[tuple[str, ...], fields.one_or_more(fields.name)] | None = Field(
        default=None, description="Which of kept, stated, natural and uniform; else all; as in `[kept, stated]`."
    )
    always: dict[Text, ShareBounds] = Field(
        default={}, description="Source to the shares that a proposal may give it; as in `{code: 20%..40%}`."
    )
    repetition: Literal["matched", "free"] = Field(
        default="matched",
        description="matched: an arm shorter than its stage repeats new sources as the stage would; free: it does not.",
    )
    learning_rate: AnnealEntry | None = Field(
        default=None, description="How the rate of the arms falls to their end; as in `{to: 0}`."
    )
    forecast: dict[Name, ForecastEntry] = Field(
        default={}, description="Schedules to order, not trained; as in `{late: {shape: wsd, horizon: 2T, decay: 1T}}`."
    )
    law: Literal["annealing", "multi-power"] | None = Field(
        default=None, description="The law of schedules: annealing or multi-power, else both."
    )
    every: EveryEntry | None = Field(default=None, description="Cadence of evaluations and checkpoints of the arms.")

    @property
    def subject(self) -> Literal["for", "from", "arms", "table"]:
        """Which of the four the file states."""
        return "for" if self.for_ else "from" if self.from_ else "arms" if self.arms else "table"

    @model_validator(mode="after")
    def _fits_its_subject(self) -> Self:
        exactly_one(self, "; ".join(_NEEDS.values()))
        stated = {type(self).model_fields[name].alias or name for name in self.model_fields_set}
        if self.subject in ("for", "from"):
            if self.vary is None:
                raise lacks("vary", type(self).model_fields["vary"].description)
            if self.subject == "from" and self.tokens is None and self.vary.tokens is None:
                raise Refusal("lacks `tokens`", "say how long each arm is, as in `tokens: 10B`")
            for key in ("forecast", "law"):
                if key in stated:
                    raise Refusal(f"is not supported with `{self.subject}:`", "it belongs to `arms:`", key)
        else:
            for key in (*ASKS_OF_RUNS, "replicates", "seeds"):
                if key in stated:
                    hint = "leave it out: no arm is trained for this study"
                    raise Refusal(f"is not supported with `{self.subject}:`", hint, key)
        if self.arms is not None:
            _unique(self.arms, "arms")
            if len(self.arms) < 2 and not self.forecast:
                raise Refusal("has one curriculum: nothing is compared", "give at least two", "arms")
        self._check_keys()
        return self

    def _check_keys(self) -> None:
        for number, name in enumerate(self.controls or ()):
            if name not in CONTROLS:
                hint = f"there are: {', '.join(CONTROLS)}"
                raise Refusal(f"is no control: `{name}`", hint, "controls", number)
        vary = self.vary
        if vary is None:
            return
        for key in ("learning_rate", "tokens"):
            if getattr(self, key) is not None and getattr(vary, key) is not None:
                raise Refusal("is varied as well", "state it once, here or in `vary:`", key)
        if vary.share is not None and self.goal.keep and len(vary.share.at) < LEAST_SHARES:
            hint = "three different shares below 100% fix a curve, as in `[10%, 25%, 40%]`"
            raise Refusal(f"has {len(vary.share.at)}: too few for `keep`", hint, "vary", "share", "at")
