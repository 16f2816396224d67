"""What the law of a study proposes, kept from when its arms ended until its own runs did: `proposal.json`.

It is computed once. It holds as long as the arms that it rests on are those of the files: a study that is killed
between its arms and its proposal's runs goes on with the same one.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from curriculum import fs
from curriculum.config.project import Project
from curriculum.errors import DataError
from curriculum.studies.arms import CompiledStudy, compile_study
from curriculum.studies.decide import decide
from curriculum.studies.decision import Undecidable
from curriculum.studies.measured import measure
from curriculum.studies.question import question_of

FORMAT: Final = 1
PARTS: Final = 10_000
"""Shares are written in so many parts, a hundredth of a percent each."""


def with_stored_proposal(project: Project, name: str, size: str) -> CompiledStudy:
    """The study with the runs of its proposal, where one is stored and rests on the arms that the files describe.

    DataError for a stored proposal that was changed.
    """
    study = compile_study(project, name, size)
    weights = _stored(study)
    return study if weights is None else compile_study(project, name, size, weights)


def propose(study: CompiledStudy) -> CompiledStudy:
    """The study with the runs of its proposal, which is stored; the same where none follows.

    None follows while an arm is missing, where the evidence does not suffice, and where an arm has what is proposed.
    """
    if not study.has_proposal or study.of_role("proposal"):
        return study
    measured = measure(study)
    if not measured.complete:
        return study
    try:
        decision = decide(question_of(study), measured.evidence, measured.earlier)
    except Undecidable:
        return study
    if decision.proposal is None or decision.proposal.arm is not None or not decision.proposal.shares:
        return study
    weights = {
        source: Fraction(round(share * PARTS) * 100, PARTS)
        for source, share in sorted(decision.proposal.shares.items())
        if round(share * PARTS)
    }
    path = _path(study)
    fs.make_directory(path.parent)
    value = {
        "format": FORMAT,
        "weights": {name: str(weight) for name, weight in weights.items()},
        "plans": _plans(study),
    }
    fs.write_json(path, fs.seal(value), replace=True)
    return compile_study(study.study.project, study.name, study.study.size, weights)


def _stored(study: CompiledStudy) -> Mapping[str, Fraction] | None:
    path = _path(study)
    if not study.has_proposal or not path.exists():
        return None
    try:
        value: dict[str, Any] = fs.unseal(fs.parse_json(fs.read_bytes(path)), ())
        weights = {name: Fraction(weight) for name, weight in value["weights"].items()}
    except (ValueError, KeyError) as error:
        raise DataError(
            f"`{path}` is no proposal: {error}",
            hint="remove it: `curriculum run` makes it again from the arms that ended",
        ) from None
    return weights if value["plans"] == _plans(study) else None


def _plans(study: CompiledStudy) -> dict[str, str]:
    """The plans of the arms that a law is fitted to, by address."""
    return {arm.address: arm.stage.plan.fingerprint for arm in study.arms if arm.role != "proposal"}


def _path(study: CompiledStudy) -> Path:
    return study.study.project.runs / study.study.size / study.name / "proposal.json"
