"""Values of studies/*.yaml: limits, budgets, bounds of shares, and lists of what is varied, each with its form."""

import re
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import PlainSerializer

from curriculum.config import fields
from curriculum.config.entry import Batch, Span, Tokens
from curriculum.config.fields import Refusal
from curriculum.units import FRACTION, NUMBER, SUFFIX, Length, parse_count, parse_fraction


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
_DROP = re.compile(rf"at\s+(?P<share>{_SHARE})", re.ASCII)
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


class VariedSource(NamedTuple):
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


@fields.form(type="string", pattern=fields.input_pattern(r"[a-z][a-z0-9.-]*(?:\s+from\s+0)?"))
def _varied(value: Any) -> VariedSource:
    match = _ADDED.fullmatch(_words(value))
    if match is None or not fields.is_name(match["name"]):
        hint = "as in `[stack-edu, finemath]`; `finemath from 0` varies a source that the mixture gives no weight"
        raise Refusal(f"must be a source, not {fields.describe(value)}", hint)
    return VariedSource(match["name"], match["zero"] is not None)


@fields.form(type="string", pattern=f"^{_COLUMNS.pattern}$", examples=["train_the_pile_*"])
def _columns(value: Any) -> str:
    if not isinstance(value, str) or not _COLUMNS.fullmatch(value):
        hint = "as in `train_the_pile_*`: the name of the source is where the star is"
        raise Refusal(f"must be a column's name with one `*`, not {fields.describe(value)}", hint)
    return value


@fields.form(**_text_form(_DROP, "at 50%"))
def _drop(value: Any) -> Fraction:
    """The share of its length at which an arm is judged a first time."""
    match = _DROP.fullmatch(_words(value))
    share = parse_fraction(match["share"]) if match else Fraction(0)
    if not 0 < share < 1:
        raise Refusal(f"must be a share of an arm's length, not {fields.describe(value)}", "as in `at 50%`")
    return share


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

MOST_REPLICATES: Final = 99
"""Each is an arm that is planned, trained and compared; the noise of a mean of 99 is a tenth of that of one."""

Replicates = Annotated[int, fields.integer(1, MOST_REPLICATES, "3")]
LossLimit = Annotated[Limit, _limit, _shown]
StudyBudget = Annotated[Budget, _budget, _plain]
DropAt = Annotated[Fraction, _drop, PlainSerializer(lambda share: f"at {float(100 * share):g}%", return_type=str)]
ShareBounds = Annotated[Bounds, _bounds, _plain]
Shares = Annotated[tuple[Fraction, ...], _shares, _as_floats]
Batches = Annotated[tuple[Length, ...], _batches, _as_texts]
Lengths = Annotated[tuple[Length, ...], fields.one_or_more(_form_of(Tokens)), _as_texts]
Spans = Annotated[tuple[Length, ...], fields.one_or_more(_form_of(Span)), _as_texts]
Factors = Annotated[tuple[Fraction, ...], fields.one_or_more(_rate_factor), _as_floats]
Flags = Annotated[tuple[bool, ...], fields.one_or_more(fields.flag)]
VariedSources = Annotated[tuple[VariedSource, ...], fields.one_or_more(_varied)]
Columns = Annotated[str, _columns]
