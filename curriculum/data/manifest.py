"""The format of a prepared data folder and its manifest: names, numbers and digests only.

    data/<dataset>/<key>/
      manifest.json             written last, with the size and digest of everything below
      train/00000.ds            tokens, little-endian uint16 or uint32, document after document
      train/00000.ds.index      uint64 per document: the token at which it ends (exclusive)
      train/00000.ds.blocks     32 raw bytes per block of the `.ds`: its SHA-256
      train/00000.ds.hashes     uint64 per document, ascending: the hash of its tokens, see `curriculum.data.overlap`
      train/00000.ids           one JSON string a line: the document's id
      train/00000.ids.index     uint64 per document: the byte of `.ids` at which its line ends (exclusive)
      train/documents-0.lookup  the index of the documents' ids, see `curriculum.data.document_lookup`
      held-out/00000.ds …       the same seven files
      files-0.json              the files that were read, by name; `files-1.json` those that were appended then

Third-party tokens (`read: {tokenised: …}`) are read in place: the manifest's `elsewhere` has the file of each `.ds`,
and the folder has only the other five files.

`.ds` and `.ds.index` are datatrove's token format; its readers ignore the others. One `.ds` is one shard; shards are
ordered by name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from curriculum import fs
from curriculum.errors import DataError

FORMAT = 1
MANIFEST = "manifest.json"
_KEYS = frozenset(
    {
        *("format", "dataset", "tokenizer", "policy", "dtype", "block_bytes", "recipe", "recipe_digest"),
        *("provenance", "splits", "digest"),
    }
)
BLOCK_BYTES = 1 << 20
LEAST_HELD_OUT_WINDOWS = 64
LARGEST_UINT16_VOCABULARY = 1 << 16

SplitName = Literal["train", "held-out"]
TRAIN: SplitName = "train"
HELD_OUT: SplitName = "held-out"


def dtype_for(vocab_size: int) -> str:
    """`uint16` while every id below `vocab_size` fits it, `uint32` from 65,537 on (datatrove's own rule)."""
    return "uint16" if vocab_size <= LARGEST_UINT16_VOCABULARY else "uint32"


def windows_in(tokens: int, sequence_length: int) -> int:
    """Windows of `sequence_length` inputs and their shifted targets in a shard of `tokens` tokens."""
    return max(0, (tokens - 1) // sequence_length)


def text_hash(text: bytes | memoryview) -> int:
    """BLAKE2b-64 of a document's UTF-8 as a little-endian integer in [0, 2^64)."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One `.ds` and its companions. `file` is relative to the data folder, `text_bytes` the text's UTF-8."""

    file: str
    tokens: int
    documents: int
    text_bytes: int
    sha256: str
    blocks_sha256: str
    index_sha256: str
    ids_sha256: str
    ids_index_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One side of the data. `dropped` counts documents left out, by reason; `filler` the tokens that are no
    document's text (the policy's BOS and EOS marks; nothing is ever padded). `max_token` is -1 if empty."""

    documents: int
    tokens: int
    text_bytes: int
    max_token: int
    filler: int
    dropped: Mapping[str, int]
    shards: tuple[Shard, ...]

    def windows(self, sequence_length: int) -> int:
        return sum(windows_in(shard.tokens, sequence_length) for shard in self.shards)

    def tail(self, sequence_length: int) -> int:
        """Tokens at the shards' ends that no window reads."""
        windows = [windows_in(shard.tokens, sequence_length) for shard in self.shards]
        return sum(shard.tokens for shard in self.shards) - sum(n * sequence_length + 1 for n in windows if n)

    @property
    def digest(self) -> str:
        """SHA-256 over the shards' bytes: the identity of this split's text."""
        return fs.digest(self.shards)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLocation:
    """The third-party file of a shard's tokens: from byte `offset` on; the file has `bytes`."""

    path: str
    offset: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderState:
    """A data folder after one preparation: the manifest's digest at that time, and the number of shards by split."""

    digest: str
    shards: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerRecord:
    """The tokenizer of a data folder; `digest` is the SHA-256 of its `tokenizer.json`."""

    digest: str
    name: str
    vocab_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialTokens:
    """The token ids written before and after each document; None for none."""

    bos: int | None
    eos: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The contents of a data folder, its tokenizer, recipe and provenance; the fields are the keys of manifest.json.

    `earlier` are the states before shards were appended, oldest first. `elsewhere` maps shards to third-party files;
    their bytes are identified by digests, so it is not part of the manifest's digest. Nor is `sidecars`, the SHA-256
    of the files that say something about the text and are none of it: `.hashes`, `.lookup` and `files-N.json`. It is
    empty in a folder of a version that did not record it.
    """

    dataset: str
    tokenizer: TokenizerRecord
    policy: SpecialTokens
    dtype: str
    block_bytes: int
    recipe: Mapping[str, Any]
    recipe_digest: str
    provenance: Mapping[str, Any]
    splits: Mapping[str, Split]
    earlier: tuple[FolderState, ...] = ()
    elsewhere: Mapping[str, TokenLocation] = field(default_factory=dict)
    sidecars: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 of the content (tokenizer, policy, width and every shard's bytes), as plans record it."""
        return fs.digest(
            {
                "tokenizer": {"digest": self.tokenizer.digest, "vocab_size": self.tokenizer.vocab_size},
                "policy": self.policy,
                "dtype": self.dtype,
                "block_bytes": self.block_bytes,
                "splits": {
                    name: {"digest": split.digest, "max_token": split.max_token} for name, split in self.splits.items()
                },
                **({"earlier": self.earlier} if self.earlier else {}),
            }
        )

    @property
    def states(self) -> tuple[FolderState, ...]:
        """The folder's state after each preparation; the last is the current one."""
        now = FolderState(digest=self.digest, shards={n: len(split.shards) for n, split in self.splits.items()})
        return (*self.earlier, now)

    def windows_in_state(self, state: FolderState, split: SplitName, sequence_length: int) -> int:
        """Windows of `split` in one of the folder's states."""
        shards = self.splits[split].shards[: state.shards.get(split, 0)]
        return sum(windows_in(shard.tokens, sequence_length) for shard in shards)

    def to_json(self) -> dict[str, Any]:
        value = fs.fields_of(self)
        if not self.elsewhere:
            del value["elsewhere"]
        return fs.seal({**value, "format": FORMAT, "digest": self.digest})

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read `folder/manifest.json`; DataError when it is missing, of another format, or was altered."""
        path = folder / MANIFEST
        try:
            value = fs.parse_json(fs.read_bytes(path))
        except FileNotFoundError:
            raise DataError(f"no prepared text in `{folder}`", hint="`curriculum prepare` makes it") from None
        except ValueError as reason:
            raise DataError(f"`{path}` is not JSON: {reason}", hint=_again(folder)) from None
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise DataError(f"`{path}` is not of format {FORMAT}, which this version reads", hint=_again(folder))
        try:
            value = fs.unseal(value, _KEYS)
            manifest = fs.from_json(cls, value, ignore_unknown=True)
            intact = manifest.digest == value["digest"]
        except (KeyError, ValueError):
            intact = False
        if not intact:
            raise DataError(f"`{path}` was altered after it was written", hint=_again(folder))
        return manifest


def _again(folder: Path) -> str:
    return f"remove `{folder}` and run `curriculum prepare` again"
