"""A tokenizer with fixed encoding rules, so that ids do not depend on settings of its file.

Only a document's text is encoded: the file's template adds no special tokens, nothing is truncated or padded, and the
name of a special token inside a text (`</s>` in a source file) is ordinary text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curriculum.errors import DataError

# The names of the end-of-document and beginning-of-document tokens in known model families.
EOS_NAMES = ("</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "<|eos|>", "<｜end▁of▁sentence｜>", "[EOS]")
BOS_NAMES = ("<s>", "<|begin_of_text|>", "<bos>", "<|bos|>", "<｜begin▁of▁sentence｜>", "[BOS]")

TRAINED_EOS = "</s>"
"""The one special token of a tokenizer that `prepare` trains."""


def check_special_tokens(
    dataset: str, stated: Mapping[str, bool], available: Mapping[str, bool], tokenizer: str
) -> None:
    """DataError, at its key of sources.yaml, for a special token that `dataset` asks for and the tokenizer lacks.

    `stated` and `available` are by key, `bos` and `eos`.
    """
    for key, names in (("bos", BOS_NAMES), ("eos", EOS_NAMES)):
        if stated[key] and not available[key]:
            raise DataError(
                f"`{key}: true` of `{dataset}`: the tokenizer `{tokenizer}` has no {key.upper()} token under a name "
                "known here",
                hint=f"`{key}: false`, or a tokenizer that has one of {', '.join(f'`{name}`' for name in names)}",
                entry=("sources", dataset, key),
            )


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A loaded `tokenizer.json`. `digest` is the SHA-256 of the file; every id is below `vocab_size`."""

    digest: str
    vocab_size: int
    eos_id: int | None
    bos_id: int | None
    _inner: Any = field(repr=False, compare=False)

    @property
    def special_tokens(self) -> Mapping[str, bool]:
        """Whether it has a BOS and an EOS, by their keys in sources.yaml."""
        return {"bos": self.bos_id is not None, "eos": self.eos_id is not None}

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """Read a `tokenizer.json`; DataError when it is missing or invalid."""
        try:
            data = Path(path).read_bytes()
        except OSError as reason:
            raise DataError(
                f"the tokenizer `{path}` cannot be read: {reason.strerror}",
                hint="`path:` under `tokenizers:` in sources.yaml must lead to a `tokenizer.json`",
            ) from None
        return cls.from_bytes(data, str(path))

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> Tokenizer:
        """The tokenizer in the bytes of a `tokenizer.json`; DataError with `name` when they are invalid."""
        import tokenizers

        try:
            inner = tokenizers.Tokenizer.from_str(data.decode())
        except Exception as reason:  # the library raises plain Exception
            raise DataError(
                f"`{name}` is not a tokenizer: {reason}",
                hint="give a `tokenizer.json`; a SentencePiece model must be called `….model`",
            ) from None
        inner.no_truncation()
        inner.no_padding()
        inner.encode_special_tokens = True
        ids = inner.get_vocab(with_added_tokens=True)
        return cls(
            digest=hashlib.sha256(data).hexdigest(),
            vocab_size=max(ids.values(), default=-1) + 1,
            eos_id=next((ids[name] for name in EOS_NAMES if name in ids), None),
            bos_id=next((ids[name] for name in BOS_NAMES if name in ids), None),
            _inner=inner,
        )

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without special tokens."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text; the global interpreter lock is released meanwhile."""
        return [encoding.ids for encoding in self._inner.encode_batch_fast(list(texts), add_special_tokens=False)]

    def mark(self, number: int) -> str:
        """The name of a special token, such as `</s>`."""
        return str(self._inner.id_to_token(number))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens by their names."""
        text: str = self._inner.decode(list(ids), skip_special_tokens=False)
        return text
