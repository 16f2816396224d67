"""What one task has read and left out, and the log of what was left out."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from loguru import logger

from curriculum.data.manifest import TRAIN

LeftOut: TypeAlias = Mapping[str, tuple[int, str]]
"""Documents that are no text, by reason: their number and the first of them."""

# Why a document is dropped; filters add their own reasons.
EMPTY, NO_TEXT, NOT_UTF8, NOT_JSON, NO_TOKENS = ("empty", "no text column", "not UTF-8", "not JSON", "no tokens")
BINARY, SURROGATE, NOT_TEXT = ("binary", "with half a surrogate pair", "instead of text")
NULL = f"with null {NOT_TEXT}"
TOO_LONG = "longer than 1 GiB"


@dataclass
class Tally:
    """What one task has read: bytes of input, documents dropped by (split, reason), columns.

    `stored` are the bytes of its files as they are stored, compressed or with further columns, as far as they are read.

    `firsts` are the first documents that could not be read as text, by reason, without those dropped by a filter.
    `sums` are the SHA-256 of the local files that were read to their end, by name.
    """

    bytes: int = 0
    stored: int = 0
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    columns: set[str] = field(default_factory=set)
    firsts: dict[str, str] = field(default_factory=dict)
    sums: dict[str, str] = field(default_factory=dict)

    def drop(self, name: str, reason: str, split: str = TRAIN) -> None:
        """Count a document that is not text, and log it."""
        self.dropped[split, reason] += 1
        self.firsts.setdefault(reason, name)
        logger.warning(f"left out {name}: {reason}")

    def filter_out(self, reason: str, split: str = TRAIN, count: int = 1) -> None:
        """Count documents that a filter drops."""
        self.dropped[split, reason] += count

    @property
    def unread(self) -> LeftOut:
        counts: Counter[str] = Counter()
        for (_, reason), count in self.dropped.items():
            counts[reason] += count
        return {reason: (counts[reason], name) for reason, name in sorted(self.firsts.items())}


@contextlib.contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Write the log, with the dropped documents and what datatrove's blocks say, to `path` instead of the terminal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    logger.remove()
    with path.open("a", encoding="utf-8", errors="backslashreplace") as log:  # loguru would format its path
        sink = logger.add(log, level="INFO", colorize=False)
        try:
            yield
        finally:
            logger.remove(sink)
