"""Conversion of a Llama-2 `tokenizer.model` (SentencePiece BPE) to a `tokenizer.json` that gives the same ids.

A SentencePiece BPE stores no merges: two neighbours are joined whenever the result is a piece, the best score first. So
every split of a piece into two pieces is a merge, in the order of the scores. The usual converters add merges that
apply to runs of spaces too early, which changes source code; these do not.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from curriculum.errors import DataError

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6
_BPE = 2
SPACE = "▁"

# Texts on which different tokenizers usually differ: whitespace, scripts, bytes without a piece.
PROBES = (
    "def f(x):\n    if x:\n        return  x  # two  blanks\n\n\tTabbed = {'a':   1}\n",
    "        eight before\n                sixteen before\n   \n  trailing   ",
    "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。我们在2023年训练了一个小模型。",
    "naïve café — “quoted” … ½ ≠ ∑ 🙂 👩‍👩‍👧 \u200b\u00a0\ufeff \x07",
    " leading and </s> <s> <unk> inside, <0x41> too",
    'x = 1_000_000; y=0xDEADBEEF\r\nprintf("%5.2f\\n", y);\r\n',
    "αβγ אבג ابت กขค हिन्दी 한국어 日本語ひらがなカタカナ",
)


class _Model(NamedTuple):
    pieces: list[tuple[str, float, int]]
    byte_fallback: bool
    prefix: bool


def convert(path: Path) -> bytes:
    """The `tokenizer.json` of the SentencePiece model at `path`, deterministic to the byte.

    DataError for an invalid model, and for one of another kind than Llama's (unigram, NFKC, added words).
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    model = _read(path)
    vocabulary = {piece: number for number, (piece, _, _) in enumerate(model.pieces)}
    if len(vocabulary) != len(model.pieces):
        raise _other_kind(path, "it has a piece twice")
    score = {piece: score for piece, score, kind in model.pieces if kind == _NORMAL}
    merges = []
    for piece in score:
        splits = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        pairs = [(left, right) for left, right in splits if left in score and right in score]
        merges += sorted(pairs, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    merges.sort(key=lambda pair: -score[pair[0] + pair[1]])  # stable: a piece's own splits keep their order
    unknown = next((piece for piece, _, kind in model.pieces if kind == _UNKNOWN), None)
    inner = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=model.byte_fallback)
    )
    steps: list[Any] = [normalizers.Prepend(SPACE)] if model.prefix else []
    inner.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    last: list[Any] = [decoders.Strip(" ", 1, 0)] if model.prefix else []
    inner.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *last])
    special = [piece for piece, _, kind in model.pieces if kind in (_UNKNOWN, _CONTROL)]
    inner.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in special])
    text: str = inner.to_str(pretty=True)
    return text.encode()


def first_difference(path: Path, other: Path) -> str | None:
    """The first of `PROBES` that two `tokenizer.json` encode differently; None when there is none."""
    from tokenizers import Tokenizer

    tokenizers = [Tokenizer.from_str(file.read_text("utf-8")) for file in (path, other)]
    for tokenizer in tokenizers:
        tokenizer.encode_special_tokens = True
    for probe in PROBES:
        first, second = (tokenizer.encode(probe, add_special_tokens=False).ids for tokenizer in tokenizers)
        if first != second:
            return probe
    return None


def _read(path: Path) -> _Model:
    pieces: list[tuple[str, float, int]] = []
    specs: dict[int, dict[int, Any]] = {2: {}, 3: {}}
    try:
        for number, value in _fields(path.read_bytes()):
            if number == 1:
                pieces.append(_piece(value))
            elif number in specs:
                specs[number] = dict(_fields(value))
    except OSError as reason:
        raise DataError(f"`{path}` cannot be read: {reason.strerror}", hint="see `tokenizers:`") from None
    except (ValueError, TypeError, IndexError, struct.error):
        pieces = []
    if not pieces:
        raise DataError(
            f"`{path}` is no SentencePiece model",
            hint="give a complete `tokenizer.model`, or a `tokenizer.json`; was the download complete?",
        )
    trainer, normalizer = specs[2], specs[3]
    for wrong, what in (
        (trainer.get(3, 1) != _BPE, "it is no BPE"),
        (normalizer.get(2), "it rewrites characters (NFKC)"),
        (normalizer.get(4, 1), "it removes blanks"),
        (trainer.get(24) or not normalizer.get(5, 1), "it treats blanks differently"),
        (any(kind == _USER_DEFINED for _, _, kind in pieces), "it has words of a user"),
    ):
        if wrong:
            raise _other_kind(path, what)
    return _Model(pieces, byte_fallback=bool(trainer.get(35)), prefix=bool(normalizer.get(3, 1)))


def _other_kind(path: Path, what: str) -> DataError:
    return DataError(
        f"`{path}` is of another kind than Llama-2's: {what}",
        hint="convert it with its own tools and give the `tokenizer.json`",
    )


def _piece(data: bytes) -> tuple[str, float, int]:
    fields = dict(_fields(data))
    (score,) = struct.unpack("<f", fields.get(2, b"\0\0\0\0"))
    return fields[1].decode(), score, fields.get(3, _NORMAL)


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """`(field, value)` of a protobuf message: an int for a varint, the bytes of any other value."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        size = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            size, at = _varint(data, at)
        if size is None or at + size > len(data):
            raise ValueError("not a protobuf message")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("not a number")
