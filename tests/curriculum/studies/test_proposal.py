"""What a law proposes is kept between the arms that it rests on and its own runs, and no longer."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from projects import write_small_project

from curriculum.config.project import Project
from curriculum.errors import DataError
from curriculum.studies import propose as proposing
from curriculum.studies.arms import compile_study
from curriculum.studies.decision import Undecidable
from curriculum.studies.propose import propose

STUDY = """\
from: trunk/basic
tokens: 4096
vary: {mixture: {around: mixed, runs: 5}}
goal: {lower: {code: 1, prose: 1}}
replicates: 2
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = write_small_project(tmp_path / "project", texts=False)
    sources = (root / "sources.yaml").read_text()
    (root / "sources.yaml").write_text(sources.replace("held_out: 25%", "held_out: 25%, tokens: 40k"))
    (root / "studies").mkdir()
    (root / "studies/mix.yaml").write_text(STUDY)
    return root


def evidence_says(monkeypatch: pytest.MonkeyPatch, *, complete: bool = True, arm: str | None = None) -> None:
    """A law that proposes two thirds of code, of arms that ended."""
    proposed = SimpleNamespace(arm=arm, shares={"code": 0.66671, "prose": 0.33329})
    measured = SimpleNamespace(complete=complete, evidence=None, earlier=())
    monkeypatch.setattr(proposing, "measure", lambda study: measured)
    monkeypatch.setattr(proposing, "question_of", lambda study: None)
    monkeypatch.setattr(proposing, "decide", lambda *_: SimpleNamespace(proposal=proposed))


def test_a_proposal_is_trained_in_replicates_and_found_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evidence_says(monkeypatch)
    proposed = propose(compile_study(Project(project), "mix", "full"))
    again = compile_study(Project(project), "mix", "full")
    for study in (proposed, again):
        assert [arm.name for arm in study.of_role("proposal")] == ["proposal", "proposal.2"]
        shares = study.arm("proposal").point.mixture.shares
        assert shares == {"code": Fraction(667, 1000), "prose": Fraction(333, 1000)}
    assert propose(again) is again


def test_a_proposal_ends_with_the_arms_that_it_rests_on(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evidence_says(monkeypatch)
    propose(compile_study(Project(project), "mix", "full"))
    (project / "studies/mix.yaml").write_text(STUDY.replace("tokens: 4096", "tokens: 5120"))
    assert not compile_study(Project(project), "mix", "full").of_role("proposal")
    (project / "studies/mix.yaml").write_text(STUDY)
    assert compile_study(Project(project), "mix", "full").of_role("proposal")


def _cannot(*_: Any) -> None:
    raise Undecidable("too little", "more")


def test_nothing_follows_of_arms_that_are_missing_or_of_what_was_run_already(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = compile_study(Project(project), "mix", "full")
    evidence_says(monkeypatch, complete=False)
    assert propose(study) is study
    evidence_says(monkeypatch, arm="natural")
    assert propose(study) is study
    evidence_says(monkeypatch)
    monkeypatch.setattr(proposing, "decide", _cannot)
    assert propose(study) is study


def test_a_proposal_that_was_edited_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evidence_says(monkeypatch)
    propose(compile_study(Project(project), "mix", "full"))
    path = project / "runs/full/mix/proposal.json"
    path.write_text(path.read_text().replace("667", "500"))
    with pytest.raises(DataError, match=r"proposal\.json` is no proposal: it was changed after it was written"):
        compile_study(Project(project), "mix", "full")
