"""Preparation requests: tokenise a source, train a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from curriculum import fs
from curriculum.data.manifest import FORMAT
from curriculum.errors import DataError
from curriculum.units import parse_fraction


@dataclass(frozen=True, kw_only=True)
class PrepareRequest:
    """Tokenise one dataset.

    `read` is the entry of `sources.yaml` (`installed`, `stdlib`, `folder` or `hub`, with `files`, `exclude`); relative
    folders in it start at `root`. `text`, `id`, `drop` and `keep` name columns; without `text` it is one of that name.
    `held_out` is `{"share": "5%"}`, `{"split": "validation"}` or None. `blocks` are datatrove's filters and formatters,
    name to options. `tasks` fixes the shard layout, `workers` (threads) only the time. `output` is the folder published
    at the end; `progress` a file to which JSON lines are appended until then. With `append` the folder exists, and
    files that it does not contain yet become further shards. `proofs` is a folder with the records of the tokenizers on
    which a fast encoder was proven, `rates` one with what preparations took; both are shared by a project's requests.
    """

    dataset: str
    read: Mapping[str, Any]
    tokenizer_file: str
    output: str
    progress: str
    sequence_length: int
    root: str = "."
    tokenizer_name: str = ""
    text: str | None = None
    id: str | None = None
    drop: Mapping[str, Any] = field(default_factory=dict)
    keep: Mapping[str, Any] = field(default_factory=dict)
    extract: str | None = None
    blocks: Sequence[Mapping[str, Mapping[str, Any]]] = ()
    held_out: Mapping[str, str] | None = None
    bos: bool = False
    eos: bool = True
    tasks: int = 1
    workers: int = 1
    append: bool = False
    proofs: str = ""
    rates: str = ""

    def __post_init__(self) -> None:
        if self.tasks < 1 or self.workers < 1 or self.sequence_length < 1:
            raise DataError(
                f"`{self.dataset}` asks for {self.tasks} tasks, {self.workers} workers and sequences of "
                f"{self.sequence_length} tokens",
                hint="each is at least 1",
            )
        held_out = self.held_out
        if held_out is not None and ("share" in held_out) == ("split" in held_out):
            raise DataError(
                f"`held_out` of `{self.dataset}` is {dict(held_out)}",
                hint="say a share of the documents (`5%`) or the corpus's own split (`split: validation`)",
            )
        if self.extract is not None and self.held_out_split is not None:
            raise DataError(
                f"`{self.dataset}` extracts its text, so it has no split `{self.held_out_split}` of its own",
                hint="hold out a share of its documents (`held_out: 5%`)",
            )
        share = self.held_out_share
        if share is not None and not 0 < share <= 1:
            raise DataError(
                f"`{self.dataset}` holds out {(held_out or {})['share']}; it must be above 0%, and at most 100%",
                hint="`5%` is usual; it is taken by content, so it stays the same when documents are added",
            )

    @property
    def text_column(self) -> str:
        return self.text or "text"

    @property
    def held_out_share(self) -> Fraction | None:
        """The share of documents to hold out, None when there is none or the corpus has its own split."""
        if self.held_out is None or "share" not in self.held_out:
            return None
        return parse_fraction(self.held_out["share"])

    @property
    def held_out_split(self) -> str | None:
        return None if self.held_out is None else self.held_out.get("split")

    def recipe(self) -> dict[str, Any]:
        """Everything but tokenizer and documents that decides the prepared bytes; no paths of a machine."""
        share = self.held_out_share
        return {
            "format": FORMAT,
            "read": dict(self.read),
            "text": self.text_column,
            "id": self.id,
            "drop": dict(self.drop),
            "keep": dict(self.keep),
            "extract": self.extract,
            **({"blocks": [dict(block) for block in self.blocks]} if self.blocks else {}),
            "held_out": {"share": str(share)} if share is not None else self.held_out and dict(self.held_out),
            "bos": self.bos,
            "eos": self.eos,
            "tasks": self.tasks,
        }

    def recipe_digest(self) -> str:
        return fs.digest(self.recipe())

    def key(self, tokenizer_digest: str) -> str:
        """The name of the data folder: 12 digits of the tokenizer's digest, 8 of the recipe's."""
        return f"{tokenizer_digest[:12]}-{self.recipe_digest()[:8]}"


@dataclass(frozen=True, kw_only=True)
class TokenizerRequest:
    """Train a byte-level BPE tokenizer on an even sample of `reads` (dataset name to its entry in sources.yaml).

    A read may have `text` and `extract` as in a PrepareRequest. `sample_bytes` is the limit per dataset; `name` the
    tokenizer's in sources.yaml. With `sentencepiece`, the path of a `tokenizer.model`, that is converted instead of
    training, and must agree with the `tokenizer.json` at `published` if there is one.
    """

    output: str
    name: str = ""
    reads: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    vocab_size: int = 0
    sentencepiece: str | None = None
    published: str | None = None
    sample_bytes: int = 1_400_000
    root: str = "."

    def __post_init__(self) -> None:
        if self.sentencepiece is not None:
            return
        if not self.reads:
            raise DataError("a tokenizer is to be trained on no dataset at all", hint="name one under `train:`")
        if self.vocab_size < 257:
            raise DataError(
                f"a vocabulary of {self.vocab_size} cannot hold the 256 bytes and the end-of-text token",
                hint="give `vocab_size` at least 257; 4096 is the rehearsal's",
            )
