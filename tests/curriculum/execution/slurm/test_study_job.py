"""The job behind the arms of a study: what it submits once they have ended, and why it submits nothing."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from pretend_arms import pretend

from curriculum import fs
from curriculum.artifacts.stage_folder import Attempt
from curriculum.config.project import Project
from curriculum.errors import RunFailed
from curriculum.execution import pool, study as execution_study
from curriculum.execution.request import RunRequest
from curriculum.execution.slurm.study import StudySubmission
from curriculum.execution.study import submit_next
from curriculum.studies.arm import Arm
from curriculum.studies.arms import CompiledStudy, compile_study

ROOT = Path(__file__).resolve().parents[4]
CODE, WEB = "starcoder-python-jupyter", "slimpajama"
BEFORE = {CODE: 10.3, "proof-pile-2": 10.6, WEB: 4.5}
STUDY = f"""\
for: v1.1-math-code/continual
vary: {{share: {{of: {WEB}, at: [10%, 30%, 60%]}}}}
goal: {{lower: {{{CODE}: 1}}, keep: {{{WEB}: before}}}}
replicates: 2
seeds: 1
"""


@pytest.fixture
def submission(tmp_path: Path) -> Attempt:
    """A project whose study was submitted, and the folder of the job behind its arms."""
    for name in ("sources.yaml", "sizes.yaml", "machines.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("stages", "mixtures"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies/old.yaml").write_text(STUDY)
    with (tmp_path / "machines.yaml").open("a") as machines:
        machines.write("\nfar: {launcher: slurm, device: cpu}\n")
    request = RunRequest(project=Project(tmp_path), curriculum="old", size="rehearsal", machine="far")
    attempt = Attempt(tmp_path / "runs/rehearsal/old/slurm/0001")
    fs.make_directory(attempt.path)
    StudySubmission(request=request, study="old", arms=("7",)).write(attempt)
    return attempt


def study_of(submission: Attempt) -> CompiledStudy:
    return compile_study(Project(submission.path.parents[4]), "old", "rehearsal")


def loss(arm: Arm, source: str) -> float:
    """The old text's loss is that of the branch point at a share of about 45%."""
    old = float(arm.point.mixture.shares.get(WEB, 0))
    noise = random.Random(f"{arm.name} {source}").gauss(0, 0.002)
    return (4.3 + 0.2 * ((old + 0.02) / 0.47) ** -0.3 if source == WEB else 6 + old) + noise


@pytest.mark.promise("On Slurm what follows the arms of a study is submitted by a job behind them")
def test_once_the_arms_have_ended_the_runs_of_the_proposal_are_submitted(
    submission: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted: list[RunRequest] = []

    def submit(requests: list[RunRequest]) -> tuple[list[object], list[str]]:
        submitted.extend(requests)
        return [], []

    monkeypatch.setattr(pool, "submit_many", submit)
    pretend(study_of(submission), loss, BEFORE)
    assert submit_next(submission)["outcome"] == "done"
    assert {"old/proposal", "old/proposal.2"} <= {request.arm for request in submitted}
    assert {(request.machine, request.size) for request in submitted} == {("far", "rehearsal")}
    submitted.clear()
    pretend(study_of(submission), loss, BEFORE)  # the proposal's runs, too
    assert submit_next(submission)["message"] == "nothing follows"
    assert not submitted


def test_while_an_arm_is_missing_nothing_is_submitted_and_it_is_named(
    submission: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "submit_many", lambda requests: pytest.fail("submitted"))
    pretend(study_of(submission), loss, BEFORE)
    shutil.rmtree(submission.path.parents[1] / "kept.2")
    with pytest.raises(RunFailed, match=r"1 arm of `old` did not end, as `old/kept\.2`"):
        submit_next(submission)


def test_a_study_without_a_proposal_has_no_job_behind_its_arms(submission: Attempt) -> None:
    study = study_of(submission)
    request = RunRequest(project=study.study.project, curriculum="old", size="rehearsal", machine="far")
    lines = "\n".join(StudySubmission(request=request, study="old", arms=("7", "9")).outline("submits what follows"))
    assert "#SBATCH --dependency=afterany:7:9" in lines
    assert "afterok" not in lines
    (study.study.project.root / "studies/old.yaml").write_text(
        f"for: v1.1-math-code/continual\nvary: {{list: [math-code, slimpajama]}}\ngoal: {{lower: {{{CODE}: 1}}}}\n"
    )
    assert not any("afterany" in line for line in execution_study.outline(request, study_of(submission)))
