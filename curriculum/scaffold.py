"""Writes a new project from the files shipped with the package; the one command that reads those copies."""

from __future__ import annotations

from pathlib import Path

from curriculum import durable
from curriculum.errors import ConfigError, NotFound

ROOT_FILES = ("sources.yaml", "sizes.yaml", "machines.yaml")


def shipped() -> Path:
    """The folder with the shipped project: inside the wheel, or the checkout of an editable install."""
    inside = Path(__file__).resolve().parent / "_project"
    checkout = Path(__file__).resolve().parents[1]
    for folder in (inside, checkout):
        if (folder / "stages").is_dir() and all((folder / name).is_file() for name in ROOT_FILES):
            return folder
    raise NotFound("this installation holds no project files", hint="install curriculum again")


def init(folder: Path) -> list[Path]:
    """Write the shipped project into `folder`; ConfigError when that would touch a file that is there."""
    source = shipped()
    files = [source / name for name in ROOT_FILES]
    for part in ("stages", "mixtures"):
        files += sorted((source / part).glob("*.yaml"))
    targets = [folder / path.relative_to(source) for path in files]
    there = [target for target in targets if target.exists()]
    if there:
        raise ConfigError(
            f"`{there[0]}` exists already; nothing was written",
            hint="name an empty or a new folder: `curriculum init DIR`",
        )
    for path, target in zip(files, targets, strict=True):
        durable.make_directory(target.parent)
        durable.write_bytes(target, path.read_bytes())
    durable.write_bytes(folder / ".gitignore", b"/runs/\n/data/\n")
    return targets
