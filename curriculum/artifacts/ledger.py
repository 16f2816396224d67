"""The record of what was trained: one line per checkpoint with the tokens read from every source.

The lines are a running count kept by the trainer, so that they can be compared with the plan's arithmetic.
Keyed by (generation, position); on resuming, lines past the checkpoint that is resumed from are cut away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from curriculum import fs
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.errors import RunFailed
from curriculum.plan.stage import StagePlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """State of the count at a step boundary; `windows` per source since the curriculum's root."""

    generation: int
    position: int
    step: int
    checkpoint: str
    fingerprint: str
    windows: Mapping[str, int]


def append(folder: StageFolder, entry: Entry) -> None:
    """Add `entry`, durably, unless it is already the last line."""
    entries = read(folder)
    if entries and entries[-1] == entry:
        fs.make_durable(folder.ledger)
        return
    fs.append_json_line(folder.ledger, fs.seal(fs.fields_of(entry)))


def check(plan: StagePlan, position: int, counted: Mapping[str, int]) -> None:
    """Compare windows counted per source since the root with the plan's arithmetic; RunFailed where they differ."""
    planned = plan.windows_read(position)
    wrong = sorted(name for name in {*planned, *counted} if planned.get(name, 0) != counted.get(name, 0))
    if wrong:
        told = ", ".join(
            f"`{name}` {counted.get(name, 0):,} instead of {planned.get(name, 0):,}" for name in wrong
        )
        raise RunFailed(
            f"at {position:,} tokens the windows read since the root are not the planned ones: {told}",
            hint="nothing was saved here; the checkpoint before this one is sound, and `curriculum verify` checks it",
        )


def read(folder: StageFolder) -> list[Entry]:
    """All whole entries, oldest first; DataError naming the line when one was changed since."""
    path = folder.ledger
    entries = []
    for number, line in enumerate(fs.read_json_lines(path), 1):
        try:
            entries.append(fs.from_json(Entry, fs.unseal(line, Entry.__dataclass_fields__)))
        except ValueError as error:
            raise fs.line_error(path, number, str(error)) from None
    return entries


def cut_back(path: Path, position: int) -> None:
    """Drop lines past `position`, and a torn last line, from a JSON-lines file whose lines bear `position`."""
    if not path.exists():
        return
    lines = fs.read_json_lines(path)
    try:
        kept = [line for line in lines if line["position"] <= position]
    except (KeyError, TypeError):
        number = next(n for n, line in enumerate(lines, 1) if not isinstance(line.get("position"), int))
        raise fs.line_error(path, number, "it bears no position") from None
    whole = b"".join(fs.canonical_json(line) + b"\n" for line in kept)
    if whole != fs.read_bytes(path):
        fs.write_bytes(path, whole, replace=True)
