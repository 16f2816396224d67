"""Arms that end twice: annealed forks say which are dropped, two of those go on as an audit, and the record says so."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from pretend_arms import pretend

from curriculum.compiler.compile import compile_curriculum
from curriculum.config.project import Project
from curriculum.errors import DataError, PlanError
from curriculum.studies import drops
from curriculum.studies.arm import Arm
from curriculum.studies.arms import CompiledStudy, compile_study
from curriculum.studies.branch import branch_arm
from curriculum.studies.decide import decide
from curriculum.studies.decision_input import read_input
from curriculum.studies.halving import drop_arms, measure_forks
from curriculum.studies.question import question_of
from curriculum.studies.summary import summarise

ROOT = Path(__file__).resolve().parents[3]
CODE, MATH, WEB = "starcoder-python-jupyter", "proof-pile-2", "slimpajama"
BEFORE = {MATH: 10.6, WEB: 4.475, CODE: 10.3}
MIXTURES = ("best", "near", "far-1", "far-2", "far-3")
STUDY = f"""\
from: v1.1/basic
tokens: 100B
learning_rate: {{to: 0}}
vary: {{list: [{", ".join(MIXTURES)}]}}
goal: {{lower: {{{MATH}: 1}}}}
controls: [kept]
drop: at 50%
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("sources.yaml", "sizes.yaml", "machines.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("stages", "mixtures"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for number, name in enumerate(MIXTURES, start=1):
        (tmp_path / f"mixtures/{name}.yaml").write_text(f"weights: {{{WEB}: {100 - number}, {MATH}: {number}}}\n")
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies/new.yaml").write_text(STUDY)
    return tmp_path


def compiled(project: Path) -> CompiledStudy:
    return compile_study(Project(project), "new", "rehearsal")


def loss(arm: Arm, source: str) -> float:
    """The best and the near one differ by less than their noise; the others are worse by much more."""
    worse = {"mixture-best": 0.0, "mixture-near": 0.001, "kept": 0.3}.get(arm.point.name, 0.2)
    return 5.0 + worse + random.Random(f"{arm.name} {source}").gauss(0, 0.004)


def test_an_arm_and_its_fork_share_the_first_part_and_both_end_annealed(project: Path) -> None:
    study = compiled(project)
    arm, fork = study.arm("mixture-near"), study.arm("annealed.mixture-near")
    assert [stage.name for stage in arm.own_stages] == ["new/first-part.mixture-near", "new/mixture-near"]
    assert [stage.name for stage in fork.own_stages] == ["new/first-part.mixture-near", "new/annealed.mixture-near"]
    assert arm.first.plan.fingerprint == fork.first.plan.fingerprint
    half = (arm.stage.stop - arm.start) // 2
    assert arm.first.stop - arm.start == pytest.approx(half, abs=arm.stage.plan.batch_tokens)
    highest = arm.first.plan.learning_rate.at(arm.start)
    at_half = arm.first.plan.learning_rate.at(arm.first.stop)
    assert at_half == pytest.approx(highest / 2, rel=0.1)
    assert arm.stage.plan.learning_rate.at(arm.first.stop) == at_half  # the fall goes on
    for ended in (arm.stage, fork.stage):
        assert ended.plan.learning_rate.at(ended.stop) == pytest.approx(0, abs=0.05 * highest)
    assert study.awaits_forks
    assert len(study.forks) == len(study.arms) == len(MIXTURES) + 3
    assert summarise(study, "local", study.study.project.machine("local"))["drop"]["dropped"] is None


@pytest.mark.promise("An arm of a study equals the curriculum that a person would have written, bit for bit")
def test_an_arm_of_two_stages_is_written_as_two_stages(project: Path) -> None:
    study = compiled(project)
    for number, name in enumerate(("mixture-near", "kept.2", "annealed.mixture-near")):
        arm = study.arm(name)
        branch_arm(study.study, arm, f"mine-{number}")
        again = compile_curriculum(Project(project), f"mine-{number}", "rehearsal")
        assert again.stages[-1].plan.fingerprint == arm.stage.plan.fingerprint


@pytest.mark.promise("Arms are dropped early only by more than the noise, and an audit says how often that was right")
def test_what_is_worse_than_the_noise_is_dropped_but_two_and_the_decision_says_so(project: Path) -> None:
    study = compiled(project)
    pretend(study, loss, BEFORE)
    dropped = drop_arms(study)
    assert dropped.drops is not None
    assert dropped.drops.best in ("mixture-best", "mixture-near")
    assert set(dropped.drops.dropped) | set(dropped.drops.audited) == {f"mixture-far-{number}" for number in (1, 2, 3)}
    assert len(dropped.drops.audited) == 2
    assert {arm.point.name for arm in dropped.arms} == {"mixture-best", "mixture-near", "kept", *dropped.drops.audited}
    assert not dropped.awaits_forks
    assert question_of(dropped).dropped == 1
    pretend(dropped, loss, BEFORE)
    asked = read_input(Project(project), "new", "rehearsal")
    said = asked.so_far(decide(asked.question, asked.evidence))
    gone = next(iter(dropped.drops.dropped))
    assert said.notes[0].startswith(f"dropped at their first end, against `{dropped.drops.best}` there: `{gone}` (+0.")
    assert said.notes[1].startswith("audit of what was dropped: 2 of 2 that went on ended worse too")
    assert gone not in {row.name for row in said.contenders}
    # judged once: other losses of the same forks change nothing
    pretend(study, lambda arm, source: 5.0, BEFORE)
    assert drop_arms(compiled(project)).drops == dropped.drops


def test_nothing_is_dropped_where_nothing_is_beyond_the_noise_or_known_of_it(project: Path) -> None:
    study = compiled(project)
    pretend(study, lambda arm, source: 5 + random.Random(f"{arm.name} {source}").gauss(0, 0.01), BEFORE)
    found = drop_arms(study).drops
    assert found is not None
    assert not found.dropped
    assert not found.audited
    (project / "studies/new.yaml").write_text(STUDY + "replicates: 1\n")
    alone = compiled(project)
    pretend(alone, loss, BEFORE)
    found = drop_arms(alone).drops
    assert found is not None
    assert not found.dropped


def test_without_all_first_ends_nothing_is_dropped_and_no_decision_is_made(project: Path) -> None:
    study = compiled(project)
    assert drop_arms(study) is study
    assert len(measure_forks(study).missing) == len(study.forks)
    with pytest.raises(PlanError, match="have no first end yet"):
        read_input(Project(project), "new", "rehearsal")


def test_what_was_dropped_holds_for_these_forks_and_an_edited_file_is_refused(project: Path) -> None:
    pretend(compiled(project), loss, BEFORE)
    drop_arms(compiled(project))
    (project / "studies/new.yaml").write_text(STUDY.replace("100B", "120B"))
    assert compiled(project).awaits_forks
    (project / "studies/new.yaml").write_text(STUDY)
    path = drops.path_of(Project(project), "new", "rehearsal")
    path.write_text(path.read_text().replace("far-1", "best"))
    with pytest.raises(DataError, match="says of no arm whether it was dropped"):
        compiled(project)
