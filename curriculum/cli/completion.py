"""Shell completion: names from a project's files, or nothing.

Only file names and, where need be, the keys of one file are read; nothing is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

from curriculum.config import layout

Complete: TypeAlias = Callable[[str], list[str]]


def _completing(names: Callable[[Path, str], Iterable[str]]) -> Complete:
    """`names(root, incomplete)` as a callback that returns those with the prefix; nothing after any error."""

    def complete(incomplete: str) -> list[str]:
        try:
            root = layout.root_around(Path.cwd())
            candidates = names(root, incomplete) if root is not None else ()
            return [name for name in candidates if name.startswith(incomplete)]
        except Exception:  # half a command line has no room for an error in a file
            return []

    return complete


def _addresses(root: Path, incomplete: str) -> list[str]:
    name, slash, _ = incomplete.partition("/")
    if not slash:
        return layout.names(root, "stages")
    file = layout.files(root, "stages", name)[0].relative_to(root).as_posix()
    return [f"{name}/{stage['name']}" for stage in _read(root, file)["stages"]]


def _read(root: Path, file: str) -> Any:
    from curriculum.config.yaml import load_yaml

    return load_yaml(root / file, root=root).value


curricula = _completing(lambda root, incomplete: layout.names(root, "stages"))
mixtures = _completing(lambda root, incomplete: layout.names(root, "mixtures"))
studies = _completing(lambda root, incomplete: layout.names(root, "studies"))
variants = _completing(lambda root, incomplete: (*layout.names(root, "stages"), *layout.names(root, "studies")))
addresses = _completing(_addresses)
sizes = _completing(lambda root, incomplete: _read(root, "sizes.yaml"))
machines = _completing(lambda root, incomplete: _read(root, "machines.yaml"))
sources = _completing(lambda root, incomplete: _read(root, "sources.yaml")["sources"])
tokenizers = _completing(lambda root, incomplete: _read(root, "sources.yaml")["tokenizers"])
