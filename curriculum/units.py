"""Counts, lengths, shares, bytes and durations: parsed exactly, formatted with units.

Nothing is parsed through a float: `1.5T` is an int, `5%` a Fraction. What cannot be parsed exactly, or exceeds 2^62, is
a ValueError in one sentence; the caller adds the place in the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal
from fractions import Fraction
from typing import Final, Literal, TypeAlias, get_args

Unit: TypeAlias = Literal["tokens", "steps", "sequences"]

LARGEST_COUNT: Final = 2**62

_SCALES: Final = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
NUMBER: Final = r"(?P<digits>\d+(?:_\d+)*(?:\.\d+(?:_\d+)*)?)(?P<exponent>[eE][+-]?\d{1,3})?"
SUFFIX: Final = r"(?P<suffix>[kKMBT]?)"
COUNT: Final = NUMBER + r"\s?" + SUFFIX
FRACTION: Final = NUMBER + r"\s?(?P<percent>%?)"
"""Regular expressions of the accepted texts, without surrounding blanks."""

BYTES: Final = NUMBER + r"\s?(?P<suffix>[MGT]i?B)"
"""The regular expression of an amount of memory."""

_COMMAS: Final = re.compile(r"(?P<number>\d{1,18}(?:,\d{1,18}){1,6})(?P<rest>[kKMBT]?(?:\s+[a-z]+)?)", re.ASCII)
_ALMOST: Final = re.compile(r"(?P<number>\d+(?:_\d+)*(?:\.\d+)?)\s*(?P<words>[A-Za-z]*(?:\s+[A-Za-z]+)*)", re.ASCII)
_SPELLED: Final = {
    **dict.fromkeys(("k", "kb", "thousand"), "k"),
    **dict.fromkeys(("m", "mb", "mio", "million", "millions"), "M"),
    **dict.fromkeys(("b", "g", "gb", "bn", "billion", "billions"), "B"),
    **dict.fromkeys(("t", "tb", "trillion", "trillions"), "T"),
}
"""Other spellings of the suffixes, in lower case."""

_COUNT: Final = re.compile(COUNT, re.ASCII)
_FRACTION: Final = re.compile(FRACTION, re.ASCII)


def parse_count(value: str | int) -> int:
    """A whole number, 0 to 2^62: `1.5T`, `6B`, `24k` (k or K, M, B, T are decimal), `10_000`, `1e9`, 1500."""
    exact = _quantity(value)
    if exact.denominator != 1:
        raise ValueError(f"`{value}` is not a whole number")
    if exact > LARGEST_COUNT:
        raise ValueError(f"`{value}` is too large: counts end at 2^62, about 4.6 million T")
    return int(exact)


def parse_fraction(value: str | int | Decimal | Fraction) -> Fraction:
    """An exact number from 0 up: `5%`, `1e-6`, `0.05`, 75. Not a float, which is already rounded."""
    if isinstance(value, str):
        match = _FRACTION.fullmatch(value.strip())
        if match is None:
            raise ValueError(f"`{value}` is not a number from 0 up; write `0.05`, `5%` or `1e-6`")
        return _decimal(match) / (100 if match["percent"] else 1)
    if isinstance(value, bool) or not isinstance(value, int | Decimal | Fraction):
        raise ValueError(f"`{value}` is not an exact number but a {type(value).__name__}")
    if isinstance(value, Decimal) and not value.is_finite():
        raise ValueError(f"`{value}` is not a finite number")
    if value < 0:
        raise ValueError(f"`{value}` is below zero")
    return Fraction(value)


@dataclass(frozen=True, slots=True)
class Length:
    """An amount with its unit; steps and sequences convert to tokens by the batch."""

    amount: int
    unit: Unit

    def __post_init__(self) -> None:
        if self.unit not in get_args(Unit):
            raise ValueError(f"a length is in tokens, steps or sequences, not in {self.unit}")
        if not 0 <= self.amount <= LARGEST_COUNT:
            raise ValueError(f"a length must be from 0 to 2^62, not {self.amount:,}")

    def tokens(self, *, sequence_length: int, batch_sequences: int) -> int:
        """The length in tokens; ValueError beyond 2^62."""
        factor = {"tokens": 1, "sequences": sequence_length, "steps": sequence_length * batch_sequences}
        tokens = self.amount * factor[self.unit]
        if tokens > LARGEST_COUNT:
            raise ValueError(f"{self} are {tokens:,} tokens: too many, counts end at 2^62")
        return tokens

    def __str__(self) -> str:
        """The shortest exact spelling: `1.5T`, `1835008`, `2000 steps`, `1 sequence`."""
        if self.unit == "tokens":
            short = show_count(self.amount)
            return short if _quantity(short) == self.amount else str(self.amount)
        return f"{self.amount} {self.unit.removesuffix('s') if self.amount == 1 else self.unit}"


def parse_length(value: str | int, default: Unit = "tokens") -> Length:
    """`6B`, `6B tokens`, `2000 steps`, `896 sequences` or a number, which is in `default`."""
    words = value.split() if isinstance(value, str) else [value]
    if len(words) == 1:
        return Length(parse_count(words[0]), default)
    units: dict[object, Unit] = {spelling: u for u in get_args(Unit) for spelling in (u, u.removesuffix("s"))}
    if len(words) != 2 or words[1] not in units:
        raise ValueError(f"`{value}` is not a length; write `6B`, `6B tokens`, `2000 steps` or `896 sequences`")
    return Length(parse_count(words[0]), units[words[1]])


def parse_rate(value: str, unit: str) -> Fraction:
    """The number before `unit`: `24k tokens/s/gpu`, `1.5 USD/gpu-hour`. The unit must be there, as given."""
    number, _, written_unit = value.strip().partition(" ") if isinstance(value, str) else (value, "", "")
    if written_unit.strip() != unit:
        raise ValueError(f"`{value}` does not say `{unit}`; write for example `2.5k {unit}`")
    return _quantity(number)


def parse_bytes(value: str) -> int:
    """Whole bytes, rounded down: `80GB` and `1.5 TB` are decimal, `79.1 GiB` is binary."""
    match = re.fullmatch(BYTES, value.strip(), re.ASCII) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"`{value}` is not an amount of memory; write `80GB` or `79.1 GiB`")
    power = "MGT".index(match["suffix"][0]) + 2
    return int(_decimal(match) * (1024 if "i" in match["suffix"] else 1000) ** power)


def without_commas(text: str) -> str | None:
    """The hint for a number written with commas: `40,000`, `1,5T`. None for any other text."""
    match = _COMMAS.fullmatch(text.strip())
    if match is None:
        return None
    number, rest = match["number"], match["rest"]
    first, *groups = number.split(",")
    if len(groups) == 1 and (len(groups[0]) != 3 or first == "0"):
        return f"write `{first}.{groups[0]}{rest}`, with a point"
    if any(len(group) != 3 for group in groups):
        return None
    spellings = [first + "".join(groups), "_".join([first, *groups])]
    short = str(Length(int(spellings[0]), "tokens"))
    if not rest[:1].isalpha() and len(short) < len(spellings[0]):  # `40,000k` has a suffix already
        spellings.append(short)
    shown = [f"`{spelling}{rest}`" for spelling in dict.fromkeys(spellings)]
    return f"write {', '.join(shown[:-1])} or {shown[-1]}, without the comma"


def nearest_length(text: str, units: Iterable[Unit]) -> str | None:
    """The probable meaning of `text` in `units`: `40k` for `40kb`, `16 sequences` for `16 seqs`; None if ambiguous."""
    match = _ALMOST.fullmatch(text.strip())
    if match is None:
        return None
    suffix, unit = "", ""
    for word in match["words"].lower().split():
        stem = word.removesuffix("s")
        near = [name for name in units if len(stem) > 2 and name.startswith(stem)]
        if word in _SPELLED and not suffix and not unit:
            suffix = _SPELLED[word]
        elif near and not unit:
            unit = f" {near[0]}"
        else:
            return None
    try:
        return str(parse_length(f"{match['number']}{suffix}{unit}"))
    except ValueError:
        return None


def _quantity(value: object) -> Fraction:
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise ValueError(f"`{value}` is below zero")
        return Fraction(value)
    match = _COUNT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"`{value}` is not a count; write `1500`, `10_000`, `24k`, `6B` or `1.5T`")
    return _decimal(match) * _SCALES[match["suffix"].replace("K", "k")]


def _decimal(match: re.Match[str]) -> Fraction:
    return Fraction(match["digits"].replace("_", "") + (match["exponent"] or ""))


def show_count(n: int) -> str:
    """At most four significant digits and a suffix: `1.5T`, `1.835M`, `896`. Exact where those suffice."""
    return _scaled(n, tuple(_SCALES), 4)


def show_exact(n: int) -> str:
    """Every digit, in groups of three: `1,500,001,599,488`."""
    return f"{n:,}"


def counted(n: int, noun: str) -> str:
    """A number of things: `1 run`, `18 runs`, `1,200 runs`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def show_share(share: Fraction) -> str:
    """A share in percent: `37.5%`, `66.67%`. Digits are added below 1, so that only 1 is shown as 100%."""
    digits = 4
    shown = _rounded(share * 100)
    while shown == "100" and share != 1:
        digits += 1
        shown = _rounded(share * 100, digits)
    return shown + "%"


def show_bytes(n: int) -> str:
    """Decimal units, as disks are sold: `13.2 GB`."""
    return _scaled(n, (" B", " kB", " MB", " GB", " TB", " PB"), 3)


def _scaled(n: int, suffixes: tuple[str, ...], digits: int) -> str:
    """`n` in the first of `suffixes`, each 1000 times the one before, that leaves less than 1000; else in the last."""
    numbers = [_rounded(Fraction(n, 1000**power), digits) for power in range(len(suffixes))]
    power = next((at for at, number in enumerate(numbers) if abs(float(number)) < 1000), -1)
    return numbers[power] + suffixes[power]


def show_seconds(seconds: float) -> str:
    """The two largest units that matter: `0.42 s`, `12 s`, `3 min 05 s`, `1 h 02 min`, `15 d 02 h`."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 10:
        return f"{_rounded(Fraction(seconds), 2)} s"
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24:,} d {hours % 24:02d} h"


def _rounded(value: Fraction, digits: int = 4) -> str:
    """`value` rounded (half up) to `digits` significant digits, without an exponent or trailing zeros."""
    context = Context(digits, ROUND_HALF_UP)
    quotient = context.divide(Decimal(value.numerator), Decimal(value.denominator))
    return f"{quotient.normalize(context):f}"
