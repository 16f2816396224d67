"""The layout of a project on disk: its root, the names of its files, and imported directories; no file is read."""

from __future__ import annotations

from pathlib import Path


def root_around(start: Path) -> Path | None:
    """The nearest folder upwards from `start` that holds `stages/` and `mixtures/`, as git finds `.git`."""
    start = start.resolve()
    return next((folder for folder in (start, *start.parents) if is_project(folder)), None)


def is_project(folder: Path) -> bool:
    return (folder / "stages").is_dir() and (folder / "mixtures").is_dir()


def names(root: Path, folder: str) -> list[str]:
    """The names of the YAML files in `stages` or `mixtures` of a project and in their folders, sorted."""
    return sorted({path.stem for path in _files(root / folder)})


def files(root: Path, folder: str, name: str) -> list[Path]:
    """The files with this name: one; none where it is unknown; several is an error of the project."""
    return [path for path in _files(root / folder) if path.stem == name]


def _files(folder: Path) -> list[Path]:
    """The YAML files, also links whose target is gone: reading one says so."""
    return sorted([*folder.glob("*.yaml"), *folder.glob("*/*.yaml")])


PREFIX = "hf:"


def directory_of(root: Path, text: str) -> Path:
    """The directory that `hf:DIR` names, from the project's folder or absolute."""
    return root / text.removeprefix(PREFIX).strip()
