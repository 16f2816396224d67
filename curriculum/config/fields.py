"""Parsers of single values: each returns the exact value, or raises a `Refusal` with a hint.

Numbers stay exact: a length is a `Length`, everything with a fraction a `Fraction`. A `Refusal` carries no
place; `validation.validate` adds it. Each parser comes with the JSON schema of the same values, made of the same limits
and patterns: it accepts all that the parser accepts, and little more.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from pydantic_core import CoreSchema, core_schema

from curriculum.errors import did_you_mean, shortened
from curriculum.units import (
    BYTES,
    COUNT,
    FRACTION,
    NUMBER,
    SUFFIX,
    Length,
    Unit,
    nearest_length,
    parse_bytes,
    parse_count,
    parse_fraction,
    parse_length,
    parse_rate,
    without_commas,
)

LONGEST_NAME: Final = 64
LONGEST_TEXT: Final = 2000
LONGEST_LABEL: Final = 63
LARGEST_COUNT: Final = 10**18
LARGEST_SIZE: Final = 2**31 - 1
"""Of a plain count: a vocabulary, a sequence's length, a number of GPUs."""

_NAME = re.compile(r"[a-z][a-z0-9.-]*")
_HUB = re.compile(r"[A-Za-z0-9_.-]{1,96}/[A-Za-z0-9_.-]{1,96}")
_EVIDENCE = re.compile(rf"({_NAME.pattern})@([0-9]{{4,8}})", re.ASCII)
_QUANTITY = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,3})?(?:[kMGTP]i?|m)?")
_SCALING = re.compile(r"(\d{1,10})\s*->\s*(\d{1,10})(?:\s+sequences?)?|(\d{1,10})\s+sequences?", re.ASCII)

Explicitness: TypeAlias = Literal["number", "scale", "unit"]


class Refusal(ValueError):
    """A wrong value. `message` continues the sentence that its key begins; `at` is the path to the wrong part.

    A hint `of_type` fits every key of its type: what the key means is put before it.
    """

    def __init__(self, message: str, hint: str, *at: str | int, on_key: bool = False, of_type: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.at = at
        self.on_key = on_key
        self.of_type = of_type


class UnknownKey(Refusal):
    """A `key` that its mapping does not have."""

    def __init__(self, key: str, hint: str) -> None:
        super().__init__(f"has no key `{shortened(key)}`", hint, key, on_key=True)
        self.key = key


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """The parser of a single value, and the JSON schema of its input."""

    read: Callable[[Any], Any]
    shape: Mapping[str, Any]

    def __call__(self, value: Any) -> Any:
        return self.read(value)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: Any) -> dict[str, Any]:
        return dict(self.shape)


def form(**shape: Any) -> Callable[[Callable[[Any], Any]], Form]:
    """A decorator that makes a parser a `Form` of this shape."""
    return lambda read: Form(read, shape)


def input_pattern(*patterns: str, above_zero: bool = False) -> str:
    """One pattern for what any of `patterns` matches, blanks around it, as every JSON schema validator reads it.

    With `above_zero`, of the digits of the number that it begins with one is not 0.
    """
    plain = re.sub(r"\(\?P<\w+>", "(?:", "|".join(patterns)).replace(r"\d", "[0-9]")
    some = r"(?=\s*[0-9_.]*[1-9])" if above_zero else ""
    return rf"^{some}\s*(?:{plain})\s*$"


class BatchScale(NamedTuple):
    """A batch of `from_` sequences (None: the root's own) becomes one of `to`; every other keeps its ratio to it."""

    from_: int | None
    to: int


class Evidence(NamedTuple):
    """The record of a study's decision that a mixture rests on."""

    study: str
    number: int

    def __str__(self) -> str:
        return f"{self.study}@{self.number:04}"


def is_name(text: object) -> bool:
    """Whether `text` may name a curriculum, stage, mixture, source, tokenizer, size or machine."""
    return isinstance(text, str) and len(text) <= LONGEST_NAME and bool(_NAME.fullmatch(text)) and ".." not in text


def describe(value: object) -> str:
    """A value for a message, short enough for a line: `the number 3`, `the text `no``."""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int | Decimal):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text `{shortened(value)}`" if value.strip() else "an empty text"
    return "nothing" if value is None else "a list" if isinstance(value, list | tuple) else "a mapping"


# --- text -----------------------------------------------------------------------------------------------


@form(type="string", minLength=1, maxLength=LONGEST_TEXT, pattern=r"\S")
def text(value: Any) -> str:
    if not isinstance(value, str):
        quoted = f'put it in quotes: "{value}"' if isinstance(value, int | Decimal) else ""
        raise Refusal(f"must be text, not {describe(value)}", quoted or "as in `a first try`", of_type=not quoted)
    if not value.strip() or len(value) > LONGEST_TEXT:
        raise Refusal(f"must be text of 1 to {LONGEST_TEXT:,} characters", "write some, or leave the key out")
    return value


@form(type="string", maxLength=LONGEST_NAME, pattern=rf"^(?!.*\.\.){_NAME.pattern}$")
def name(value: Any) -> str:
    if isinstance(value, str) and is_name(value):
        return value
    hint = f"a name is a-z, then a-z, 0-9, `.` and `-`; no `..`, and {LONGEST_NAME} characters at most"
    meant = not isinstance(value, str) or "/" in value
    raise Refusal(f"must be a name, not {describe(value)}", hint, of_type=meant)


@form(type="string", pattern=input_pattern(_EVIDENCE.pattern), examples=["domains@0001"])
def evidence(value: Any) -> Evidence:
    match = _EVIDENCE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or not is_name(match[1]):
        hint = "as in `domains@0001`, for runs/SIZE/domains/decisions/0001.json"
        raise Refusal(f"must be the record of a study, not {describe(value)}", hint)
    return Evidence(match[1], int(match[2]))


def label(*, dots: bool = False) -> Form:
    """A name that Kubernetes gives a DNS record: a label of RFC 1123, or with `dots` several."""
    one = "[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
    pattern = rf"{one}(?:\.{one})*" if dots else one
    matches = re.compile(pattern).fullmatch

    def read(value: Any) -> str:
        if not isinstance(value, str) or len(value) > LONGEST_LABEL or not matches(value):
            raise Refusal(
                f"must be a name that Kubernetes allows, not {describe(value)}",
                f"a-z, 0-9 and `-`{', with dots between' if dots else ''}, no capital letter, "
                f"{LONGEST_LABEL} characters at most, as in `my-team`",
            )
        return value

    return Form(read, {"type": "string", "maxLength": LONGEST_LABEL, "pattern": f"^{pattern}$"})


def one_or_more(one: Form) -> Form:
    """One value or a list of them, as a tuple."""
    read = one.read

    def read_all(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            return (read(value),)
        if not value:
            raise Refusal("must not be an empty list", "give at least one, or leave the key out")
        items = []
        for number, item in enumerate(value):
            try:
                items.append(read(item))
            except Refusal as refusal:
                raise Refusal(refusal.message, refusal.hint, number, of_type=refusal.of_type) from None
        return tuple(items)

    return Form(read_all, {"anyOf": [one.shape, {"type": "array", "items": one.shape, "minItems": 1}]})


_EVERY = r"every\s+(?P<n>[1-9]\d{0,3})(?:st|nd|rd|th)\s*"
_EVERY_INPUT = r"every\s+[1-9]\d{0,3}(?:st|nd|rd|th)"


@form(
    anyOf=[
        {"type": "string", "pattern": input_pattern(_EVERY_INPUT), "examples": ["every 4th"]},
        {"type": "integer", "minimum": 1, "maximum": 9999},
        {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9999}, "minItems": 1},
    ]
)
def layers(value: Any) -> int | tuple[int, ...]:
    """Some layers: n for `every n-th` of them, or their numbers, counted from 0."""
    every = re.fullmatch(_EVERY, value.strip(), re.ASCII) if isinstance(value, str) else None
    if every is not None:
        return int(every["n"])
    if type(value) is int and 1 <= value <= 9999:
        return value
    if isinstance(value, list | tuple) and value and all(type(n) is int and 0 <= n <= 9999 for n in value):
        return tuple(sorted(set(value)))
    raise Refusal(f"must name layers, not {describe(value)}", "as in `every 4th`, or `[3, 7]`, counted from 0")


@form(type=["string", "integer", "boolean"])
def column_value(value: Any) -> str | int | bool:
    if not isinstance(value, str | int | bool):
        raise Refusal(f"must be a value of the column, not {describe(value)}", "a text, a whole number, true or false")
    return value


@form(type="string", pattern=f"^{_HUB.pattern}$", examples=["OWNER/NAME"])
def hub(value: Any) -> str:
    if not isinstance(value, str) or not _HUB.fullmatch(value):
        message = f"must be a dataset of the hub, not {describe(value)}"
        raise Refusal(message, "as in `cerebras/SlimPajama-627B`", of_type=True)
    return value


@form(type="boolean")
def flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Refusal(f"must be true or false, not {describe(value)}", "write `true` or `false`, without quotes")
    return value


@form(enum=["auto", True, False])
def flag_or_auto(value: Any) -> bool | None:
    """True, False, or None for `auto`."""
    if value == "auto":
        return None
    if not isinstance(value, bool):
        raise Refusal(f"must be true, false or auto, not {describe(value)}", "write `true`, `false` or `auto`")
    return value


# --- numbers ---------------------------------------------------------------------------------------------


def integer(least: int, most: int, example: str, unit: str | None = None) -> Form:
    """A whole number from `least` to `most`; `32k` and `10_000` are numbers too. Its `unit`, if any, may follow it."""
    end = "10^18" if most == LARGEST_COUNT else f"{most:,}"
    ending = rf"(?:\s+{unit}s?)?" if unit else ""
    stated = re.compile(rf"{ending}\s*$", re.ASCII)

    def read(value: Any) -> int:
        with contextlib.suppress(ValueError):
            plain = _plain(value)
            number = parse_count(stated.sub("", plain) if isinstance(plain, str) and unit else plain)
            if least <= number <= most:
                return number
        commas = _without_commas(value)
        message = f"must be a whole number from {least:,} to {end}, not {describe(value)}"
        raise Refusal(message, commas or f"as in `{example}`", of_type=not commas)

    number_shape = {"type": "integer", "minimum": least, "maximum": most}
    return Form(read, _number_or_text_shape(number_shape, input_pattern(COUNT + ending)))


def number(example: str, *, zero: bool = False, most: str | None = None) -> Form:
    """An exact number above 0, or from 0 with `zero`; `5%` is one too."""
    limits = "from 0 up" if zero else "above 0"
    limits += "" if most is None else f", at most {most}"
    largest = None if most is None else parse_fraction(most)

    def read(value: Any) -> Fraction:
        with contextlib.suppress(ValueError):
            parsed = parse_fraction(value if isinstance(value, Decimal) else _plain(value))
            if (zero or parsed) and (largest is None or parsed <= largest):
                return parsed
        commas = _without_commas(value)
        message = f"must be a number {limits}, not {describe(value)}"
        raise Refusal(message, commas or f"as in `{example}`", of_type=not commas)

    number_shape: dict[str, Any] = {"type": "number", "minimum" if zero else "exclusiveMinimum": 0}
    if largest is not None:
        number_shape["maximum"] = float(largest)
    return Form(read, _number_or_text_shape(number_shape, input_pattern(FRACTION)))


def learning_rate(example: str, *, zero: bool = False) -> Form:
    """A learning rate above 0, or from 0 with `zero`, at most 1 and no percentage: a rate is no part of anything."""
    any_number = number(example, zero=zero)

    def read(value: Any) -> Fraction:
        if isinstance(value, str) and value.rstrip().endswith("%"):
            raise Refusal(
                f"must be a learning rate, not {describe(value)}",
                f"it is no part of a whole, and has no percent sign; as in `{example}`",
            )
        parsed: Fraction = any_number.read(value)
        if parsed > 1:
            hint = f"a step of AdamW moves a weight by about the rate, and most weights are below 1; as in `{example}`"
            raise Refusal(f"must be a learning rate of 1 at most, not {describe(value)}", hint)
        return parsed

    number_shape = {"type": "number", "minimum" if zero else "exclusiveMinimum": 0, "maximum": 1}
    return Form(read, _number_or_text_shape(number_shape, input_pattern(NUMBER)))


def pair(one: Form) -> Form:
    """Two values in a list."""

    def read_both(value: Any) -> tuple[Fraction, Fraction]:
        if not isinstance(value, list | tuple) or len(value) != 2:
            description = f"a list of {len(value)}" if isinstance(value, list | tuple) else describe(value)
            raise Refusal(f"must be a list of two numbers, not {description}", "as in `[0.9, 0.95]`")
        first, second = one_or_more(one)(value)
        return first, second

    return Form(read_both, {"type": "array", "items": one.shape, "minItems": 2, "maxItems": 2})


def length(example: str, *units: Unit, explicit: Explicitness, zero: bool = False) -> Form:
    """A length above 0, or from 0 with `zero`, in one of `units`.

    `explicit` is the least that must be stated, since a number alone is easily mistaken: the number, a scale such as
    `6B` (then it is tokens), or the unit.
    """

    listed = (
        "a length is a number, with k, M, B or T behind it for thousands to trillions, "
        f"in {' or '.join(units)}, as in `{example}`"
    )

    def hint_for(value: Any) -> str:
        if hint := _without_commas(value):
            return hint
        near = nearest_length(value, units) if isinstance(value, str) else None
        if near is None or (explicit == "unit" and " " not in near):
            return listed
        return f"did you mean `{near}`? {listed}"

    def read(value: Any) -> Length:
        try:
            plain = _plain(value)
            parsed = parse_length(plain)
        except ValueError:
            raise Refusal(f"must be a length, not {describe(value)}", hint_for(value)) from None
        if parsed.amount == 0 and not zero:
            raise Refusal("must be more than 0", f"as in `{example}`; or leave the key out")
        words = plain.split() if isinstance(plain, str) else []
        scaled = bool(words) and not words[-1][-1].isdigit()
        if (explicit == "unit" and len(words) < 2) or (explicit == "scale" and not scaled):
            choices = " or ".join(f"`{shortened(str(plain))} {unit}`" for unit in units[:2])
            raise Refusal(f"does not say its unit: {describe(value)}", f"write {choices}")
        if parsed.unit not in units:
            raise Refusal(f"must be in {' or '.join(units)}, not in {parsed.unit}", listed)
        return parsed

    endings = "|".join(f"{unit.removesuffix('s')}s?" for unit in units)
    with_unit = rf"{NUMBER}{SUFFIX}\s+(?:{endings})"
    if explicit == "unit":
        return Form(read, _text_shape(input_pattern(with_unit, above_zero=True), example))
    if explicit == "scale":
        with_scale = NUMBER + SUFFIX.replace("?)", ")")
        return Form(read, _text_shape(input_pattern(with_unit, with_scale, above_zero=True), example))
    number_shape = {"type": "integer", "minimum": 0 if zero else 1, "maximum": LARGEST_COUNT}
    pattern = input_pattern(with_unit, NUMBER + SUFFIX, above_zero=not zero)
    return Form(read, _number_or_text_shape(number_shape, pattern))


def rate(unit: str, example: str) -> Form:
    """An amount per something, its unit spelled out."""

    def read(value: Any) -> Fraction:
        with contextlib.suppress(ValueError):
            if parsed := parse_rate(str(_plain(value)), unit):
                return parsed
        raise Refusal(f"must be in {unit} and above 0, not {describe(value)}", f"as in `{example}`")

    return Form(read, _text_shape(input_pattern(rf"{NUMBER}{SUFFIX}\s+{unit}"), example))


@form(anyOf=[{"type": "number", "exclusiveMinimum": 0}, {"type": "string", "pattern": f"^{_QUANTITY.pattern}$"}])
def quantity(value: Any) -> str:
    """An amount above 0 as Kubernetes writes it."""
    written = str(value) if isinstance(value, str | int | Decimal) else ""
    if not _QUANTITY.fullmatch(written) or not re.search("[1-9]", written):
        raise Refusal(f"must be a quantity of Kubernetes above 0, not {describe(value)}", "as in `96` or `900Gi`")
    return written


@form(type="string", pattern=input_pattern(BYTES, above_zero=True), examples=["80GB"])
def memory(value: Any) -> int:
    """Bytes above 0, with their unit."""
    with contextlib.suppress(ValueError):
        if len(str(value)) <= 60 and (parsed := parse_bytes(value)):
            return parsed
    raise Refusal(f"must be an amount of memory above 0, not {describe(value)}", "as in `80GB`")


@form(type="string", pattern=input_pattern(_SCALING.pattern), examples=["896 -> 16 sequences"])
def batch_scale(value: Any) -> BatchScale:
    match = _SCALING.fullmatch(value.strip()) if isinstance(value, str) else None
    sides = [int(side) for side in match.groups() if side is not None] if match else []
    if not sides or not all(1 <= side <= LARGEST_SIZE for side in sides):
        raise Refusal(
            f"must say which batch becomes which, not {describe(value)}",
            "as in `896 -> 16 sequences`, or `16 sequences` for the root's whatever it is",
        )
    return BatchScale(sides[0] if len(sides) == 2 else None, sides[-1])


def unknown_key(key: object, keys: Iterable[str]) -> UnknownKey:
    """The error for a key that a mapping does not have; its message continues after the mapping's name."""
    names, word = list(keys), str(key)
    return UnknownKey(word, missing_colon(word, names) or did_you_mean(word, names))


def missing_colon(word: str, names: Iterable[str] | None = None) -> str | None:
    """The hint for a key that holds its value too: in braces, text without its `: ` is one long key.

    None where it does not begin with one of `names`, or, without them, with a name and a blank.
    """
    key, _, value = word.strip().replace(":", " ", 1).partition(" ")
    if not value.strip() or not (is_name(key) if names is None else key in names):
        return None
    return f"did you mean `{key}: {shortened(value)}`? a colon and a space follow a key"


def _text_shape(pattern: str, example: str) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern, "examples": [example]}


def _number_or_text_shape(number_shape: dict[str, Any], pattern: str) -> dict[str, Any]:
    return {"anyOf": [number_shape, {"type": "string", "pattern": pattern}]}


def _without_commas(value: Any) -> str | None:
    return without_commas(value) if isinstance(value, str) else None


def _plain(value: Any) -> str | int:
    """The input of the unit parsers: `3e9` and `2.5` as exact texts; ValueError for what is no number."""
    if not isinstance(value, str | int | Decimal):
        raise ValueError(f"{describe(value)} is not a number")
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, str) and len(value) > 60:
        raise ValueError("no number is so long")
    return value
