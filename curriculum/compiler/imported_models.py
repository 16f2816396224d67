"""The cache of imported Hugging Face models: a checkpoint folder for each digest of a directory's bytes."""

from __future__ import annotations

from pathlib import Path

from curriculum.artifacts import checkpoints, huggingface
from curriculum.config.project import Project


def root(project: Project) -> Path:
    return project.data / "imported"


def memory(project: Project) -> Path:
    """The cache of file digests by size and time of change, so that a plan reads no weights."""
    return root(project) / "digests.json"


def digest(project: Project, directory: huggingface.Directory) -> str | None:
    """The digest of the directory's bytes; None until they were read, or after a file was touched."""
    sums = huggingface.known_sums(directory, memory(project))
    return None if sums is None else huggingface.digest(sums)


def checkpoint(project: Project, digest: str) -> Path:
    """The checkpoint folder of an import with this digest."""
    return root(project) / digest[:16]


def is_there(project: Project, directory: huggingface.Directory) -> bool:
    """Whether the directory has been imported since it was last changed."""
    current = digest(project, directory)
    return current is not None and (checkpoint(project, current) / checkpoints.MANIFEST).is_file()
