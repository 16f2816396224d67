"""The ledger of a stage: one line per checkpoint with the windows read from every source.

The trainer counts them, so that the count can be compared with the plan's arithmetic.
Keyed by (generation, position); resuming cuts lines past the checkpoint that it starts from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from curriculum import fs
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.errors import RunFailed
from curriculum.plan.stage import StagePlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The count at a step boundary: `windows` per source since the root of the lineage."""

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


def write(folder: StageFolder, entries: Iterable[Entry]) -> None:
    """Replace the ledger by `entries`."""
    lines = (fs.canonical_json(fs.seal(fs.fields_of(entry))) + b"\n" for entry in entries)
    fs.write_bytes(folder.ledger, b"".join(lines), replace=True)


def check(plan: StagePlan, position: int, counted: Mapping[str, int]) -> None:
    """Compare windows counted per source since the root with the plan's arithmetic; RunFailed where they differ."""
    planned = plan.windows_read(position)
    wrong = sorted(name for name in {*planned, *counted} if planned.get(name, 0) != counted.get(name, 0))
    if wrong:
        counts = ", ".join(f"`{name}` {counted.get(name, 0):,} instead of {planned.get(name, 0):,}" for name in wrong)
        raise RunFailed(
            f"at {position:,} tokens the windows read since the root are not the planned ones: {counts}",
            hint="nothing was saved here; the checkpoint before this one is sound, and `curriculum verify` checks it",
        )


def read(folder: StageFolder) -> list[Entry]:
    """All complete entries, oldest first; DataError that names a line that was changed since."""
    path = folder.ledger
    entries = []
    for number, line in enumerate(fs.read_json_lines(path), 1):
        try:
            entries.append(fs.from_json(Entry, fs.unseal(line, Entry.__dataclass_fields__)))
        except ValueError as error:
            raise fs.line_error(path, number, str(error)) from None
    return entries


def cut_back(path: Path, position: int) -> None:
    """Drop lines past `position`, and an incomplete last one, from a JSON Lines file whose lines have `position`."""
    if not path.exists():
        return
    lines = fs.read_json_lines(path)
    try:
        kept = [line for line in lines if line["position"] <= position]
    except (KeyError, TypeError):
        number = next(n for n, line in enumerate(lines, 1) if not isinstance(line.get("position"), int))
        raise fs.line_error(path, number, "it has no position") from None
    data = b"".join(fs.canonical_json(line) + b"\n" for line in kept)
    if data != fs.read_bytes(path):
        fs.write_bytes(path, data, replace=True)
