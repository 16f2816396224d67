"""What `plan` says of a mixture whose weights rest on a decision, and of one whose evidence has expired."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pretend_arms import pretend

import curriculum
from curriculum import fs
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.project import Project
from curriculum.errors import NotFound, PlanError
from curriculum.studies import record
from curriculum.studies.arm import Arm
from curriculum.studies.arm_evidence import measure, read_digests
from curriculum.studies.arms import compile_study
from curriculum.studies.decide import decide
from curriculum.studies.mixture_evidence import evidence_lines
from curriculum.studies.question import question_of

ROOT = Path(__file__).resolve().parents[3]
CODE, MATH, WEB = "starcoder-python-jupyter", "proof-pile-2", "slimpajama"


def loss(arm: Arm, source: str) -> float:
    return 6.0 - 2 * float(arm.point.mixture.shares.get(source, 0)) + 0.01 * arm.replicate


@pytest.fixture(scope="module")
def decided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose study `domains` ended and has a record, and a mixture that names it; read only."""
    root = tmp_path_factory.mktemp("decided")
    for name in ("sources.yaml", "sizes.yaml", "machines.yaml"):
        shutil.copy(ROOT / name, root)
    for name in ("stages", "mixtures", "studies"):
        shutil.copytree(ROOT / name, root / name)
    study = compile_study(Project(root), "domains", "rehearsal")
    pretend(study, loss, {CODE: 10.3, MATH: 10.6, WEB: 6.2})
    measured, question = measure(study), replace(question_of(study), resamples=0)
    decision = decide(question, measured.evidence, measured.earlier)
    text = "\n".join(study.study.document.lines)
    content = record.content("domains", text, question, measured.evidence, decision, read_digests(study, measured))
    record.write(root / "runs/rehearsal/domains", content)
    assert decision.proposal is not None
    weights = ", ".join(f"{name}: {100 * share:.2f}" for name, share in decision.proposal.shares.items())
    (root / "mixtures/decided.yaml").write_text(
        f"weights: {{{weights}}}\npasses: {{{CODE}: 20, {MATH}: 20}}\nevidence: domains@0001\n"
    )
    (root / "stages/mine.yaml").write_text(
        "from: v1.1/basic\nstages:\n  - {name: continual, until: 1.85T, mixture: decided, ramp: 6B}\n"
    )
    return root


@pytest.fixture
def project(decided: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(decided, tmp_path / "project"))


def said(root: Path) -> str:
    texts = PreparedText.open(Project(root), "mine", "rehearsal")
    (line,) = evidence_lines(texts, texts.compiled)
    return line


def edit(root: Path, file: str, old: str, new: str) -> None:
    path = root / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_a_mixture_rests_on_its_record_and_no_fingerprint_knows(project: Path) -> None:
    assert said(project) == "weights of `decided` rest on domains@0001: 27 runs at rehearsal, suggested"
    with_evidence = PreparedText.open(Project(project), "mine", "rehearsal").compiled.stages[-1].plan.fingerprint
    edit(project, "mixtures/decided.yaml", "evidence: domains@0001\n", "")
    without = PreparedText.open(Project(project), "mine", "rehearsal")
    assert without.compiled.stages[-1].plan.fingerprint == with_evidence
    assert evidence_lines(without, without.compiled) == []


def test_a_record_of_one_run_says_so_in_the_singular(project: Path) -> None:
    path = project / "runs/rehearsal/domains/decisions/0001.json"
    content = dict(record.read(project / "runs/rehearsal/domains", 1).content)
    path.write_text(json.dumps(fs.seal({**content, "decision": {**content["decision"], "runs": 1}})))
    assert "rest on domains@0001: 1 run at rehearsal" in said(project)


def test_the_branch_point_is_that_of_the_record_and_not_of_the_study_as_it_is_now(project: Path) -> None:
    before = said(project)
    (project / "studies/domains.yaml").unlink()
    assert said(project) == before


def _edit_weight(root: Path) -> None:
    path = root / "mixtures/decided.yaml"
    path.write_text(path.read_text().replace(f"{WEB}: ", f"{WEB}: 1"))


@pytest.mark.promise("`plan` says on what decision the weights of a mixture rest, or why they no longer do")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_edit_weight, "was edited since"),
        (
            lambda root: edit(root, "mixtures/decided.yaml", "weights: {", "weights: {skypile: 5, "),
            "never saw `skypile`",
        ),
        (lambda root: edit(root, "stages/mine.yaml", "v1.1/basic", "v1.1@1.2T"), "begins at 1.2T tokens"),
        (
            lambda root: edit(root, "stages/mine.yaml", "v1.1/basic", "v1.1-chinese/continual"),
            "after v1.1-chinese/continual",
        ),
        (lambda root: edit(root, "stages/mine.yaml", "until: 1.85T", "until: 1.65T"), "times by its end"),
        (lambda root: shutil.rmtree(root / "runs/rehearsal/domains/decisions"), "is not here"),
        (lambda root: (root / "runs/rehearsal/domains/decisions/0001.json").write_text("{}"), "is no record"),
    ],
)
def test_weights_that_no_longer_rest_on_their_record_say_why(
    project: Path, change: Callable[[Path], None], reason: str
) -> None:
    change(project)
    if "until: 1.85T" in (project / "stages/mine.yaml").read_text() and "chinese" in reason:
        edit(project, "stages/mine.yaml", "1.85T", "1.95T")
    assert reason in said(project)


# --- the same study in a notebook ----------------------------------------------------------------------------


def test_a_study_is_tables_of_its_arms_and_of_what_they_measured(decided: Path) -> None:
    study = curriculum.open(decided).study("domains")
    assert curriculum.open(decided).studies == ["cooldown", "domains", "how-much-old", "new-sources", "schedules"]
    assert len(study.arms) == 27
    assert all(row.keys() == study.arms[0].keys() for row in study.arms)
    kept = next(row for row in study.arms if row["address"] == "domains/kept.2")
    assert (kept["role"], kept["trunk"], kept["share/slimpajama"]) == ("control", 2, 1.0)
    responses = study.responses
    assert len(responses) == 27 * 3 + 2 * 3
    assert all(row.keys() == responses[0].keys() for row in responses)
    own = [row for row in responses if row["arm"] == "kept"]
    assert all(row["difference"] == 0 for row in own)
    law = study.law(MATH)
    assert law.predict({WEB: 50, MATH: 50}) < law.predict({WEB: 90, MATH: 10})
    assert study.decision is not None
    assert study.decision.address == "domains@0001"
    assert sum(study.decision.proposal.values()) == pytest.approx(1)
    assert {row["word"] for row in study.decision.verdicts} <= {"suggested", "not distinguishable", "contrary"}


def test_a_law_that_cannot_be_asked_is_refused(decided: Path) -> None:
    project = curriculum.open(decided)
    with pytest.raises(NotFound, match="skypile"):
        project.study("domains").law("skypile")
    with pytest.raises(NotFound, match="knows no"):
        project.study("domains").law(MATH).predict({"skypile": 1})
    with pytest.raises(PlanError, match="varies no mixture"):
        project.study("cooldown").law(WEB)
    assert project.study("cooldown").decision is None
