"""The progress of a preparation, read from the JSON lines that its processes append."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curriculum import fs


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The progress of a preparation. `bytes` are those of the files as they are stored, compressed as they may be, that
    are read; `total_bytes` are those of all files, None where a storage does not say.

    Once it is done, by reason with the number and the first: `unread` are documents that are not text, `other_endings`
    files of text that were not read. `repeated_ids` are the documents of a split whose id an earlier one has, with one
    of these ids; all are kept. `fast_encoder_refused` is why the ids were made by `tokenizers`, if they were.
    """

    documents: int
    tokens: int
    bytes: int
    total_bytes: int | None
    done: bool
    unread: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    other_endings: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    repeated_ids: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    fast_encoder_refused: str = ""


def read_progress(path: Path) -> Progress:
    """The sum of every task's newest line in a progress file; zero without a file.

    A line is `{"task", "documents", "tokens", "bytes", "total_bytes", "done"}`, cumulative for its task. The last line
    has task null and is the total; it alone may have `unread`, `other_endings`, `repeated_ids`, `fast_encoder_refused`.
    """
    newest: dict[int | None, Mapping[str, Any]] = {}
    for line in fs.read_json_lines(path):
        newest[line["task"]] = line
    lines = [newest[None]] if None in newest else list(newest.values())
    last = lines[0] if lines else {}
    totals = [line["total_bytes"] for line in lines if line["total_bytes"] is not None]
    return Progress(
        documents=sum(line["documents"] for line in lines),
        tokens=sum(line["tokens"] for line in lines),
        bytes=sum(line["bytes"] for line in lines),
        total_bytes=max(totals, default=None),
        done=None in newest,
        unread=_counted(last, "unread"),
        other_endings=_counted(last, "other_endings"),
        repeated_ids=_counted(last, "repeated_ids"),
        fast_encoder_refused=str(last.get("fast_encoder_refused", "")),
    )


def _counted(line: Mapping[str, Any], key: str) -> Mapping[str, tuple[int, str]]:
    return {reason: (count, name) for reason, (count, name) in line.get(key, {}).items()}


def describe_unread(unread: Mapping[str, tuple[int, str]]) -> str:
    """Documents that are not text, as in `3 not UTF-8 (the first: notes/old.txt)`."""
    return ", ".join(f"{count:,} {reason} (the first: {name})" for reason, (count, name) in unread.items())
