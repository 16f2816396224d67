"""Single values as people write them: each reader gives the exact value meant, or refuses with the way out.

Numbers stay exact: a length is a `Length`, everything with a fraction a `Fraction`. A `Refusal` carries no
place; `schema.validate` knows where the value stands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from curriculum.errors import did_you_mean
from curriculum.units import Length, Unit, parse_count, parse_fraction, parse_length, parse_rate

LONGEST_NAME: Final = 64
LONGEST_TEXT: Final = 2000
LARGEST_COUNT: Final = 10**18
LARGEST_SIZE: Final = 2**31 - 1
"""Of whatever is a plain count: a vocabulary, a sequence's length, a number of GPUs."""

_NAME = re.compile(r"[a-z][a-z0-9.-]*")
_HUB = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
_SCALING = re.compile(r"(\d{1,10})\s*->\s*(\d{1,10})(?:\s+sequences?)?", re.ASCII)

Said: TypeAlias = Literal["number", "scale", "unit"]


class Refusal(ValueError):
    """A value that cannot be meant. `message` goes on after its key; `at` leads to the part that is wrong."""

    def __init__(self, message: str, hint: str, *at: str | int, on_key: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.at = at
        self.on_key = on_key


class BatchScale(NamedTuple):
    """A batch of `from_` sequences becomes one of `to`; every other batch keeps its ratio to it."""

    from_: int
    to: int


def is_name(text: object) -> bool:
    """Whether `text` may name a curriculum, stage, mixture, source, tokenizer, size or machine."""
    return (
        isinstance(text, str)
        and len(text) <= LONGEST_NAME
        and bool(_NAME.fullmatch(text))
        and ".." not in text
    )


def seen(value: object) -> str:
    """A value in words, short enough for a line: `the number 3`, `the text `no``."""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int | Decimal):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text `{shortened(value)}`" if value.strip() else "an empty text"
    return "nothing" if value is None else "a list" if isinstance(value, list | tuple) else "a mapping"


def shortened(text: str, most: int = 40) -> str:
    """`text` on one line of at most `most` characters."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


# --- words -----------------------------------------------------------------------------------------------


def text(value: Any) -> str:
    if not isinstance(value, str):
        hint = (
            f'put it in quotes: "{value}"'
            if isinstance(value, int | Decimal)
            else "as in `about: a first try`"
        )
        raise Refusal(f"must be text, not {seen(value)}", hint)
    if not value.strip() or len(value) > LONGEST_TEXT:
        raise Refusal(f"must be text of 1 to {LONGEST_TEXT:,} characters", "write some, or leave the key out")
    return value


def name(value: Any) -> str:
    if isinstance(value, str) and is_name(value):
        return value
    hint = f"a name is a-z, then a-z, 0-9, `.` and `-`; no `..`, and {LONGEST_NAME} characters at most"
    raise Refusal(f"must be a name, not {seen(value)}", hint)


def one_or_more(read: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    """One value or a list of them, as a tuple."""

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
                raise Refusal(refusal.message, refusal.hint, number) from None
        return tuple(items)

    return read_all


def column_value(value: Any) -> str | int | bool:
    if not isinstance(value, str | int | bool):
        raise Refusal(
            f"must be a value of the column, not {seen(value)}", "a text, a whole number, true or false"
        )
    return value


def hub(value: Any) -> str:
    if not isinstance(value, str) or not _HUB.fullmatch(value):
        raise Refusal(f"must be a dataset of the hub, not {seen(value)}", "as in `cerebras/SlimPajama-627B`")
    return value


def flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Refusal(f"must be true or false, not {seen(value)}", "write `true` or `false`, without quotes")
    return value


def flag_or_auto(value: Any) -> bool | None:
    """True, False, or None for `auto`."""
    if value == "auto":
        return None
    if not isinstance(value, bool):
        raise Refusal(f"must be true, false or auto, not {seen(value)}", "write `true`, `false` or `auto`")
    return value


# --- numbers ---------------------------------------------------------------------------------------------


def whole(least: int, most: int, example: str) -> Callable[[Any], int]:
    """A whole number from `least` to `most`; `32k` and `10_000` are numbers too."""
    end = "10^18" if most == LARGEST_COUNT else f"{most:,}"

    def read(value: Any) -> int:
        try:
            number = parse_count(_plain(value))
        except ValueError:
            number = None
        if number is None or not least <= number <= most:
            raise Refusal(
                f"must be a whole number from {least:,} to {end}, not {seen(value)}",
                f"as in `{example}`",
            )
        return number

    return read


def number(example: str, *, zero: bool = False, most: str | None = None) -> Callable[[Any], Fraction]:
    """An exact number above 0, or from 0 with `zero`; `5%` is one too."""
    limits = "from 0 up" if zero else "above 0"
    limits += "" if most is None else f", at most {most}"
    largest = None if most is None else parse_fraction(most)

    def read(value: Any) -> Fraction:
        try:
            found = parse_fraction(value if isinstance(value, Decimal) else _plain(value))
        except ValueError:
            found = None
        if found is None or (not zero and found == 0) or (largest is not None and found > largest):
            raise Refusal(f"must be a number {limits}, not {seen(value)}", f"as in `{example}`")
        return found

    return read


def pair(read: Callable[[Any], Fraction]) -> Callable[[Any], tuple[Fraction, Fraction]]:
    """Two values in a list."""

    def read_both(value: Any) -> tuple[Fraction, Fraction]:
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise Refusal(f"must be a list of two numbers, not {seen(value)}", "as in `[0.9, 0.95]`")
        first, second = one_or_more(read)(value)
        return first, second

    return read_both


def length(example: str, *units: Unit, said: Said) -> Callable[[Any], Length]:
    """A length above 0 in one of `units`.

    `said` is the least that must be there, since a number alone is easily taken for the wrong thing: the
    number, a scale such as `6B` (then it is tokens), or the unit.
    """

    def read(value: Any) -> Length:
        try:
            plain = _plain(value)
            found = parse_length(plain)
        except ValueError:
            raise Refusal(f"must be a length, not {seen(value)}", f"as in `{example}`") from None
        words = plain.split() if isinstance(plain, str) else []
        scaled = bool(words) and not words[-1][-1].isdigit()
        if (said == "unit" and len(words) < 2) or (said == "scale" and not scaled):
            choices = " or ".join(f"`{shortened(str(plain))} {unit}`" for unit in units[:2])
            raise Refusal(f"does not say its unit: {seen(value)}", f"write {choices}")
        if found.unit not in units:
            raise Refusal(f"must be in {' or '.join(units)}, not in {found.unit}", f"as in `{example}`")
        if found.amount == 0:
            raise Refusal("must be more than 0", f"as in `{example}`; or leave the key out")
        return found

    return read


def rate(unit: str, example: str) -> Callable[[Any], Fraction]:
    """An amount per something, its unit spelled out."""

    def read(value: Any) -> Fraction:
        try:
            found = parse_rate(str(_plain(value)), unit)
        except ValueError:
            found = Fraction(0)
        if not found:
            raise Refusal(f"must be in {unit} and above 0, not {seen(value)}", f"as in `{example}`")
        return found

    return read


def batch_scale(value: Any) -> BatchScale:
    found = _SCALING.fullmatch(value.strip()) if isinstance(value, str) else None
    sides = [int(side) for side in found.groups()] if found else []
    if not sides or not all(1 <= side <= LARGEST_SIZE for side in sides):
        raise Refusal(f"must say which batch becomes which, not {seen(value)}", "as in `896 -> 16 sequences`")
    return BatchScale(*sides)


def unknown_key(key: object, keys: Iterable[str]) -> Refusal:
    """The refusal of a key that a mapping does not have; its message goes on after the mapping's name."""
    return Refusal(f"has no key `{shortened(str(key))}`", did_you_mean(str(key), keys), str(key), on_key=True)


def _plain(value: Any) -> str | int:
    """What the unit parsers take: `3e9` and `2.5` go as exact texts; ValueError for what is no number."""
    if not isinstance(value, str | int | Decimal):
        raise ValueError(f"{seen(value)} is no number")
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, str) and len(value) > 60:
        raise ValueError("no number is so long")
    return value
