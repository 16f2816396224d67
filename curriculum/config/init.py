"""`init`: write a new project, the shipped one or a small one for the user's own text."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from curriculum import fs
from curriculum.config import json_schema, layout, starter
from curriculum.config.project import ROOT_FILES
from curriculum.errors import ConfigError, NotFound

IGNORE = ".gitignore"
IGNORED = (b"/runs/", b"/data/")


def shipped() -> Path:
    """The folder with the shipped project: inside the wheel, or the checkout of an editable install."""
    inside = Path(__file__).resolve().parents[1] / "_project"
    checkout = Path(__file__).resolve().parents[2]
    for folder in (inside, checkout):
        if (folder / "stages").is_dir() and all((folder / name).is_file() for name in ROOT_FILES):
            return folder
    raise NotFound("this installation holds no project files", hint="install curriculum again")


def init(folder: Path) -> list[Path]:
    """Write the shipped project into `folder`; ConfigError when one of its files exists."""
    source = shipped()
    files = [source / name for name in ROOT_FILES]
    for part in ("stages", "mixtures", "studies", "tasks"):
        files += [*sorted((source / part).rglob("*.yaml")), source / part / "README.md"]
    return _write(folder, {path.relative_to(source).as_posix(): path.read_bytes() for path in files})


def init_for(folder: Path, texts: Sequence[str]) -> tuple[list[Path], list[starter.Source]]:
    """Write a small project that trains on the folders `texts`; its files, and the sources in those folders."""
    sources = starter.sources(folder, texts)
    return write_project(folder, starter.files(sources)), sources


def write_project(folder: Path, files: Mapping[str, str]) -> list[Path]:
    """Write a project of these YAML files, each with its modeline; ConfigError when one of its files exists."""
    contents = {f"{part}/README.md": (shipped() / part / "README.md").read_bytes() for part in ("stages", "mixtures")}
    for path, text in files.items():
        contents[path] = f"{json_schema.modeline(path)}\n{text}".encode()
    return _write(folder, contents)


def write_schemas(project: Path) -> list[Path]:
    """Write the JSON schemas that editors check the project's files with, or replace them; nothing else changes."""
    if not layout.is_project(project):
        raise NotFound(
            f"`{project}` is not a project: it lacks `stages/` and `mixtures/`",
            hint=f"without `--schema`, `curriculum init {project}` writes a whole one there",
        )
    paths = []
    for name, text in json_schema.texts().items():
        fs.make_directory((project / name).parent)
        fs.write_bytes(project / name, text.encode(), replace=True)
        paths.append(project / name)
    return paths


def _write(folder: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Write a project's files, its schemas and .gitignore; any error is raised before the first is written."""
    _check_free(folder, [*contents, *json_schema.texts()])
    try:
        fs.make_directory(folder)
    except OSError as error:
        raise ConfigError(
            f"no project can be written into `{folder}`: {error.strerror}", hint="name another folder"
        ) from None
    ignore = folder / IGNORE
    ignored = ignore.read_bytes() if ignore.exists() else b""
    missing = [line for line in IGNORED if line not in ignored.split()]
    if missing:
        if ignored and not ignored.endswith(b"\n"):
            ignored += b"\n"
        fs.write_bytes(ignore, ignored + b"\n".join(missing) + b"\n", replace=True)
    for name, data in contents.items():
        fs.make_directory((folder / name).parent)
        fs.write_bytes(folder / name, data)
    return [folder / name for name in contents] + write_schemas(folder)


def _check_free(folder: Path, names: Sequence[str]) -> None:
    """ConfigError for a folder that cannot be made or written, and for any existing file but a .gitignore."""
    new = "name an empty or a new folder: `curriculum init DIR`"
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir():
        raise ConfigError(
            f"`{existing}` is not a directory, so no project can be written into `{folder}`", hint="name another folder"
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"`{existing}` may not be written by this user", hint="name another folder")
    ignore = folder / IGNORE
    if os.path.lexists(ignore) and (ignore.is_symlink() or not ignore.is_file()):
        raise ConfigError(f"`{ignore}` is not a regular file; nothing was written", hint=new)
    for name in names:
        target = folder / name
        if os.path.lexists(target):
            raise ConfigError(f"`{target}` exists already; nothing was written", hint=new)
        for above in list(target.parents)[: name.count("/")]:
            if os.path.lexists(above) and not above.is_dir():
                raise ConfigError(f"`{above}` is not a directory; nothing was written", hint=new)
