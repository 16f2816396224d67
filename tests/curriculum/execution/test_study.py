"""A study by the verbs of curricula: its arms are run, watched, stopped, verified and pruned by its name."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands
import pytest
from projects import BuiltOnce, with_files

from curriculum import fs
from curriculum.artifacts import checkpoints
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.config.project import Project
from curriculum.execution.study import training_seconds
from curriculum.studies.arms import compile_study

FULL = ("--size", "full")
STUDY = """\
from: trunk/basic
tokens: 1024
vary: {add: {sources: [code], share: 30%}}
goal: {lower: {code: 1, exam: 1}, keep: {prose: before + 1}}
replicates: 2
"""
PROBE = "  exam: {read: {folder: texts/exam}, held_out: all}\n"
DROPPING = """\
from: trunk/basic
tokens: 1024
learning_rate: {to: 0}
vary: {add: {sources: [code], share: 30%}}
goal: {lower: {code: 1}}
controls: [kept]
replicates: 1
drop: at 50%
"""
ARMS = ("add-code", "kept", "kept.2")
Curriculum = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = pytest.mark.promise("A study is run, watched, stopped, verified and pruned by its name and its arms'")


def with_study(finished: Path, project: Path) -> Path:
    draw, texts = random.Random(5), {}
    for number in range(8):
        words = " ".join(draw.choice(("which", "ships", "return", "home", "x", "the", "rain")) for _ in range(400))
        texts[f"texts/exam/{number}.txt"] = words
    with_files(finished, project, {"studies/new.yaml": STUDY, **texts})
    with (project / "sources.yaml").open("a") as sources:
        sources.write(PROBE)
    return project


@pytest.fixture(scope="session")
def studied(built_once: BuiltOnce, finished: Path) -> Path:
    """`finished` with a study that was run once, undisturbed; read only."""

    def build(project: Path) -> None:
        with_study(finished, project)
        commands.run("run", "new", *FULL, folder=project, check=True)

    return built_once("studied", build)


def arm(project: Path, name: str) -> StageFolder:
    return StageFolder(project / "runs/full/new" / name)


def ended(project: Path) -> dict[str, object]:
    """What each arm ended with: its end with the weights' digest, and its held-out losses by window."""
    return {
        name: (
            json.loads(arm(project, name).done.read_bytes()),
            [json.loads(path.read_bytes())["sets"] for path in arm(project, name).evaluation_files()],
        )
        for name in ARMS
    }


@pytest.mark.promise("A study that was killed at random ten times ends as one that was not")
def test_a_study_that_was_killed_at_random_ten_times_ends_in_the_same_state(
    studied: Path, finished: Path, tmp_path: Path
) -> None:
    project, draw = with_study(finished, tmp_path / "project"), random.Random(16)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (tmp_path / "said.txt").open("w") as said:
        for _ in range(10):
            process = commands.start(
                "run", "new", *FULL, folder=project, environment=environment, out=said.fileno(), err=said.fileno()
            )
            time.sleep(draw.uniform(0.1, 1.5))  # a run undisturbed takes about two seconds
            process.kill()
            process.wait(timeout=60)
    commands.run("run", "new", *FULL, folder=project, check=True)
    assert ended(project) == ended(studied)


def test_the_training_of_a_study_counts_what_arms_share_once_and_beside_what_is_their_own(studied: Path) -> None:
    def seconds(metrics: Path) -> float:
        return sum(float(json.loads(line)["seconds"]) for line in metrics.read_text().splitlines())

    shared, own = training_seconds(compile_study(Project.find(studied), "new", "full"))
    assert shared == pytest.approx(seconds(studied / "runs/full/trunk/basic/metrics.jsonl"))
    assert own == pytest.approx(sum(seconds(arm(studied, name).metrics) for name in ARMS))


def test_every_arm_has_a_row_and_none_is_an_orphan(studied: Path, curriculum: Curriculum) -> None:
    rows = json.loads(curriculum(studied, "status", "new", *FULL, "--json").stdout)["arms"]
    assert [(row["address"], row["state"], row["position"]) for row in rows] == [
        (f"new/{name}", "done", 7168) for name in ARMS
    ]
    assert all(set(row["losses"]) == {"code", "exam", "prose"} for row in rows)
    table = curriculum(studied, "status", "new", *FULL).stdout
    assert "3 of 3 runs are done" in table
    assert curriculum(studied, "status", "new", *FULL, "--follow").stdout.split()[:2] == ["new/add-code", "done"]
    followed = curriculum(studied, "status", "new/kept.2", *FULL, "--follow").stdout
    assert followed.startswith("new/kept.2 is done, at 7,168 tokens")
    assert "kept.2  done  at 7,168" in curriculum(studied, "status", "new/kept.2", *FULL).stdout
    assert "no stage file names it" not in curriculum(studied, "status", *FULL).stdout


def test_all_files_of_all_arms_are_verified_and_what_they_share_once(studied: Path, curriculum: Curriculum) -> None:
    lines = curriculum(studied, "verify", "new", *FULL).stdout.splitlines()
    assert sum(line.startswith("ok  end of trunk/basic") for line in lines) == 1
    for name in ARMS:
        assert sum(line == f"ok  end of new/{name}" for line in lines) == 1


@pytest.mark.promise("`compare` and `report` take arms of studies beside each other and beside curricula")
def test_arms_are_compared_with_each_other_and_with_curricula(
    studied: Path, tmp_path: Path, curriculum: Curriculum
) -> None:
    project = Path(shutil.copytree(studied, tmp_path / "project"))
    value = json.loads(
        curriculum(project, "compare", "new/kept", "new/add-code", "trunk", *FULL, "--no-fill", "--json").stdout
    )
    assert value["variants"] == ["new/kept", "new/add-code", "trunk"]
    assert value["trunk"] == {"stages": ["trunk/basic"], "position": 6144}
    end = next(row["variants"] for row in value["sources"]["code"] if row["position"] == 7168)
    losses = {name: StageFolder(project / "runs/full/new" / name) for name in ("kept", "add-code")}
    for name, folder in losses.items():
        sets = json.loads(folder.evaluation_files()[-1].read_bytes())["sets"]
        assert end[f"new/{name}"]["loss"] == sets["code"]["loss"]
    assert end["new/add-code"]["difference"]["error"] is not None
    shown = curriculum(project, "compare", "new/kept", "new/add-code", *FULL, "--no-fill").stdout
    assert "new/add-code differs from new/kept in the tokens read" in " ".join(shown.split())
    rows = json.loads(curriculum(project, "compare", "new", *FULL, "--json").stdout)["arms"]
    assert {row["arm"]: row["runs"] for row in rows} == {"before": 1, "add-code": 1, "kept": 2}
    assert {source for row in rows for source in row["losses"]} == {"code", "exam", "prose"}
    said = curriculum(project, "report", "new/kept", "new/add-code", *FULL).stdout
    page = next(project.glob("runs/full/report-new-kept-*.html")).read_text()
    assert "report-new-kept-new-add-code.html" in said
    assert "<h1>new/kept and new/add-code</h1>" in page
    assert "studies/new.yaml" in page


@pytest.mark.promise("Arms are dropped early only by more than the noise, and an audit says how often that was right")
def test_arms_that_may_be_dropped_end_twice_and_go_on_from_their_first_part(
    studied: Path, tmp_path: Path, curriculum: Curriculum
) -> None:
    project = Path(shutil.copytree(studied, tmp_path / "project"))
    (project / "studies/drop.yaml").write_text(DROPPING)
    said = curriculum(project, "run", "drop", *FULL).stdout
    assert "worse than the best by more than the noise, and dropped: none; 2 runs go on" in said
    rows = json.loads(curriculum(project, "status", "drop", *FULL, "--json").stdout)["arms"]
    assert [(row["address"], row["state"]) for row in rows] == [
        (f"drop/{name}", "done") for name in ("annealed.add-code", "annealed.kept", "add-code", "kept")
    ]
    ended = curriculum(project, "decide", "drop", *FULL).stdout
    assert "none was dropped" in " ".join(ended.split())


def test_what_does_not_run_is_not_stopped(studied: Path, curriculum: Curriculum) -> None:
    assert "`new` is not running" in curriculum(studied, "stop", "new", *FULL).stdout
    assert "`new/kept` is not running" in curriculum(studied, "stop", "new/kept", *FULL).stdout


def test_an_arm_whose_plan_changed_is_set_aside_and_the_others_stay(
    studied: Path, tmp_path: Path, curriculum: Curriculum
) -> None:
    project = Path(shutil.copytree(studied, tmp_path / "project"))
    (project / "studies/new.yaml").write_text(STUDY.replace("30%", "40%"))
    again = curriculum(project, "run", "new", *FULL, check=False)
    assert again.returncode == 1
    assert "new/add-code was set aside" in again.stderr
    rows = {line.split()[0]: line.split()[1] for line in again.stdout.splitlines() if line.startswith("new/")}
    assert rows == {"new/add-code": "failed", "new/kept": "done", "new/kept.2": "done"}


@pytest.mark.promise(
    "Arms of an edited study are set aside by name; `--accept-change` trains them again and keeps their runs"
)
def test_several_arms_whose_plans_changed_are_reported_once_and_trained_again_on_request(
    studied: Path, tmp_path: Path, curriculum: Curriculum
) -> None:
    project = Path(shutil.copytree(studied, tmp_path / "project"))
    shutil.rmtree(arm(project, "add-code").checkpoints)  # as `prune` leaves it: what it measured is of its plan alone
    edited = STUDY.replace("tokens: 1024", "tokens: 2048").replace("replicates: 2", "replicates: 3")
    (project / "studies/new.yaml").write_text(edited)
    before, trunk = ended(project), StageFolder(project / "runs/full/trunk/basic").newest_attempt()
    again = curriculum(project, "run", "new", *FULL, check=False)
    assert again.returncode == 1
    said = " ".join(again.stderr.split())
    assert "3 of 4 runs were trained with another plan than the files describe now" in said
    assert "add-code, kept, kept.2; put the files back, or `curriculum run new --accept-change` trains" in said
    assert again.stderr.count("error:") == 1
    assert ended(project) == before
    kept = project / "runs/full/new/.replaced"
    for _ in range(2):  # the second time all fit the files
        again = curriculum(project, "run", "new", *FULL, "--accept-change")
        rows = {line.split()[0]: line.split()[1] for line in again.stdout.splitlines() if line.startswith("new/")}
        assert rows == {f"new/{name}": "done" for name in (*ARMS, "kept.3")}
        assert sorted(path.name for path in kept.iterdir()) == sorted(f"{name}-0001" for name in ARMS)
    assert {name: json.loads((kept / f"{name}-0001/DONE").read_bytes()) for name in ARMS} == {
        name: end
        for name, (end, _) in before.items()  # type: ignore[misc]
    }
    assert ended(project) != before
    assert StageFolder(project / "runs/full/trunk/basic").newest_attempt() == trunk, "what all share is trained once"


def test_once_it_is_decided_the_weights_of_arms_may_go_and_no_arm_is_trained_again(
    studied: Path, tmp_path: Path, curriculum: Curriculum
) -> None:
    project = Path(shutil.copytree(studied, tmp_path / "project"))
    assert "0 of 3 checkpoints" in curriculum(project, "prune", "new", *FULL).stdout
    (project / "runs/full/new/decisions").mkdir()
    (project / "runs/full/new/decisions/0001.json").write_text("{}")
    assert "3 of 3 checkpoints" in curriculum(project, "prune", "new", *FULL).stdout
    assert checkpoints.latest(arm(project, "kept")) is None
    attempts = sorted(project.rglob("attempts/*"))
    again = curriculum(project, "run", "new", *FULL, "--dry-run").stdout
    said = curriculum(project, "run", "new", *FULL).stdout
    assert sorted(project.rglob("attempts/*")) == attempts
    assert all(f"new/{name} is done at 7,168 tokens" in again for name in ARMS)
    assert said.count("7,168  7,168") == 3
    assert "3 of 3 runs are done" in curriculum(project, "status", "new", *FULL).stdout


@pytest.mark.promise("`verify` computes a study's decision again from the evaluations on disk")
def test_the_decision_is_computed_again_and_another_one_is_named(
    studied: Path, tmp_path: Path, curriculum: Curriculum
) -> None:
    project = Path(shutil.copytree(studied, tmp_path / "project"))
    curriculum(project, "decide", "new", *FULL)
    path = project / "runs/full/new/decisions/0001.json"
    kept = json.loads(path.read_bytes())

    def verified(value: dict[str, Any]) -> str:
        path.write_bytes(json.dumps(value).encode())
        done = curriculum(project, "verify", "new", *FULL, check=False)
        return " ".join((done.stdout + done.stderr).split())

    assert "ok decision new@0001: computed again, the same" in verified(kept)
    sealed = {key: value for key, value in kept.items() if key != fs.SEAL}
    other = json.loads(json.dumps(sealed))
    other["decision"]["word"] = "contrary" if other["decision"]["word"] != "contrary" else "shown"
    assert "is another than the same evidence gives now" in verified(fs.seal(other))
    earlier = fs.seal(other | {"method": 0})
    assert "ok decision new@0001: by method 0; this version decides by method" in verified(earlier)
    moved = json.loads(json.dumps(sealed))
    moved["evidence"]["arms"]["kept"]["runs"]["seed 1, replicate 2"]["prose"] += 1e-9
    assert "rests on a loss of `kept` that is another one on disk" in verified(fs.seal(moved))
    assert "it was changed after it was written" in verified({**other, fs.SEAL: kept[fs.SEAL]})
    fewer = json.loads(json.dumps(sealed))
    fewer["evidence"] |= {"digest": "0"}
    del fewer["evidence"]["arms"]["kept"]["runs"]["seed 1, replicate 2"]
    assert "of the runs that there were then; there are more now" in verified(fs.seal(fewer))
    (project / "studies/new.yaml").write_text(f"about: more code\n{STUDY}")
    assert "the study's file was edited since" in verified(kept)
