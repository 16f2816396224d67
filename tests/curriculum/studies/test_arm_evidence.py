"""The evidence of arms that ran: rows, what is missing, and what no longer applies."""

from __future__ import annotations

import math
import random
import shutil
from pathlib import Path

import pytest
from pretend_arms import measured_sets, pretend
from projects import InProcess

from curriculum.artifacts.evaluations import write_sets
from curriculum.config.project import Project
from curriculum.runs.folders import stage_folder
from curriculum.studies.arm import Arm
from curriculum.studies.arm_evidence import measure
from curriculum.studies.arms import CompiledStudy, compile_study
from curriculum.studies.decide import decide
from curriculum.studies.question import question_of
from curriculum.studies.status import changed_arms

ROOT = Path(__file__).resolve().parents[3]
CODE, MATH, WEB = "starcoder-python-jupyter", "proof-pile-2", "slimpajama"
BEFORE = {CODE: 10.3, MATH: 10.6, WEB: 4.475}


def copy_project(root: Path) -> None:
    for name in ("sources.yaml", "sizes.yaml", "machines.yaml"):
        shutil.copy(ROOT / name, root)
    for name in ("stages", "mixtures", "studies"):
        shutil.copytree(ROOT / name, root / name)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    copy_project(tmp_path)
    return tmp_path


def loss(arm: Arm, source: str) -> float:
    """A law of shares, the luck of a trunk, and that of a run."""
    shares = arm.point.mixture.shares
    own = float(shares.get(source, 0))
    floor = {WEB: 4.2, CODE: 4.5, MATH: 4.3}[source]
    value = floor + 0.9 * math.exp(-1.5 * own) * ((own + 0.01) / 1.01) ** -0.2
    return value + 0.02 * (arm.seed - 1) + random.Random(f"{arm.name} {source}").gauss(0, 0.003)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose study `domains` ended, as files; read only."""
    root = tmp_path_factory.mktemp("ended")
    copy_project(root)
    pretend(compile_study(Project(root), "domains", "rehearsal"), loss, BEFORE)
    return root


@pytest.fixture
def study(ended: Path, project: Path) -> CompiledStudy:
    shutil.copytree(ended / "runs", project / "runs")
    return compile_study(Project(project), "domains", "rehearsal")


def test_where_all_that_is_varied_is_controls_the_later_ones_are_judged_against_the_first(project: Path) -> None:
    asks = "for: v1.1/cooldown\nvary: {batch: [896 sequences, 3584 sequences]}\ngoal: {lower: {slimpajama: 1}}\n"
    (project / "studies/batches.yaml").write_text(asks)
    study = compile_study(Project(project), "batches", "rehearsal")
    assert {arm.point.name for arm in study.arms} == {"kept", "stated"}
    lower = {"kept": 4.3, "stated": 4.2}
    pretend(study, lambda arm, source: lower[arm.point.name] + random.Random(arm.name).gauss(0, 0.001), BEFORE)
    decision = decide(question_of(study), measure(study).evidence)
    assert decision.proposal is not None
    assert decision.proposal.arm == "stated"
    assert [(verdict.against, verdict.word) for verdict in decision.verdicts] == [("kept", "shown")]


def test_plan_and_status_name_the_arms_that_a_changed_mixture_trains_again(
    study: CompiledStudy, project: Path, in_process: InProcess
) -> None:
    assert changed_arms(study) == []
    mixture = project / "mixtures/math-code.yaml"
    mixture.write_text(mixture.read_text().replace("starcoder-python-jupyter: 15", "starcoder-python-jupyter: 30"))
    changed = changed_arms(compile_study(Project(project), "domains", "rehearsal"))
    assert {"domains/stated", "domains/stated.2", "domains/stated.3"} < set(changed)
    assert "domains/kept" not in changed
    for verb in ("plan", "status"):
        said = " ".join(in_process(project, verb, "domains", "--size", "rehearsal")[1].split())
        assert f"{len(changed)} of 27 runs were trained with another plan" in said
        assert "put the files back, or `curriculum run domains --accept-change` trains them again" in said


def test_every_run_of_every_arm_gives_a_row_for_each_source(study: CompiledStudy) -> None:
    measured = measure(study)
    assert measured.complete
    rows = [row for row in measured.evidence.rows if row.role != "before"]
    assert len(rows) == 27 * 3
    assert len(measured.plans) == 27
    kept = [row for row in rows if row.arm == "kept" and row.source == WEB]
    assert [(row.replicate, row.seed) for row in kept] == [(1, 1), (2, 2), (3, 1)]
    assert kept[0].settings == {WEB: 1.0}
    assert kept[0].loss == pytest.approx(loss(study.arm("kept"), WEB), abs=1e-5)
    assert len(kept[0].windows or ()) == 64


def test_the_branch_point_of_each_trunk_is_an_arm_of_its_own(study: CompiledStudy) -> None:
    before = [row for row in measure(study).evidence.rows if row.role == "before"]
    assert {(row.seed, row.source) for row in before} == {(seed, source) for seed in (1, 2) for source in BEFORE}
    assert all(row.loss == pytest.approx(BEFORE[row.source], abs=1e-5) for row in before)


def test_an_arm_that_has_not_ended_is_missing_and_the_others_count(study: CompiledStudy) -> None:
    arm = study.arm("natural.2")
    folder = stage_folder(arm.project, arm.compiled, arm.stage)
    folder.evaluation(0, arm.stage.stop).unlink()
    measured = measure(study)
    assert measured.missing == ("domains/natural.2",)
    assert len(measured.plans) == 26


@pytest.mark.promise("An arm whose text or plan changed is set aside by name, never mixed in")
def test_an_arm_whose_mixture_was_edited_is_set_aside_and_the_others_stay(study: CompiledStudy, project: Path) -> None:
    mixture = project / "mixtures/math-code.yaml"
    mixture.write_text(mixture.read_text().replace("proof-pile-2: 10", "proof-pile-2: 11"))
    again = compile_study(Project(project), "domains", "rehearsal")
    aside = {entry.arm: entry.reason for entry in measure(again).set_aside}
    assert {"domains/stated", "domains/stated.2", "domains/stated.3"} <= set(aside)
    assert not {name for name in aside if "kept" in name or "uniform" in name}
    assert "tokens read" in aside["domains/stated"]


@pytest.mark.promise("An arm whose text or plan changed is set aside by name, never mixed in")
def test_an_arm_that_was_measured_on_other_windows_is_set_aside(study: CompiledStudy) -> None:
    arm = study.arm("swarm-04")
    folder = stage_folder(arm.project, arm.compiled, arm.stage)
    sets = measured_sets(dict.fromkeys(study.sources, 4.0), "another text")
    write_sets(folder, 0, arm.stage.stop, 0, sets)
    (entry,) = measure(study).set_aside
    assert entry.arm == "domains/swarm-04"
    assert "other held-out windows" in entry.reason


def test_a_decision_follows_from_what_the_runs_measured(study: CompiledStudy) -> None:
    measured, question = measure(study), question_of(study)
    assert question.kind == "mixture"
    assert question.around == {MATH: 0.1, WEB: 0.75, CODE: 0.15}
    assert question.high is not None
    assert question.high[MATH] == pytest.approx(0.62)
    decision = decide(question, measured.evidence, measured.earlier)
    assert not decision.shown  # no run of the proposal yet
    assert decision.trunks == 2
    assert decision.proposal is not None
    assert sum(decision.proposal.shares.values()) == pytest.approx(1)


def test_earlier_evaluations_of_a_line_tell_whether_its_share_settled(project: Path) -> None:
    study = compile_study(Project(project), "how-much-old", "rehearsal")

    def line(arm: Arm, source: str) -> float:
        share = float(arm.point.mixture.shares.get(source, 0))
        return 2.8 + math.exp(-4 * share - 1.5) if source == WEB else 3.0 + math.exp(-2 * share)

    pretend(study, line, {WEB: 2.87, "skypile": 9.0})
    middles = []
    for arm in study.arms:
        folder, plan = stage_folder(arm.project, arm.compiled, arm.stage), arm.stage.plan
        middles.append(plan.start + plan.batch_tokens * 80)
        sets = measured_sets({source: line(arm, source) + 0.1 for source in study.sources}, seed=arm.name)
        write_sets(folder, 0, middles[-1], 0, sets)
    measured = measure(study)
    assert [position for position, _ in measured.earlier] == [middles[0]]
    decision = decide(question_of(study), measured.evidence, measured.earlier)
    (kept,) = decision.kept_shares
    assert kept.source == WEB
    assert kept.share == pytest.approx((-math.log(0.07) - 1.5) / 4, abs=0.02)


def test_a_cooldown_measures_the_exponent_of_the_batch_from_its_grid_and_its_controls(project: Path) -> None:
    study = compile_study(Project(project), "cooldown", "rehearsal")

    def grid(arm: Arm, source: str) -> float:
        batch, rate = arm.stage.plan.batch_sequences / 16, float(arm.point.settings["learning_rate"])
        return 4 + 0.3 * (rate / batch**0.5) ** 0.7 + random.Random(arm.name).gauss(0, 0.002)

    pretend(study, grid, {WEB: 4.5})
    question = question_of(study)
    assert question.kind == "cooldown"
    decision = decide(question, measure(study).evidence)
    (law,) = decision.laws
    assert law.terms["exponent"] == pytest.approx(0.5, abs=0.1)
