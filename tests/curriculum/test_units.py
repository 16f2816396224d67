"""Numbers are read exactly as written, shown shortly, and never guessed."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, strategies as st

from curriculum.units import (
    LARGEST_COUNT,
    Length,
    counted,
    nearest_length,
    parse_bytes,
    parse_count,
    parse_fraction,
    parse_length,
    parse_rate,
    show_bytes,
    show_count,
    show_exact,
    show_seconds,
    show_share,
    without_commas,
)

COUNTS = st.integers(0, LARGEST_COUNT)


# --- reading ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "count"),
    [("80GB", 80 * 10**9), ("1.5 TB", 1_500_000_000_000), ("79.1 GiB", 84_932_978_278), ("512MiB", 512 << 20)],
)
def test_an_amount_of_memory_is_read_in_whole_bytes(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["80", "80 B", "80gb", "GB", "-1GB", "8kB", ""])
def test_an_amount_of_memory_needs_its_unit(text: str) -> None:
    with pytest.raises(ValueError, match=r"write `80GB` or"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1.5T", 1_500_000_000_000),
        ("6B", 6_000_000_000),
        ("24k", 24_000),
        ("24K", 24_000),
        ("2.5 M", 2_500_000),
        (1500, 1500),
        ("10_000", 10_000),
        ("0", 0),
        (" 896 ", 896),
        ("1e9", 10**9),
        ("1.85T", 1_850_000_000_000),
        ("0.000000000001T", 1),
        ("9007199254740993", 2**53 + 1),
        ("1234567.890123T", 1_234_567_890_123_000_000),
        (LARGEST_COUNT, LARGEST_COUNT),
    ],
)
def test_a_count_is_read_exactly(text: str | int, count: int) -> None:
    assert parse_count(text) == count
    assert type(parse_count(text)) is int


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("1.5", "`1.5` is not a whole number"),
        ("1.0001k", "is not a whole number"),
        ("1e-3", "is not a whole number"),
        ("-5", "is not a count"),
        (-5, "is below zero"),
        ("", "is not a count"),
        ("B", "is not a count"),
        ("6G", "is not a count; write"),
        ("6b", "is not a count"),
        ("6Bk", "is not a count"),
        ("1,500", "is not a count"),
        ("1__0", "is not a count"),
        ("_1", "is not a count"),
        ("١٥", "is not a count"),
        ("nan", "is not a count"),
        ("1e9999", "is not a count"),
        (True, "is not a count"),
        (1.5e12, "is not a count"),
        (None, "is not a count"),
        ("6B tokens", "is not a count"),
        (LARGEST_COUNT + 1, "is too large"),
        ("10000000T", "is too large"),
        ("1e999T", "is too large"),
    ],
)
def test_what_is_no_exact_count_is_refused(text: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse_count(text)


@pytest.mark.parametrize(
    ("text", "fraction"),
    [
        ("5%", Fraction(1, 20)),
        ("12.5 %", Fraction(1, 8)),
        ("1e-6", Fraction(1, 10**6)),
        ("0.05", Fraction(1, 20)),
        ("0.1", Fraction(1, 10)),
        ("75", Fraction(75)),
        (75, Fraction(75)),
        (Decimal("0.693584"), Fraction(693_584, 10**6)),
        (Fraction(1, 3), Fraction(1, 3)),
        ("0", Fraction()),
        ("1E+2", Fraction(100)),
    ],
)
def test_a_fraction_is_read_exactly(text: Any, fraction: Fraction) -> None:
    assert parse_fraction(text) == fraction
    assert type(parse_fraction(text)) is Fraction


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (0.1, "is not an exact number but a float"),
        (True, "is not an exact number but a bool"),
        (None, "is not an exact number but a NoneType"),
        (Decimal("nan"), "is not a finite number"),
        (Decimal("-0.1"), "is below zero"),
        (-1, "is below zero"),
        ("-1", "is not a number from 0 up"),
        ("5%%", "is not a number from 0 up"),
        ("1/3", "is not a number from 0 up"),
        ("half", "is not a number from 0 up"),
        ("", "is not a number from 0 up"),
        ("1k", "is not a number from 0 up"),
    ],
)
def test_what_is_no_exact_fraction_is_refused(text: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse_fraction(text)


@given(st.decimals(min_value=0, max_value=10**12, allow_nan=False, allow_infinity=False, places=6))
def test_every_decimal_is_read_as_what_it_says(value: Decimal) -> None:
    assert parse_fraction(str(value)) == Fraction(value)
    assert parse_fraction(f"{value}%") == Fraction(value) / 100


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("6B", Length(6 * 10**9, "tokens")),
        ("6B tokens", Length(6 * 10**9, "tokens")),
        ("2000 steps", Length(2000, "steps")),
        ("2k steps", Length(2000, "steps")),
        ("1 step", Length(1, "steps")),
        ("896  sequences", Length(896, "sequences")),
        (1500, Length(1500, "tokens")),
    ],
)
def test_a_length_carries_its_unit(text: str | int, length: Length) -> None:
    assert parse_length(text) == length


def test_a_bare_number_takes_the_default_unit() -> None:
    assert parse_length(896, default="sequences") == Length(896, "sequences")
    assert parse_length("2k", default="steps") == Length(2000, "steps")
    assert parse_length("5 tokens", default="steps") == Length(5, "tokens")


@pytest.mark.parametrize("text", ["6 B tokens", "6B bytes", "steps", "", "2000steps", "5 Steps", "-5 steps", None])
def test_what_is_no_length_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match=r"is not a (length|count)"):
        parse_length(text)


@pytest.mark.parametrize(
    ("text", "way"),
    [
        ("40,000", "write `40000`, `40_000` or `40k`, without the comma"),
        ("1,234,567", "write `1234567` or `1_234_567`, without the comma"),
        ("40,000 tokens", "write `40000 tokens`, `40_000 tokens` or `40k tokens`, without the comma"),
        ("40,000k", "write `40000k` or `40_000k`, without the comma"),
        ("1,5T", "write `1.5T`, with a point"),
        ("0,125", "write `0.125`, with a point"),
        *[(text, None) for text in ("40000", "1,2,3", "40, 000", "a,b", ",1", "1,", "40,0000,000")],
    ],
)
def test_a_number_with_commas_is_refused_with_how_it_is_written(text: str, way: str | None) -> None:
    assert without_commas(text) == way


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("40kb", "40k"),
        ("40 thousand", "40k"),
        ("40 k", "40k"),
        ("6b", "6B"),
        ("1.5 trillion tokens", "1.5T"),
        ("16 seqs", "16 sequences"),
        ("16seq", "16 sequences"),
        ("1 sequenc", "1 sequence"),
        ("10M steps of", None),
        ("16 stp", None),
        ("0.5 seqs", None),
        ("some tokens", None),
    ],
)
def test_what_is_almost_a_length_is_refused_with_the_length_it_may_mean(text: str, near: str | None) -> None:
    assert nearest_length(text, ("sequences", "tokens")) == near


def test_only_a_unit_that_is_allowed_is_suggested() -> None:
    assert nearest_length("16 seqs", ("tokens",)) is None


def test_a_length_becomes_tokens_by_the_batch() -> None:
    v1_1 = {"sequence_length": 2048, "batch_sequences": 896}
    assert parse_length("2000 steps").tokens(**v1_1) == 3_670_016_000
    assert parse_length("896 sequences").tokens(**v1_1) == 1_835_008
    assert parse_length("6B").tokens(**v1_1) == 6_000_000_000


def test_a_length_beyond_every_clock_is_refused() -> None:
    with pytest.raises(ValueError, match="too many"):
        Length(2**50, "steps").tokens(sequence_length=2048, batch_sequences=896)
    for amount in (-1, LARGEST_COUNT + 1):
        with pytest.raises(ValueError, match="a length must be from 0"):
            Length(amount, "tokens")
    with pytest.raises(ValueError, match="not in hours"):
        Length(1, "hours")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (Length(1_500_000_000_000, "tokens"), "1.5T"),
        (Length(1_835_008, "tokens"), "1835008"),
        (Length(2000, "steps"), "2000 steps"),
        (Length(1, "sequences"), "1 sequence"),
        (Length(0, "steps"), "0 steps"),
    ],
)
def test_a_length_is_shown_as_one_writes_it(length: Length, text: str) -> None:
    assert str(length) == text


@given(COUNTS, st.sampled_from(["tokens", "steps", "sequences"]))
def test_a_length_shown_is_the_length_read(amount: int, unit: Any) -> None:
    length = Length(amount, unit)
    assert parse_length(str(length)) == length


@pytest.mark.parametrize(
    ("text", "unit", "rate"),
    [
        ("24k tokens/s/gpu", "tokens/s/gpu", Fraction(24_000)),
        ("2 USD/gpu-hour", "USD/gpu-hour", Fraction(2)),
        ("1.99  USD/gpu-hour", "USD/gpu-hour", Fraction(199, 100)),
    ],
)
def test_a_rate_is_read_exactly_with_its_unit(text: str, unit: str, rate: Fraction) -> None:
    assert parse_rate(text, unit) == rate


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("24k", "does not say `tokens/s/gpu`; write for example"),
        ("24k tokens/s", "does not say `tokens/s/gpu`"),
        (24_000, "does not say `tokens/s/gpu`"),
        ("fast tokens/s/gpu", "`fast` is not a count"),
    ],
)
def test_a_rate_without_its_unit_is_refused(text: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse_rate(text, "tokens/s/gpu")


# --- showing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (896, "896"),
        (999, "999"),
        (1000, "1k"),
        (1_835_008, "1.835M"),
        (7_340_032, "7.34M"),
        (999_949, "999.9k"),
        (999_950, "1M"),
        (1_500_001_599_488, "1.5T"),
        (1_850_000_015_360, "1.85T"),
        (123_456_789_000_000_000, "123500T"),
        (-1500, "-1.5k"),
    ],
)
def test_a_count_is_shown_in_at_most_four_digits(count: int, text: str) -> None:
    assert show_count(count) == text


@given(st.integers(0, 10**16))
def test_a_count_shown_is_near_the_count_and_short(count: int) -> None:
    text = show_count(count)
    assert len(text) <= 6
    assert abs(parse_count(text) - count) <= count / 2000


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (Fraction(3, 8), "37.5%"),
        (Fraction(2, 3), "66.67%"),
        (Fraction(1), "100%"),
        (Fraction(), "0%"),
        (Fraction(1, 10**6), "0.0001%"),
        (Fraction(999_999, 10**6), "99.9999%"),
        (1 - Fraction(1, 10**50), "99." + "9" * 48 + "%"),
        (Fraction(1_000_001, 10**6), "100.0001%"),
        (Fraction(1, 64), "1.563%"),
    ],
)
def test_a_share_is_shown_in_percent_and_only_a_whole_as_100(share: Fraction, text: str) -> None:
    assert show_share(share) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999_600, "1 MB"),
        (4_400_193_536, "4.4 GB"),
        (13_200_580_608, "13.2 GB"),
        (1_800_000_000_000, "1.8 TB"),
        (25 * 10**17, "2500 PB"),
    ],
)
def test_bytes_are_shown_as_disks_are_sold(count: int, text: str) -> None:
    assert show_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.4249, "0.42 s"),
        (9.99, "10 s"),
        (12.3, "12 s"),
        (59.7, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (3725, "1 h 02 min"),
        (86_390, "1 d 00 h"),
        (15.1 * 86_400, "15 d 02 h"),
        (1e8, "1,157 d 10 h"),
        (math.inf, "unknown"),
        (math.nan, "unknown"),
    ],
)
def test_a_duration_is_shown_in_the_two_units_that_matter(seconds: float, text: str) -> None:
    assert show_seconds(seconds) == text


def test_an_exact_count_keeps_every_digit() -> None:
    assert show_exact(1_500_001_599_488) == "1,500,001,599,488"


def test_one_thing_is_counted_in_the_singular() -> None:
    assert [counted(n, "run") for n in (0, 1, 18, 1200)] == ["0 runs", "1 run", "18 runs", "1,200 runs"]
