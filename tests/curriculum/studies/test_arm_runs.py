"""An arm that is trained: the bits of the curriculum that it is, and the held-out sets of its study."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from projects import InProcess, write_prepared_project

from curriculum.artifacts.evaluations import read_evaluations, write_sets
from curriculum.config.project import Project
from curriculum.execution.request import RunRequest
from curriculum.execution.run import run
from curriculum.runs.folders import stage_folder
from curriculum.studies.arms import CompiledStudy, compile_study
from curriculum.studies.branch import branch_arm

pytestmark = pytest.mark.processes

STUDY = """\
from: trunk/basic
tokens: 1024
vary: {add: {sources: [code], share: 30%}}
goal: {lower: {code: 1}, keep: {prose: before + 1}}
replicates: 2
"""

MARK = 99.0


def _mark_branch_point(study: CompiledStudy) -> None:
    """Give the trunk's end a loss that no model has, to be recognised where arms start."""
    arm = study.arms[0]
    parent = arm.stage.parent
    assert parent is not None
    folder = stage_folder(arm.project, arm.compiled, parent)
    code = dict(read_evaluations(folder)[parent.stop]["code"]) | {"loss": MARK}
    write_sets(folder, 0, parent.stop, arm.stage.plan.first_step, {"code": code})


def test_prepare_makes_the_text_that_the_arms_of_a_study_read_or_measure(
    finished: Path, tmp_path: Path, in_process: InProcess
) -> None:
    project = write_prepared_project(tmp_path, finished)
    (project / "studies").mkdir()
    (project / "studies/new.yaml").write_text(STUDY)
    (code,) = (project / "data").glob("code*")
    shutil.rmtree(code)
    for name in ("new", "new/kept"):
        rc, out, _ = in_process(project, "prepare", name)
        assert rc == 0
        assert {line.split()[0] for line in out.splitlines() if line.split()[1:2] == ["held-out"]} == {"code", "prose"}


@pytest.mark.promise("An arm of a study equals the curriculum that a person would have written, bit for bit")
def test_an_arm_trains_with_the_bits_of_the_curriculum_written_from_it(finished: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(finished, tmp_path / "project"))
    (root / "studies").mkdir()
    (root / "studies/new.yaml").write_text(STUDY)
    study = compile_study(Project(root), "new", "full")
    _mark_branch_point(study)
    losses = {}
    for arm in (study.arm("add-code"), study.arm("kept.2")):
        ended = run(RunRequest(project=arm.project, curriculum=arm.study, size="full"))
        folder = stage_folder(arm.project, ended.compiled, ended.compiled.stages[-1])
        assert folder.path == root / "runs/full/new" / arm.name
        losses[arm.name] = [json.loads(line)["loss"] for line in folder.metrics.read_text().splitlines()]
        end = read_evaluations(folder)[ended.compiled.stop]
        assert set(end) == {"code", "prose"}  # also of the arm that reads no code
        # the branch point was measured by the trunk, and not again by its arms
        assert read_evaluations(folder)[arm.stage.plan.start]["code"]["loss"] == MARK
    branch_arm(study.study, study.arm("add-code"), "mine")
    ended = run(RunRequest(project=Project(root), curriculum="mine", size="full"))
    folder = stage_folder(Project(root), ended.compiled, ended.compiled.stages[-1])
    again = [json.loads(line)["loss"] for line in folder.metrics.read_text().splitlines()]
    assert again == losses["add-code"] != losses["kept.2"]
    arm = study.arm("add-code")
    trained = stage_folder(arm.project, arm.compiled, arm.stage)
    assert (
        read_evaluations(folder)[ended.compiled.stop]["code"] == read_evaluations(trained)[ended.compiled.stop]["code"]
    )
