"""Encoders from text to ids behind one interface: `gigatoken` where it is proven to serve a tokenizer, or `tokenizers`.

gigatoken is many times faster, and young. So its ids are compared with those of `tokenizers`: once for a tokenizer on a
fixed hostile corpus (`proof.py`), and in every task on a sample of the task's own documents. The first difference
raises EncoderDiffers, after which the whole source is encoded by `tokenizers`: one source never mixes encoders.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache, lru_cache
from importlib import metadata
from typing import Any, Protocol

import numpy as np

from curriculum.data.tokenizer import Tokenizer
from runner.prepare.formats import parse_json
from runner.prepare.texts import Texts, Tokens

REFERENCE, FAST = "tokenizers", "gigatoken"

RENEWAL_BYTES = 1 << 26
"""Text after which a fast encoder is made again. Its cache of words has no limit of its own: of random words, the
worst, 64 MB of text cost 0.5 GB of memory, and making it again 0.1 to 0.5 s."""

SAMPLE_FIRST = 1 << 12
"""Bytes at the start of a task that are compared."""
SAMPLE_EVERY = 1 << 22
"""Bytes of text of which as many are compared from then on. The reference takes about as long for one in a thousand
bytes as the fast encoder for one in forty."""
SAMPLE_PART = 1 << 10
"""Bytes of one document that are compared at most."""


EXCERPT = 60
"""Characters of a text that a message shows."""


class Encoder(Protocol):
    """Encodes texts to ids, without special tokens; `name` is its library with the version."""

    @property
    def name(self) -> str: ...

    def encode(self, texts: Texts) -> Tokens: ...


class EncoderUnavailable(Exception):
    """The fast encoder is not installed, or does not load this tokenizer; the text says why."""


class EncoderDiffers(Exception):
    """The fast encoder gave other ids than `tokenizers`; the text says on what."""


@cache
def version_of(library: str) -> str:
    """The name and the version of an installed library, as in `tokenizers 0.23.3`."""
    return f"{library} {metadata.version(library)}"


class ReferenceEncoder:
    """`tokenizers`, whose ids are the right ones by definition."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.name = version_of(REFERENCE)

    def encode(self, texts: Texts) -> Tokens:
        return Tokens.join(self.tokenizer.encode_batch(texts.strings()))


class FastEncoder:
    """`gigatoken`, made again after every RENEWAL_BYTES of text so that its memory is bounded.

    `tokenizer_json` are the bytes of a `tokenizer.json`. `threads` lets it use threads of its own, as many as
    RAYON_NUM_THREADS says; otherwise it runs in the calling thread, with the interpreter's lock released.
    EncoderUnavailable where the library is absent or refuses the tokenizer.
    """

    def __init__(self, tokenizer_json: bytes, *, threads: bool = False) -> None:
        self.threads = threads
        try:
            import awkward
            from gigatoken.gigatoken_rs import load_hf_json

            self.name = version_of(FAST)
        except ImportError as error:  # also an installation for another processor
            raise EncoderUnavailable(f"{FAST} is not installed: {error}") from None
        self._awkward, self._load = awkward, load_hf_json
        self._json = _plain(tokenizer_json)
        self._encoded = 0
        try:
            self._inner = self._load(self._json)
        except BaseException as error:
            raise EncoderUnavailable(f"{self.name} does not load it: {_reason(error)}") from None

    def encode(self, texts: Texts) -> Tokens:
        if self._encoded > RENEWAL_BYTES:
            del self._inner  # the old one first, so that memory holds one
            self._inner = self._load(self._json)
            self._encoded = 0
        self._encoded += len(texts.data)
        contents, index = self._awkward.contents, self._awkward.index
        characters = contents.NumpyArray(texts.data, parameters={"__array__": "char"})
        strings = contents.ListOffsetArray(index.Index64(texts.bounds), characters, parameters={"__array__": "string"})
        try:
            layout = self._inner.encode_batch(self._awkward.Array(strings), parallel=self.threads).layout
        except BaseException as error:
            raise EncoderDiffers(f"{self.name} fails: {_reason(error)}") from None
        bounds, ids = np.asarray(layout.offsets.data, np.int64), np.asarray(layout.content.data, np.uint32)
        return Tokens(ids[bounds[0] : bounds[-1]], bounds - bounds[0])


class CheckedEncoder:
    """A fast encoder whose ids are compared with the reference's on a sample of the texts; EncoderDiffers on another.

    The sample is the first SAMPLE_FIRST bytes, and as many of every further SAMPLE_EVERY bytes, of a document at most
    SAMPLE_PART bytes.
    """

    def __init__(self, fast: Encoder, reference: Encoder) -> None:
        self.fast = fast
        self.reference = reference
        self.name = fast.name
        self._seen = self._compared = 0

    def encode(self, texts: Texts) -> Tokens:
        self._compare(texts)
        return self.fast.encode(texts)

    def _compare(self, texts: Texts) -> None:
        begins = texts.bounds[:-1]
        due = SAMPLE_FIRST * (1 + (self._seen + begins) // SAMPLE_EVERY)
        chosen = []
        for document in range(len(texts)):
            if self._compared >= due[-1]:
                break
            if self._compared < due[document]:
                part = whole_characters(bytes(texts[document][:SAMPLE_PART]))
                chosen.append(part)
                self._compared += len(part)
        self._seen += len(texts.data)
        if chosen and (difference := first_difference(self.fast, self.reference, [chosen])) is not None:
            raise EncoderDiffers(f"{self.name} differs from {self.reference.name} on {difference!r}")


def whole_characters(text: bytes) -> bytes:
    """UTF-8 that was cut anywhere, without the part of a character at its end."""
    return text.decode(errors="ignore").encode()


def first_difference(fast: Encoder, reference: Encoder, batches: Iterable[list[bytes]]) -> str | None:
    """The beginning of the first text on which two encoders differ; None where they agree on all."""
    for batch in batches:
        texts = Texts.join(batch)
        ours, theirs = fast.encode(texts), reference.encode(texts)
        if np.array_equal(ours.bounds, theirs.bounds) and np.array_equal(ours.ids, theirs.ids):
            continue
        for number, text in enumerate(batch):
            if not np.array_equal(ours[number], theirs[number]):
                return text.decode(errors="replace")[:EXCERPT]
    return None


@lru_cache(maxsize=1)
def _plain(tokenizer_json: bytes) -> bytes:
    """The tokenizer without what `Tokenizer` turns off: special tokens in text, templates, truncation, padding."""
    value: dict[str, Any] = parse_json(tokenizer_json)
    added = [token for token in value.get("added_tokens") or [] if not token.get("special")]
    off = {"post_processor": None, "truncation": None, "padding": None}
    return json.dumps({**value, **off, "added_tokens": added}).encode()


def _reason(error: BaseException) -> str:
    """Why a library written in Rust failed: also a panic, which is no Exception. Others are raised again."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
