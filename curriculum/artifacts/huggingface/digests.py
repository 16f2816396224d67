"""Which bytes a Hugging Face directory holds: digests of its files, remembered so that a plan reads no weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from curriculum import fs
from curriculum.artifacts.huggingface.directory import Directory


def digest(sums: Mapping[str, str]) -> str:
    """The identity of a directory: one digest of its files' SHA-256, by their names."""
    return fs.digest({"format": 1, "files": dict(sums)})


def known_sums(directory: Directory, memory: Path) -> dict[str, str] | None:
    """SHA-256 of the files that decide, as remembered in `memory`; None when one is not, or was touched since."""
    try:
        remembered = fs.parse_json(memory.read_bytes())
    except (OSError, ValueError):
        return None
    sums = {}
    for name in directory.identity_files:
        entry = remembered.get(_key(directory.folder / name, memory))
        if entry is None or entry["stamp"] != stamp(directory.folder / name):
            return None
        sums[name] = entry["sha256"]
    return sums


def remember_sums(directory: Directory, memory: Path, sums: Mapping[str, str], stamps: Mapping[str, str]) -> None:
    """Remember the files' SHA-256 with the stamps they had before they were read."""
    try:
        remembered = fs.parse_json(memory.read_bytes())
    except (OSError, ValueError):
        remembered = {}
    for name, value in sums.items():
        remembered[_key(directory.folder / name, memory)] = {"stamp": stamps[name], "sha256": value}
    fs.write_json(memory, remembered, replace=True)


def _key(path: Path, memory: Path) -> str:
    """A file as seen from what remembers it, so that a project may be moved with what is inside."""
    return os.path.relpath(path.resolve(), memory.parent.resolve())


def stamp(path: Path) -> str:
    """What changes when a file is written again: its size and its time of change to the nanosecond."""
    status = path.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"
