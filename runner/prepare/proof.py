"""The fixed hostile corpus on which a fast encoder must give the ids of `tokenizers`, and the record that it did."""

from __future__ import annotations

import hashlib
import json
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from curriculum import fs
from runner.prepare.encoder import Encoder, EncoderDiffers, first_difference

CORPUS_VERSION = 1
"""Of the texts below; a change of any raises it, and then every tokenizer is proven again."""

OF_CATEGORY = 24
"""Code points of each general category, spread evenly."""
RANDOM_TEXTS = 2400
LONG_RUN = 4000
ADDED_TOKENS = 200
"""Of a tokenizer's added tokens, the most that are put into texts."""

PROBES = (
    *("", " ", "  ", "\n", "\t", "\r", "\r\n", "\n\n\n", " \n ", "\n \n", "\t \t", "\x0b\x0c", "\x1c\x1d\x1e\x1f\x85"),
    *("\0", "\0\0a", "\x7f", "\xa0", "\u3000", "\u2028\u2029", "\ufeff", "a\ufeffb", "\u200b\u200d\u200e", "\u2581"),
    *("\u2581a \u2581 b", "\ufffd\ufffe\uffff", "\U0010ffff\U0001ffff", "\ue000\U000f0000"),
    *("Hello, world!", "Hello  world", " Hello", "Hello ", "HELLO hello HeLLo", "don't DON'T we'll WE'LL I'm I'M it's"),
    *("they're THEY'RE we've WE'VE he'd HE'D 'tis ' 's '' ''s", "don’t it’s", "'\u017f 'S\u0307 \u212a'\u212a"),
    *("\u0130\u0131\u1e9e\u00df\ufb01\u01c5\u01c8", "\u03c3\u03c2\u03a3"),
    *("1", "12", "123", "1234", "12345678901234567890", "3.14159", "1,000,000.00", "1e-10", "0x1F", "²³½Ⅷ", "٠١٢٣٤"),
    *("१२३", "１２３", "1 2 3", "a1b2c3", "v1.2.3-rc4+build5"),
    *(
        "if (x == 1) {\n\treturn y[0] * 2;\n}\n",
        "def f(x):\n    return x  # \n\n\n",
        "<a href='x'>&nbsp;</a>",
        "\\n\\t\\\\",
    ),
    *(
        "https://example.org/a?b=c&d=%20#e",
        "name@example.org",
        "/usr/lib/x.so.1",
        "C:\\x\\y",
        "$x_1^2$",
        "@#$%^&*()_+-=",
    ),
    *("....", "... ...", "---", "— – -", "!!!???", "«»“”„‟", "[[{{(())}}]]", "a.b.c", "a_b__c", "#hash @at"),
    *("汉字", "汉 字", "汉字abc汉字123", "ひらがなカタカナ", "한국어", "한국어", "ไทยภาษา", "नमस्ते", "עברית", "العربية"),
    *("Ελληνικά", "Русский", "ქართული", "Հայերեն", "አማርኛ", "ខ្មែរ", "မြန်မာ", "ᠮᠣᠩᠭᠣᠯ", "𐍈𝕬𝓐𝟙", "e\u0301\u0323a\u030a"),
    *("\u0301", "a" + "\u0301" * 40, "👩‍👩‍👧‍👦", "🇩🇪🇫🇷🇯", "👍🏽", "☃️❄", "1️⃣", "\u202eabc\u202c", "\u1160\u11a8"),
    *(
        " a",
        "  a",
        "   a",
        "a ",
        "a  ",
        "a \n",
        "a\n ",
        " \ta",
        "\n\ta",
        "a\n\n b",
        "a\r\n\r\nb",
        "  \n  \n  a",
        "\u3000a",
    ),
    *(
        "<s>",
        "</s>",
        "<unk>",
        "<pad>",
        "<|endoftext|>",
        "<|im_start|>",
        "[CLS]",
        "[MASK]",
        "<0x0A>",
        "<0xE4>",
        "▁",
        "Ġ",
        "Ċ",
    ),
)


def hostile_corpus(added_tokens: Sequence[str]) -> Iterator[list[bytes]]:
    """The texts in batches: probes, every class of code points, the tokenizer's added tokens in text, long runs, and
    random strings, which are the same on every machine."""
    yield [
        text.encode() for text in (*PROBES, *(f"x{text}y" for text in PROBES), *(f" {text} {text}" for text in PROBES))
    ]
    yield [text.encode() for text in _code_point_texts()]
    yield [text.encode() for text in _added_token_texts(added_tokens)]
    yield [text.encode() for text in _long_runs()]
    yield [text.encode() for text in _random_texts(added_tokens)]


@lru_cache(maxsize=1)
def _categories() -> dict[str, list[str]]:
    """Code points by general category, surrogates left out, spread evenly; Latin-1 completely."""
    all_of: dict[str, list[str]] = {}
    for code in (*range(0x3400), *range(0x3400, 0x20000, 7), *range(0x20000, sys.maxunicode + 1, 997)):
        if not 0xD800 <= code < 0xE000:
            all_of.setdefault(unicodedata.category(chr(code)), []).append(chr(code))
    return {
        name: [*points[:: max(1, len(points) // OF_CATEGORY)], *(p for p in points if p < "\u0100")]
        for name, points in sorted(all_of.items())
    }


def _code_point_texts() -> Iterator[str]:
    for points in _categories().values():
        for point in points:
            yield f"{point} a{point}b {point}{point}1{point} \n{point}. {point}"
        yield "".join(points)
        yield " ".join(points)


def _added_token_texts(added_tokens: Sequence[str]) -> Iterator[str]:
    tokens = added_tokens[:: max(1, len(added_tokens) // ADDED_TOKENS)]
    for token in tokens:
        yield from (
            token,
            f"a{token}b",
            f" {token} ",
            f"{token}{token}",
            f"{token[:-1]} {token[1:]}",
            f"\n{token}\n汉{token}",
        )
    yield "".join(tokens)
    yield " ".join(tokens)
    for one, other in pairwise(tokens):
        yield one + other
        yield one[: len(one) // 2] + other + one[len(one) // 2 :]


def _long_runs() -> Iterator[str]:
    for unit in ("a", " ", "\n", "\t", "1", "A", ".", "-", "汉", "😀", "ab", "a ", " \n", "é", "\u0301", "a1", "\0"):
        yield unit * (LONG_RUN // len(unit))
        yield f"x{unit * 513} y"


def _random_texts(added_tokens: Sequence[str]) -> Iterator[str]:
    everything = [point for points in _categories().values() for point in points]
    letters = [chr(code) for code in range(0x20, 0x7F)]
    pieces = [*PROBES, *added_tokens[:ADDED_TOKENS], "the", "ing", " of", "import", "self.", "    "]
    alphabets = (letters, everything, pieces, [*letters, *everything[::5], *pieces])
    for number in range(RANDOM_TEXTS):
        stream = hashlib.shake_256(f"hostile corpus {CORPUS_VERSION}, text {number}".encode()).digest(100)
        alphabet = alphabets[number % len(alphabets)]
        length = 1 + stream[0] % (12 if number % 4 == 2 else 48)
        draws = (int.from_bytes(stream[2 * at : 2 * at + 2], "little") for at in range(1, 1 + length))
        yield "".join(alphabet[draw % len(alphabet)] for draw in draws)


_PROVEN: dict[str, dict[str, Any]] = {}
"""What this process has compared or read already."""


def prove(fast: Encoder, reference: Encoder, tokenizer_json: bytes, records: Path | None) -> None:
    """Compare the encoders on the hostile corpus; EncoderDiffers with the first text on which they differ.

    The result is recorded in the folder `records` for this tokenizer and these versions, and not made twice.
    """
    identity = {
        "corpus": CORPUS_VERSION,
        "tokenizer": hashlib.sha256(tokenizer_json).hexdigest(),
        "fast": fast.name,
        "reference": reference.name,
    }
    key = fs.digest(identity)
    path = None if records is None else records / f"{key[:16]}.json"
    record = _PROVEN.get(key) or (None if path is None else _recorded(path, identity))
    if record is None:
        added = [str(token["content"]) for token in json.loads(tokenizer_json).get("added_tokens") or []]
        try:
            difference = first_difference(fast, reference, hostile_corpus(added))
        except EncoderDiffers as failure:
            why = str(failure)
        else:
            why = "" if difference is None else f"{fast.name} differs from {reference.name} on {difference!r}"
        record = {**identity, "differs": why}
        if path is not None:
            fs.make_directory(path.parent)
            fs.write_sealed(path, record, replace=True)
    _PROVEN[key] = record
    if record["differs"]:
        raise EncoderDiffers(record["differs"])


def _recorded(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    try:
        record = fs.read_sealed(path)
    except (OSError, ValueError):
        return None
    return record if identity.items() <= record.items() and isinstance(record.get("differs"), str) else None
