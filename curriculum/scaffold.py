"""Writes a new project from the files shipped with the package; the one command that reads those copies."""

from __future__ import annotations

from pathlib import Path

from curriculum import durable, layout
from curriculum.errors import ConfigError, NotFound
from curriculum.schema import jsonschema

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
    for part in ("stages", "mixtures", "tasks"):
        files += [*sorted((source / part).rglob("*.yaml")), source / part / "README.md"]
    targets = [folder / path.relative_to(source) for path in files]
    schemas = [folder / name for name in jsonschema.texts()]
    there = [target for target in (*targets, *schemas) if target.exists()]
    if there:
        raise ConfigError(
            f"`{there[0]}` exists already; nothing was written",
            hint="name an empty or a new folder: `curriculum init DIR`",
        )
    for path, target in zip(files, targets, strict=True):
        durable.make_directory(target.parent)
        durable.write_bytes(target, path.read_bytes())
    durable.write_bytes(folder / ".gitignore", b"/runs/\n/data/\n")
    return targets + write_schemas(folder)


def write_schemas(project: Path) -> list[Path]:
    """Write, or write anew, the JSON schemas that editors check the project's files with; touches nothing else."""
    if not layout.is_project(project):
        raise NotFound(
            f"`{project}` is no project: it does not hold `stages/` and `mixtures/`",
            hint=f"without `--schema`, `curriculum init {project}` writes a whole one there",
        )
    written = []
    for name, text in jsonschema.texts().items():
        durable.make_directory((project / name).parent)
        durable.write_bytes(project / name, text.encode(), replace=True)
        written.append(project / name)
    return written
