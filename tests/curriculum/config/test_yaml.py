"""Reading YAML: what people mean, the place of everything, and refusals instead of surprises."""

from __future__ import annotations

import contextlib
import json
import os
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings, strategies as st

from curriculum.config import yaml as config_yaml
from curriculum.config.yaml import Document, load_yaml, parse_yaml
from curriculum.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = sorted([*ROOT.glob("stages/*.yaml"), *ROOT.glob("mixtures/*.yaml"), *ROOT.glob("*.yaml")])

MEANT: list[tuple[str, Any]] = [
    ("no", "no"),
    ("on", "on"),
    ("yes", "yes"),
    ("off", "off"),
    ("y", "y"),
    ("true", True),
    ("false", False),
    ("~", None),
    ("null", None),
    ("", None),
    ("none", "none"),
    ("010", 10),
    ("0o17", 15),
    ("0x1F", 31),
    ("1_000", 1000),
    ("-3", -3),
    ("+3", 3),
    ("3e-4", Decimal("0.0003")),
    ("4E-5", Decimal("0.00004")),
    ("1e3", Decimal("1000")),
    (".5", Decimal("0.5")),
    ("1.10", Decimal("1.10")),
    ("0.1", Decimal("0.1")),
    ("1:30", "1:30"),
    ("12:30:45", "12:30:45"),
    ("1.5T", "1.5T"),
    ("6B", "6B"),
    ("2000 steps", "2000 steps"),
    ("896 -> 16 sequences", "896 -> 16 sequences"),
    ("5%", "5%"),
    ("2024-01-02", "2024-01-02"),
    ("2024-01-02 03:04:05", "2024-01-02 03:04:05"),
    ("v1.1@1.2T", "v1.1@1.2T"),
    ("1.2.3", "1.2.3"),
    (".inf", ".inf"),
    (".nan", ".nan"),
    ("=", "="),
    ("<", "<"),
    ('"true"', "true"),
    ("'010'", "010"),
    ('"3e-4"', "3e-4"),
    ("'~'", "~"),
    ("'<<'", "<<"),
    ("1000000000000000000", 10**18),
]


@pytest.mark.promise("YAML is read as people mean it; no input at all gives a traceback (fuzzed)")
@pytest.mark.parametrize(("text", "meant"), MEANT)
def test_a_value_is_read_as_people_mean_it(text: str, meant: Any) -> None:
    value = parse_yaml(f"k: {text}\n".encode(), "f.yaml").value["k"]
    assert value == meant
    assert type(value) is type(meant)


def test_a_decimal_keeps_every_digit_that_was_written() -> None:
    value = parse_yaml(b"k: [1.10, 0.1, 3e-4]", "f.yaml").value["k"]
    assert [str(one) for one in value] == ["1.10", "0.1", "0.0003"]


@pytest.mark.parametrize("key", ["on", "no", "yes", "off", "y", "1.5T", "2024-01-02", "a b"])
def test_a_key_is_text_where_yaml_1_1_saw_something_else(key: str) -> None:
    assert parse_yaml(f"{key}: 1".encode(), "f.yaml").value == {key: 1}


NESTED = (
    "# first\r\ntop:\r\n  - {name: été, until: 1.5T}\n  - name: b\n    gap:\n    list: [1,\n      two]\nend: |\n  x\n"
)


def test_every_value_and_key_has_its_line_and_column() -> None:
    document = parse_yaml(NESTED.encode(), "f.yaml")

    def at(*path: str | int) -> tuple[int, int]:
        place = document.place(path)
        return place.line, place.column

    def key_at(*path: str | int) -> tuple[int, int]:
        place = document.key_place(path)
        return place.line, place.column

    assert at() == (2, 1)
    assert at("top") == (3, 3)
    assert at("top", 0) == (3, 5)
    assert at("top", 0, "until") == (3, 24)
    assert key_at("top", 0, "until") == (3, 17)
    assert key_at("top", 0) == (3, 5)
    assert at("top", 1, "list", 1) == (7, 7)
    assert at("end") == (8, 6)
    assert key_at("end") == (8, 1)
    assert document.place(("top", 0, "until")).text == "  - {name: été, until: 1.5T}"


def test_a_key_without_a_value_is_where_its_value_is_said_to_be() -> None:
    document = parse_yaml(NESTED.encode(), "f.yaml")
    assert document.value["top"][1]["gap"] is None
    assert document.place(("top", 1, "gap")) == document.key_place(("top", 1, "gap"))
    assert document.place(("top", 1, "gap")).line == 5


def test_a_place_that_the_file_does_not_state_is_a_key_error() -> None:
    document = parse_yaml(b"a: 1", "f.yaml")
    assert ("a",) in document
    assert ("b",) not in document
    with pytest.raises(KeyError):
        document.place(("b",))


def refusal(data: bytes) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(data, "f.yaml")
    return caught.value


def test_a_duplicate_key_shows_both_lines() -> None:
    assert refusal(b"seed: 3407\nabout: x\nseed: 1\n").render() == (
        "error: the key `seed` is here for the second time\n"
        "  first in line 1: seed: 3407\n"
        "  f.yaml:3:1\n"
        "  3 │ seed: 1\n"
        "    │ ^\n"
        "hint: keep one of the two"
    )


def test_bytes_that_are_not_utf_8_are_shown_with_their_offset() -> None:
    assert refusal(b"\xef\xbb\xbfabout: x\nwho: caf\xe9!\n").render() == (
        "error: byte 20 (0xe9) is not UTF-8\n"
        "  f.yaml:2:9\n"
        "  2 │ who: caf�!\n"
        "    │         ^\n"
        "hint: save the file as UTF-8"
    )


def test_a_nul_character_is_shown_where_it_stands() -> None:
    assert refusal(b"about: x\nwho: a\0b\n").render() == (
        "error: a NUL character\n"
        "  f.yaml:2:7\n"
        "  2 │ who: a�b\n"
        "    │       ^\n"
        "hint: remove it; a program that writes this file, or a copy from elsewhere, left it here"
    )


def test_an_alias_bomb_is_refused_at_its_first_anchor() -> None:
    bomb = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    assert refusal(bomb.encode()).render() == (
        "error: `&a` is an anchor, which is not read here\n"
        "  f.yaml:1:4\n"
        "  1 │ a: &a [x, x]\n"
        "    │    ^\n"
        "hint: remove it and write the value out where it is meant; text that begins with `&` needs quotes"
    )


REFUSED: list[tuple[bytes, int, int, str]] = [
    (b"", 1, 1, "empty"),
    (b"# nothing\n", 1, 1, "empty"),
    (b"---\n", 1, 1, "empty"),
    (b"~\n", 1, 1, "empty"),
    (b"a: 1\nb: !x 3\n", 2, 4, "tag"),
    (b"a: !!python/object:os.system {}\n", 1, 4, "`!!python/object:os.system` is a tag"),
    (b"a: !!str 3\n", 1, 4, "`!!str` is a tag"),
    (b"a: ! 3\n", 1, 4, "tag"),
    (b"a: [1, *b]\n", 1, 8, "alias"),
    (b"a: &b 3\n", 1, 4, "anchor"),
    (b"a: &b\n", 1, 4, "anchor"),
    (b"&b a: 3\n", 1, 1, "anchor"),
    (b"a:\n  <<: {b: 1}\n", 2, 3, "merge key"),
    (b"a: {b: 1, c: 2, b: 3}\n", 1, 17, "second time"),
    (b"a: 1\n'a': 2\n", 2, 1, "second time"),
    (b"a: 1\n---\nb: 2\n", 2, 1, "second document"),
    (b"%YAML 1.1\n---\na: 1\n", 1, 1, "directive"),
    (b"a: 1\n2: b\n", 2, 1, "not text"),
    (b"true: b\n", 1, 1, "not text"),
    (b"1.5: b\n", 1, 1, "not text"),
    (b"~: b\n", 1, 1, "not text"),
    (b"[a]: b\n", 1, 1, "a list or a mapping"),
    (b"? {a: 1}\n: b\n", 1, 3, "a list or a mapping"),
    (b"a: 1000000000000000001\n", 1, 4, "beyond 10^18"),
    (b"a: -1000000000000000001\n", 1, 4, "beyond 10^18"),
    (b"a: 0x" + b"f" * 40 + b"\n", 1, 4, "beyond 10^18"),
    (b"a: " + b"9" * 5000 + b"\n", 1, 4, "beyond 10^18"),
    (b"a: 1e400000000\n", 1, 4, "too large"),
    (b"a: 1e-400000000\n", 1, 4, "too small"),
    (b"a: 1e19\n", 1, 4, "too large"),
    (b"a: 1." + b"0" * 100 + b"\n", 1, 4, "too long"),
    (b"a: x\x07\n", 1, 5, "U+0007"),
    (b"a: x\x7f\n", 1, 5, "U+007F"),
    ("# ok\na: x\u202ey\n".encode(), 2, 5, "U+202E"),
    ("a: x\u2028b: 1\n".encode(), 1, 5, "U+2028"),
    ("a: x\ufeff\n".encode(), 1, 5, "U+FEFF"),
    (b'a: "x\\0"\n', 1, 4, "U+0000"),
    (b'"a\\x07": 1\n', 1, 1, "U+0007"),
    (b"\xff\xfea\0:\0", 1, 1, "not UTF-8"),
    (b"\xef\xbb\xbfab: \xff", 1, 5, "byte 7 (0xff) is not UTF-8"),
    (b"a: [" + b"1," * 50_000 + b"]", 1, 100_001, "more than 50,000 values"),
    (b"a:\n\tb: 1\n", 2, 1, "not YAML"),
    (b"a: [1, 2\nb: 3\n", 2, 2, "not YAML"),
    (b'a: 1\nb: "x\nc: 3\n', 2, 4, "not YAML"),
    (b"a: b: c\n", 1, 5, "not YAML"),
    (b"f: **/*.py\n", 1, 5, "not YAML"),
    (b"f: @x\n", 1, 4, "not YAML"),
    (b"[" * 33 + b"]" * 33, 1, 33, "nested deeper than 32"),
    (b"- " * 33 + b"x", 1, 65, "nested deeper than 32"),
]


@pytest.mark.parametrize(
    ("data", "line", "column", "what"), REFUSED, ids=[f"{data[:20]!r} {what}" for data, _, _, what in REFUSED]
)
def test_what_cannot_be_meant_is_refused_with_its_place_and_a_hint(
    data: bytes, line: int, column: int, what: str
) -> None:
    error = refusal(data)
    assert what in error.what
    assert error.place is not None
    assert (error.place.file, error.place.line, error.place.column) == ("f.yaml", line, column)
    assert error.hint


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (b"a:\n\tb: 1\n", "begins with a tab"),
        (b"files: **/*.py\n", "needs quotes"),
        (b"a: [1, 2\nb: 3\n", "opened in line 1"),
        (b'a: "x\n', "never closed"),
        (b'a: "\\d"\n', "single quotes"),
        (b"about: a: b\n", "`: ` needs quotes"),
        (b"a: `x`\n", "backquote needs quotes"),
        (b"about: !important\n", "begins with `!` needs quotes"),
        (b"12: x\n", 'put it in quotes: "12"'),
        (b"{a: 40, 12: x}\n", 'put it in quotes: "12"'),
        (b"{a: 40,12: x}\n", 'put it in quotes: "12"'),
        (b"{a: 40,000}\n", "write `40000`, `40_000` or `40k`"),
        (b"{a: 40,000 tokens, b: 1}\n", "write `40000 tokens`"),
        (b"a: {b: 1,\n  c: 1,5T }\n", "write `1.5T`"),
        (b"seed 1\nabout: x\n", "a colon and a space after the key: `seed: 1`"),
        (b"# so\n\nseed:1\nabout: x\n", "a space after the colon: `seed: 1`"),
        (b"about: x\nseed 1\nmodel: y\n", "a colon and a space after the key: `seed: 1`"),
        (b"about: x\nseed:1\n", "a space after the colon: `seed: 1`"),
        (b"about: x\nEnde\nmodel: y\n", "a key is expected here"),
    ],
)
def test_a_hint_names_the_way_out_of_a_common_slip(data: bytes, hint: str) -> None:
    assert hint in (refusal(data).hint or "")


@pytest.mark.parametrize("data", [b"about: x\nseed 1\nmodel: y\n", b"about: x\nseed:1\n", b"#\nseed 1\nabout: x\n"])
def test_a_line_without_its_colon_is_itself_what_is_shown(data: bytes) -> None:
    place = refusal(data).place
    assert place is not None
    assert (place.line, place.column) == (2, 1)
    assert place.text.startswith("seed")


def test_thirty_two_levels_are_read() -> None:
    assert parse_yaml(b"[" * 32 + b"]" * 32, "f.yaml").value


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "[[{a: ", "? "])
def test_extreme_nesting_is_a_refusal_and_no_recursion(opening: str) -> None:
    assert "nest" in refusal((opening * 100_000).encode()).what or opening == "? "


MEBIBYTE = 1 << 20
LARGE = {
    "items": "- a\n" * (MEBIBYTE // 4),
    "keys": "".join(f"k{i}: {i}\n" for i in range(75_000)),
    "pairs": "[" + "a: 1," * (MEBIBYTE // 5 - 1) + "]",
    "commas": "{" + "".join(f"a{i}: 1,{i}x: 1," for i in range(24_000)) + "}",
    "brackets": "[" * MEBIBYTE,
    "quotes": '"' * MEBIBYTE,
    "spaces": " " * MEBIBYTE,
    "lines": "\n" * MEBIBYTE,
    "hashes": "#" * MEBIBYTE,
    "digits": "a: " + "9" * (MEBIBYTE - 4),
    "underscores": "a: 1" + "_1" * (MEBIBYTE // 2 - 4),
    "points": "a: " + "1." * (MEBIBYTE // 2 - 4),
    "colons": ":" * MEBIBYTE,
    "staircase": "\n".join(" " * i + "a:" for i in range(1400)),
    "folded": "a: " + "b\n " * (MEBIBYTE // 3 - 4),
}


@pytest.mark.parametrize("name", LARGE)
def test_the_largest_file_is_read_or_refused_in_bounded_time(name: str) -> None:
    data = LARGE[name].encode()
    assert len(data) <= MEBIBYTE
    started = time.process_time()
    with contextlib.suppress(ConfigError):
        parse_yaml(data, "f.yaml")
    assert time.process_time() - started < 3


def test_a_file_beyond_the_limit_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    path.write_bytes(b"a: 1\n" + b"#" * MEBIBYTE)
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        load_yaml(path, root=tmp_path)
    path.write_bytes(b"a: 1\n" + b"#" * (MEBIBYTE - 5))
    assert load_yaml(path, root=tmp_path).value == {"a": 1}


def test_a_file_is_named_as_seen_from_the_project(tmp_path: Path) -> None:
    (tmp_path / "stages").mkdir()
    path = tmp_path / "stages" / "a.yaml"
    path.write_text("x: 1")
    assert str(load_yaml(path, root=tmp_path).place(("x",))) == "stages/a.yaml:1:4"


def test_what_is_no_readable_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")  # opening it would wait for ever
    for name, what in (("missing.yaml", "No such file"), (".", "not a file"), ("pipe.yaml", "not a file")):
        with pytest.raises(ConfigError, match=what):
            load_yaml(tmp_path / name, root=tmp_path)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_file_is_read_in_milliseconds(path: Path) -> None:
    load_yaml(path, root=ROOT)
    started = time.process_time()
    load_yaml(path, root=ROOT)
    assert time.process_time() - started < 0.05


def test_both_of_pyyaml_s_parsers_give_the_same_values_and_places(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [NESTED.encode(), *(path.read_bytes() for path in SHIPPED)]
    before = [parse_yaml(text, "f.yaml") for text in texts]
    monkeypatch.setattr(config_yaml, "_Loader", yaml.SafeLoader)
    assert [parse_yaml(text, "f.yaml") for text in texts] == before


# --- properties ------------------------------------------------------------------------------------------

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.decimals(Decimal(-(10**9)), Decimal(10**9), places=6).map(lambda d: d + Decimal("0.5"))
    | st.text(st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"]) | st.sampled_from("\n\t"))
)
KEYS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=10
)


class _Written(json.JSONEncoder):
    def default(self, o: Any) -> Any:
        return f"\0{o}\0"


@settings(deadline=None)
@given(st.dictionaries(KEYS, TREES, min_size=1, max_size=4), st.sampled_from([None, 1, 3]))
def test_json_is_read_as_itself(value: dict[str, Any], indent: int | None) -> None:
    text = json.dumps(value, cls=_Written, indent=indent, ensure_ascii=False)
    text = text.replace('"\\u0000', "").replace('\\u0000"', "")
    document = parse_yaml(text.encode(), "f.yaml")
    assert document.value == value
    _places_agree(document, (), value)


def _places_agree(document: Document, path: tuple[str | int, ...], value: Any) -> None:
    """At the place of every value, the line goes on with what JSON writes for it."""
    place = document.place(path)
    rest = place.text[place.column - 1 :]
    if isinstance(value, dict | list):
        assert rest[0] in "{["
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            _places_agree(document, (*path, key), item)
    elif value is not None:
        assert rest.startswith(str(value) if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False))


YAMLISH = st.lists(
    st.sampled_from(
        [*"abk019.-+_:,[]{}&*!|>%@`'\"#?~<=e \n\t\r", ": ", "- ", "\n  ", "<<", "true", "---\n", "1e", "é", "\0"]
    ),
    max_size=60,
).map("".join)


def _only_refused(data: bytes) -> None:
    try:
        document = parse_yaml(data, "f.yaml")
    except ConfigError as refused:
        error = refused
    else:
        _plain(document.value)
        return
    shown = error.render().splitlines()
    assert len(shown) <= 24
    assert max(map(len, shown)) <= 100
    assert error.hint
    place = error.place
    assert place is not None
    assert place.line >= 1
    assert 1 <= place.column <= len(place.text) + 1


def _plain(value: Any) -> None:
    if isinstance(value, dict):
        assert all(type(key) is str for key in value)
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _plain(item)
    assert type(value) in (dict, list, str, int, Decimal, bool, type(None))


@pytest.mark.promise("YAML is read as people mean it; no input at all gives a traceback (fuzzed)")
@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    _only_refused(data)


@settings(deadline=None)
@given(st.text(st.characters(), max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    _only_refused(text.encode("utf-8", "surrogatepass"))


@settings(max_examples=400, deadline=None)
@example("- - - :\n")
@example("a: !")
@example("a: |9\n x")
@given(YAMLISH)
def test_anything_made_of_yaml_s_own_marks_is_read_or_refused(text: str) -> None:
    _only_refused(text.encode())


@settings(deadline=None)
@given(st.sampled_from(SHIPPED), st.integers(0, 5000), st.sampled_from([*"[]{}:,'\"&*!|\n\t#- \0é"]))
def test_one_slip_in_a_shipped_file_is_read_or_refused(path: Path, at: int, slip: str) -> None:
    text = path.read_text()
    at %= len(text)
    _only_refused((text[:at] + slip + text[at:]).encode())
    _only_refused((text[:at] + slip + text[at + 1 :]).encode())
