"""What preparing text takes, as a preparation or a sample of a source's documents measured it: processors and disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from curriculum import fs


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparationRate:
    """A `whole` preparation of a dataset, or a sample of it, with the tokenizer of this digest.

    Of `documents` with `text_bytes` of UTF-8, in `stored_bytes` of the `total_bytes` that its files have (None where
    they do not say), came `tokens` and `disk_bytes` in `core_seconds` of processors.
    """

    dataset: str
    tokenizer: str
    encoder: str
    whole: bool
    documents: int
    tokens: int
    text_bytes: int
    disk_bytes: int
    stored_bytes: int
    total_bytes: int | None
    core_seconds: float

    @property
    def expected_tokens(self) -> int | None:
        """Tokens of the whole dataset, by the part of its files that was read; None where that is not known."""
        if self.whole:
            return self.tokens
        if not self.total_bytes or not self.stored_bytes:
            return None
        return self.tokens * self.total_bytes // self.stored_bytes

    def write(self, folder: Path, key: str) -> None:
        """Keep it in `folder`, for the prepared folder of the name `key`; a sample replaces no whole preparation."""
        path = folder / self.dataset / f"{key}.json"
        earlier = read(path)
        if earlier is None or self.whole or not earlier.whole:
            fs.make_directory(path.parent)
            fs.write_sealed(path, fs.fields_of(self), replace=True)


def read(path: Path) -> PreparationRate | None:
    """A rate that was written to `path`; None where there is none, or it is damaged."""
    try:
        return fs.from_json(PreparationRate, fs.read_sealed(path))
    except (OSError, ValueError):
        return None


def rates(folder: Path) -> Iterator[tuple[str, PreparationRate]]:
    """Every rate in `folder`, with the name of the prepared folder that it is of."""
    for path in sorted(folder.glob("*/*.json")):
        if (rate := read(path)) is not None:
            yield path.stem, rate
