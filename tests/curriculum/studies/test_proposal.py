"""What a law proposes is kept between the arms that it rests on and its own runs, and no longer."""

from __future__ import annotations

import math
import random
import shutil
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pretend_arms import decided, pretend
from projects import write_small_project

from curriculum.config.project import Project
from curriculum.errors import DataError
from curriculum.studies import proposal, propose as proposing
from curriculum.studies.arm import Arm
from curriculum.studies.arms import CompiledStudy, compile_study, fix_design
from curriculum.studies.decision import Undecidable
from curriculum.studies.decision_input import DecisionInput, read_input
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

    def measured(study: CompiledStudy) -> SimpleNamespace:
        return SimpleNamespace(complete=complete, evidence=None, earlier=(), plans=study.plans)

    monkeypatch.setattr(proposing, "measure", measured)
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


def loss(arm: Arm, source: str) -> float:
    """Lower with more text of the source's own, and the luck of a run."""
    own = float(arm.point.mixture.shares.get(source, 0))
    return 3 + math.exp(-3 * own) + random.Random(f"{arm.name} {source}").gauss(0, 0.002)


def decide_again(project: Path) -> DecisionInput:
    """What a decision takes, after it fixed a proposal where the arms ended without one."""
    decided(Project(project), "mix", "full", loss, {"code": 4.5, "prose": 4.5})
    return read_input(Project(project), "mix", "full")


@pytest.fixture
def ended(project: Path) -> Path:
    """The study with a proposal whose runs ended, too."""
    fix_design(compile_study(Project(project), "mix", "full"))
    decide_again(project)
    assert {row.arm for row in decide_again(project).evidence.rows if row.role == "proposal"} == {"proposal"}
    return project


def test_a_proposal_and_its_runs_stay_while_text_that_the_arms_read_is_missing(ended: Path) -> None:
    fixed = (ended / "runs/full/mix/proposal.json").read_bytes()
    before = compile_study(Project(ended), "mix", "full").plans
    sources = (ended / "sources.yaml").read_text()
    (ended / "sources.yaml").write_text(sources.replace("tokens: 40k", "tokens: 50k"))  # plans of text that is missing
    assert compile_study(Project(ended), "mix", "full").plans != before
    again = read_input(Project(ended), "mix", "full")
    assert again.evidence.arms("proposal") == ("proposal",)
    assert again.incomplete == []
    assert again.notes == ()
    decide_again(ended)
    assert (ended / "runs/full/mix/proposal.json").read_bytes() == fixed


def test_a_proposal_of_missing_text_rests_on_the_plans_that_trained_its_arms(project: Path) -> None:
    fix_design(compile_study(Project(project), "mix", "full"))
    trained = compile_study(Project(project), "mix", "full")
    pretend(trained, loss, {"code": 4.5, "prose": 4.5})
    sources = (project / "sources.yaml").read_text()
    (project / "sources.yaml").write_text(sources.replace("tokens: 40k", "tokens: 50k"))
    decide_again(project)
    (project / "sources.yaml").write_text(sources)
    assert proposal.read(Project(project), "mix", "full", trained.plans) is not None


def test_a_decision_names_the_arms_by_which_a_fixed_proposal_does_not_apply(ended: Path) -> None:
    shutil.rmtree(ended / "runs/full/mix/kept")  # trained again by another plan
    (ended / "studies/mix.yaml").write_text(STUDY + "controls: [stated]\n")
    again = read_input(Project(ended), "mix", "full")
    assert not again.evidence.arms("proposal")
    assert [note for note in again.notes if "the proposal that was fixed does not apply" in note and "mix/kept" in note]
