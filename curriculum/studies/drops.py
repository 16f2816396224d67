"""The arms of a study that are not trained to their end: which were dropped at their first end, fixed once.

It is kept in `runs/<size>/<study>/drops.json`, sealed, and holds as long as the forks that it rests on are those of the
files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from curriculum import fs
from curriculum.config.project import Project
from curriculum.errors import DataError

FILE = "drops.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drops:
    """The points that were worse than the best, `best`, by more than the noise, and by how many nats of `lower`.

    Of them, `dropped` end at their first end, and `audited` go on, to show how often the first end is right.
    """

    best: str
    dropped: Mapping[str, float]
    audited: Mapping[str, float]


def path_of(project: Project, study: str, size: str) -> Path:
    return project.runs / size / study / FILE


def read(project: Project, study: str, size: str, plans: Mapping[str, str]) -> Drops | None:
    """What was dropped; None before that, and where it rests on other forks than `plans`.

    `plans` has the fingerprint of each fork's plan by its address. DataError for a file that was changed.
    """
    path = path_of(project, study, size)
    if not path.exists():
        return None
    try:
        value = fs.read_sealed(path, ("best", "dropped", "audited", "plans"))
        drops = Drops(best=str(value["best"]), dropped=_gaps(value["dropped"]), audited=_gaps(value["audited"]))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"`{path}` says of no arm whether it was dropped: {error}",
            hint="put the file back; without it the forks are judged again",
        ) from None
    return drops if value["plans"] == dict(plans) else None


def _gaps(value: Mapping[str, float]) -> dict[str, float]:
    return {str(name): float(gap) for name, gap in value.items()}


def write(project: Project, study: str, size: str, drops: Drops, plans: Mapping[str, str]) -> None:
    """Keep what was dropped; what was kept of the same forks stays."""
    if read(project, study, size, plans) is not None:
        return
    path = path_of(project, study, size)
    fs.make_directory(path.parent)
    fs.write_sealed(path, {**fs.fields_of(drops), "plans": dict(plans)}, replace=True)


def audited(study: str, worse: Sequence[str], number: int) -> list[str]:
    """The points that go on although they are worse: `number` of them, drawn by their names."""
    return sorted(worse, key=lambda name: fs.digest([study, "audit", name]))[:number]
