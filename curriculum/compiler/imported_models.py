"""Where a project keeps what it imported, and how far an import is: found by the digest of the directory's bytes."""

from __future__ import annotations

from pathlib import Path

from curriculum.artifacts import checkpoints, huggingface
from curriculum.config.project import Project


def root(project: Project) -> Path:
    return project.data / "imported"


def memory(project: Project) -> Path:
    """The file that remembers digests of files by size and time of change, so that a plan reads no weights."""
    return root(project) / "digests.json"


def digest(project: Project, directory: huggingface.Directory) -> str | None:
    """The identity of the directory's bytes as they are now; None while they were not read, or were touched since."""
    sums = huggingface.known_sums(directory, memory(project))
    return None if sums is None else huggingface.digest(sums)


def checkpoint(project: Project, digest: str) -> Path:
    """The checkpoint folder that an import of these bytes becomes."""
    return root(project) / digest[:16]


def is_there(project: Project, directory: huggingface.Directory) -> bool:
    """Whether the directory, as it is now, has been imported."""
    known = digest(project, directory)
    return known is not None and (checkpoint(project, known) / checkpoints.MANIFEST).is_file()
