"""How far a preparation is, read from the lines that its process appends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curriculum import fs


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a preparation is. `total_bytes` is None while unknown; `bytes` counts documents' text read.

    `unread`, once it is done: documents that are no text, by reason; how many, and the first of them.
    """

    documents: int
    tokens: int
    bytes: int
    total_bytes: int | None
    done: bool
    unread: Mapping[str, tuple[int, str]] = field(default_factory=dict)


def read_progress(path: Path) -> Progress:
    """Sum the newest line of every task in a progress file; a missing file means nothing was done yet.

    A line is `{"task", "documents", "tokens", "bytes", "total_bytes", "done"}`, cumulative for its task; the
    line with task null comes last of all and is the total; it alone may have `unread`.
    """
    newest: dict[int | None, Mapping[str, Any]] = {}
    for line in fs.read_json_lines(path):
        newest[line["task"]] = line
    lines = [newest[None]] if None in newest else list(newest.values())
    totals = [line["total_bytes"] for line in lines if line["total_bytes"] is not None]
    return Progress(
        documents=sum(line["documents"] for line in lines),
        tokens=sum(line["tokens"] for line in lines),
        bytes=sum(line["bytes"] for line in lines),
        total_bytes=max(totals, default=None),
        done=None in newest,
        unread={reason: (count, name) for reason, (count, name) in lines[0].get("unread", {}).items()}
        if lines
        else {},
    )


def describe_unread(unread: Mapping[str, tuple[int, str]]) -> str:
    """Documents that are no text, as in `3 not UTF-8 (the first: notes/old.txt)`."""
    return ", ".join(f"{count:,} {reason} (the first: {name})" for reason, (count, name) in unread.items())
