"""A pretraining curriculum written in YAML, compiled once into a plan of plain numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from curriculum.report.notebook import ProjectTables

__all__ = ["open"]


def open(folder: str | Path = ".") -> ProjectTables:
    """The project in `folder`, or around it, as tables for a notebook: see `curriculum.report.notebook`."""
    from curriculum.report.notebook import ProjectTables

    return ProjectTables(folder)
