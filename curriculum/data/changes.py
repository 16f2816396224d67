"""The files of a prepared text that changed since they were read, by sizes and times."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curriculum.data.listing import SourceFile
from curriculum.data.manifest import Manifest


@dataclass(frozen=True, slots=True)
class FileChanges:
    """Names of files that have another size or time than when they were read, are gone, or are new; each sorted."""

    changed: tuple[str, ...]
    gone: tuple[str, ...]
    new: tuple[str, ...]

    def __str__(self) -> str:
        parts = (("with another size or time", self.changed), ("no longer there", self.gone), ("new", self.new))
        return "; ".join(f"{len(names):,} {what} ({_some(names)})" for what, names in parts if names)


def recorded_files(folder: Path, manifest: Manifest) -> dict[str, Any] | None:
    """What is recorded of each file that was read, by name: size, digest, time; None where a record is missing."""
    recorded: dict[str, Any] = {}
    for number in range(len(manifest.states)):
        path = folder / f"files-{number}.json"
        if not path.exists():
            return None
        recorded |= json.loads(path.read_bytes())
    return recorded


def file_record(file: SourceFile) -> list[Any]:
    """What is recorded of a file that is read: its size, its digest where a package states it, and its time in ns."""
    local = os.path.exists(file.path)
    return [file.bytes, file.sha256, os.stat(file.path).st_mtime_ns if local else None]


def file_changes(recorded: dict[str, Any], files: Sequence[SourceFile]) -> FileChanges:
    """How `files` differ from those of `recorded`; a time that is not recorded, as by 0.1.0, is not compared."""
    now = {file.name: file for file in files}
    both = sorted(recorded.keys() & now.keys())
    changed = [name for name in both if recorded[name] != file_record(now[name])[: len(recorded[name])]]
    return FileChanges(
        tuple(changed), tuple(sorted(recorded.keys() - now.keys())), tuple(sorted(now.keys() - recorded.keys()))
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
