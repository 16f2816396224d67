"""The stage file and the mixture that a person would have written for an arm, as text; nothing is written."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curriculum.config import ROOT_KEYS, json_schema
from curriculum.config.project import DRAFTED
from curriculum.errors import CurriculumError, Place
from curriculum.runs.branch import flow, scalar, stage_entries
from curriculum.studies.study import Study
from curriculum.units import Length

TRUNK = "seed-{seed}.{stage}"
"""The name of a stage before the branch point that is trained again under another seed."""
_ROOT_SETTINGS = (*ROOT_KEYS, "every", "keep", "held_out_windows")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """The text of a stage file, and that of the mixture files that no file has, by name."""

    stage_file: str
    mixtures: Mapping[str, str]


def length_text(length: Length) -> str:
    """A length inside a stage as a file states it: with its unit or its scale."""
    text = str(length)
    return f"{text} tokens" if text.isdecimal() else text


def stage_file(
    study: Study, curriculum: str, about: str, entries: Sequence[Mapping[str, Any]], seed: int, trunk: str = TRUNK
) -> str:
    """The file of curriculum `curriculum`: what leaves the branch point of trunk `seed`, counted from 1.

    Another trunk than the first has the stages before the branch point again, under the root's seed plus `seed` - 1 and
    the names of the form `trunk`. So has an arm without a branch point.
    """
    lines = [json_schema.modeline(f"stages/{curriculum}.yaml"), f"about: {scalar(about)}"]
    before: list[dict[str, Any]] = []
    if study.before and seed == 1:
        lines.append(f"from: {study.point}")
    else:
        root = study.root.document.value
        stated = {key: root[key] for key in _ROOT_SETTINGS if key in root}
        lines += [f"{key}: {flow(value)}" for key, value in (stated | {"seed": study.root.seed + seed - 1}).items()]
        for _, entry in stage_entries(study.project, study.before, cut=None) if study.before else ():
            before.append(entry | {"name": trunk.format(seed=seed, stage=entry["name"])})
    lines.append("stages:")
    lines += [f"  - {flow(entry)}" for entry in (*before, *entries)]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class StudyPlaces:
    """Where a study says what the files of its arms state: of `keys` of a stage, and of everything else."""

    keys: Mapping[str, Place]
    otherwise: Place

    @contextlib.contextmanager
    def of_arm(self, name: str) -> Iterator[None]:
        """An error in the drafted files of an arm is one of the study's file, and names the arm."""
        try:
            yield
        except CurriculumError as error:
            if error.place is not None and error.place.file.startswith(DRAFTED):
                error.what = f"arm `{name}`: {error.what}"
                error.place = self._of(error.place)
            raise

    def _of(self, drafted: Place) -> Place:
        before = re.findall(r"(\w+): ", drafted.text[: drafted.column - 1])
        stated = (self.keys[key] for key in reversed(before or ["name"]) if key in self.keys)
        return next(stated, self.otherwise)


def study_places(study: Study) -> StudyPlaces:
    """The places of what the arms of a study state in stage files."""
    stated = study.document.value
    keys = {key: study.place("vary", key) for key in stated["vary"]}
    for key, keys_of_arm in (("tokens", ("name", "tokens", "until")), ("drop", ("name", "tokens"))):
        if key in stated:
            keys |= dict.fromkeys(keys_of_arm, study.place(key))
    keys |= {key: study.place(key) for key in ("learning_rate", "every") if key in stated}
    return StudyPlaces(keys, study.place("vary"))
