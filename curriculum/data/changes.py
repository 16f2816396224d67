"""The files of a prepared text that changed since they were read, by sizes and times or by contents."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curriculum import fs
from curriculum.data.listing import SourceFile
from curriculum.data.manifest import Manifest
from curriculum.errors import DataError

DIGEST = 3
"""Where a file's record holds the SHA-256 of its contents."""


@dataclass(frozen=True, slots=True)
class FileChanges:
    """Names of files that are not what they were when they were read, are gone, or are new; each sorted.

    `compared` is what was compared: "size or time", or "contents".
    """

    changed: tuple[str, ...]
    gone: tuple[str, ...]
    new: tuple[str, ...]
    compared: str = "size or time"

    def __bool__(self) -> bool:
        return bool(self.changed or self.gone or self.new)

    def __str__(self) -> str:
        parts = ((f"with other {self.compared}", self.changed), ("no longer there", self.gone), ("new", self.new))
        shown = ((len(names), what, ", ".join(names[:3]) + ", …" * (len(names) > 3)) for what, names in parts if names)
        return "; ".join(f"{number:,} {what} ({some})" for number, what, some in shown)


def recorded_files(folder: Path, manifest: Manifest) -> dict[str, Any] | None:
    """What is recorded of each file that was read, by name: size, digest, time; None where a record is missing.

    DataError for a record that was lost or altered since it was written.
    """
    recorded: dict[str, Any] = {}
    for number in range(len(manifest.states)):
        path = folder / f"files-{number}.json"
        digest = manifest.sidecars.get(path.name)
        if not path.exists() and digest is None:
            return None
        try:
            data = path.read_bytes()
            if digest not in (None, hashlib.sha256(data).hexdigest()):
                raise ValueError("it differs from its digest")
            recorded |= fs.parse_json(data)
        except (OSError, ValueError, TypeError) as error:
            raise DataError(
                f"`{path}`, the files that `{manifest.dataset}` was read from, is damaged: {error}",
                hint=f"remove the folder `{folder}` and run `curriculum prepare` again",
            ) from None
    return recorded


def file_record(file: SourceFile) -> list[Any]:
    """What is recorded of a file before it is read: its size, its digest where a package states it, its time in ns.

    Once it was read, the SHA-256 of its contents follows where the file is local.
    """
    local = os.path.exists(file.path)
    return [file.bytes, file.sha256, os.stat(file.path).st_mtime_ns if local else None]


def file_changes(recorded: dict[str, Any], files: Sequence[SourceFile], *, contents: bool = False) -> FileChanges:
    """How `files` differ from those of `recorded`, by size and time; with `contents` by size and SHA-256.

    What is not recorded, as a time by 0.1.0, is not compared.
    """
    now = {file.name: file for file in files}
    both = sorted(recorded.keys() & now.keys())
    differs = _other_contents if contents else _other_size_or_time
    return FileChanges(
        tuple(name for name in both if differs(recorded[name], now[name])),
        tuple(sorted(recorded.keys() - now.keys())),
        tuple(sorted(now.keys() - recorded.keys())),
        "contents" if contents else "size or time",
    )


def _other_size_or_time(recorded: Sequence[Any], file: SourceFile) -> bool:
    return list(recorded[:3]) != file_record(file)[: len(recorded)]


def _other_contents(recorded: Sequence[Any], file: SourceFile) -> bool:
    if len(recorded) <= DIGEST:
        return _other_size_or_time(recorded, file)
    return bool(recorded[0] != file.bytes or recorded[DIGEST] != fs.sha256_file(Path(file.path)))
