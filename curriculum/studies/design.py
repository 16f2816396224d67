"""The design of a study that has started: the mixtures that it drafted, as they were before its first arm was trained.

They depend on how much text there is, through declared sizes and the passes that a mixture allows. `design.json` next
to the arms keeps them when text is prepared or appended later; a question that was edited since is drafted again.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from curriculum import fs
from curriculum.errors import DataError
from curriculum.runs.branch import flow
from curriculum.studies import mixtures
from curriculum.studies.study import Study

FILE = "design.json"
_ASKED = ("vary", "always", "controls")
Weights = Mapping[str, Mapping[str, Fraction]]
"""The weights of each drafted mixture, by the name of its point."""


def path_of(study: Study) -> Path:
    return study.project.runs / study.size / study.name / FILE


def is_kept(study: Study) -> bool:
    """Whether the study has started with the same question."""
    return read(study) is not None


def read(study: Study) -> Weights | None:
    """The drafted mixtures, where the study has started with the same question; DataError for an edited file."""
    path = path_of(study)
    if not path.exists():
        return None
    try:
        value = fs.read_sealed(path, ("question", "points"))
        points = {
            name: {source: Fraction(weight) for source, weight in weights.items()}
            for name, weights in value["points"].items()
        }
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"the design `{path}` cannot be used: {error}",
            hint="put the file back; without it the mixtures are drafted again from the text that is there now",
        ) from None
    return points if value["question"] == _question(study) else None


def write(study: Study, points: Weights) -> None:
    """Keep the drafted mixtures before the first arm is trained; those of the same question stay."""
    if read(study) is not None:
        return
    path = path_of(study)
    fs.make_directory(path.parent)
    exact = {name: {source: str(weight) for source, weight in weights.items()} for name, weights in points.items()}
    fs.write_sealed(path, {"question": _question(study), "points": exact}, replace=True)


def _question(study: Study) -> str:
    """The digest of what mixtures are drafted from, apart from the text."""
    stated: dict[str, Any] = {key: flow(study.document.value[key]) for key in _ASKED if key in study.document.value}
    base = mixtures.base(study)
    question = {
        "stated": stated,
        "around": {name: str(weight) for name, weight in sorted(base.weights.items())},
        "seed": study.root.seed,
    }
    return fs.digest(question)
