"""The report of `curriculum report`: plan and results as one HTML file without scripts or network requests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from curriculum import fs
from curriculum.config.project import Project
from curriculum.errors import ConfigError
from curriculum.report.html.gather import gather
from curriculum.report.html.page import MARK, MARK_WITHIN, page
from curriculum.report.html.study_data import gather_study
from curriculum.report.html.study_page import study_page

MOST_CURRICULA = 12


def render(project: Project, names: Sequence[str], size: str) -> str:
    """The report of curricula `names` at `size` as HTML; CurriculumError for an unreadable file."""
    if len(set(names)) > MOST_CURRICULA:
        raise ConfigError(
            f"a report puts at most {MOST_CURRICULA} curricula side by side, not {len(set(names))}",
            hint="write several reports",
        )
    return page(gather(project, names, size))


def render_study(project: Project, name: str, size: str) -> str:
    """The page of study `name` at `size` as HTML; CurriculumError for an unreadable file."""
    return study_page(gather_study(project, name, size))


def default_path(project: Project, names: Sequence[str], size: str) -> Path:
    """The default path of a report: next to the runs of its size, named for its curricula."""
    return project.output_path(size, "report", names, ".html")


def write(path: Path, html: str, *, make_folder: bool) -> None:
    """Write the report to `path`, over an earlier report; ConfigError rather than over any other file."""
    if path.is_dir():
        raise ConfigError(f"`{path}` is a directory", hint="name the file: `--to FOLDER/report.html`")
    if path.exists():
        with path.open("rb") as file:
            if MARK not in file.read(MARK_WITHIN):
                raise ConfigError(
                    f"`{path}` exists and is not a report; nothing was written",
                    hint="give `--to` another name, or move that file away",
                )
    if make_folder:
        fs.make_directory(path.parent)
    try:
        fs.write_bytes(path, html.encode(), replace=True)
    except OSError as error:
        raise ConfigError(
            f"`{path}` cannot be written: {error.strerror}", hint="name a file in a folder that you may write to"
        ) from None
