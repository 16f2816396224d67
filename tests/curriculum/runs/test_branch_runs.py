"""Branches of a small project through the command line: they go on exactly, and what they need is kept."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import commands
import pytest
from projects import BuiltOnce, job_of, write_prepared_project

from curriculum.artifacts import checkpoints
from curriculum.artifacts.job_process import StopFlag
from curriculum.artifacts.stage_folder import StageFolder, checkpoint_name
from curriculum.stream import Stage
from curriculum.stream.resume import with_resume

Curriculum = Callable[..., "subprocess.CompletedProcess[str]"]
FULL = ("--size", "full")

# A branch of a branch: another curve on the root's clock, met by a re-warming, and a fresh optimizer.
GRANDCHILD = """\
from: child@8448
stages:
  - {name: on, until: 10k, optimizer: reset, rewarm: 1024 tokens,
     learning_rate: {shape: constant, max: 8e-3, warmup: 2 steps}}
"""


def branched(finished: Path, folder: Path, curriculum: Curriculum) -> Path:
    """A copy of the finished project in which `child` leaves `variant` mid-ramp, and `grandchild` leaves `child`."""
    project = folder / "project"
    shutil.copytree(finished, project)
    curriculum(project, "branch", "variant@7168", "child", "--batch", "16 sequences", *FULL)
    (project / "stages/grandchild.yaml").write_text(GRANDCHILD)
    return project


def weights(project: Path, name: str, stage: str) -> str:
    done = json.loads((project / "runs/full" / name / stage / "DONE").read_bytes())
    return str(done["weights"])


@pytest.mark.promise(
    "A branch of a branch, mid-ramp, with another batch, rate or a fresh optimizer resumes exactly, also after a kill"
)
def test_a_branch_of_a_branch_resumes_exactly_in_a_ramp_with_another_batch_rate_and_optimizer(
    finished: Path, tmp_path: Path, curriculum: Curriculum
) -> None:
    undisturbed = branched(finished, tmp_path / "one", curriculum)
    curriculum(undisturbed, "run", "grandchild", *FULL)
    killed = branched(finished, tmp_path / "two", curriculum)
    for stage, lines in (("child/continual", 2), ("grandchild/on", 3)):
        _kill_after(killed, "grandchild", killed / "runs/full" / stage / "metrics.jsonl", lines)
    curriculum(killed, "run", "grandchild", *FULL)
    assert weights(killed, "grandchild", "on") == weights(undisturbed, "grandchild", "on")
    for project in (undisturbed, killed):
        metrics = (project / "runs/full/grandchild/on/metrics.jsonl").read_text().splitlines()
        rates = [json.loads(line)["lr"] for line in metrics]
        assert rates[0] != rates[-1] == 8e-3
        state = checkpoints.state(
            checkpoints.list_checkpoints(StageFolder(project / "runs/full/grandchild/on"))[-1].path
        )
        assert state["adam_step"] == len(metrics)  # reset where it branches, and nowhere else
    assert not (finished / "runs/full/child").exists()


def _kill_after(project: Path, name: str, metrics: Path, lines: int) -> None:
    """Run `name` and SIGKILL it once `metrics` has `lines` lines; its job ends when it notices."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (project / "printed").open("w") as out:
        streams = {"out": out.fileno(), "err": out.fileno()}
        process = commands.start("run", name, *FULL, folder=project, environment=environment, **streams)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and len(metrics.read_bytes().splitlines()) >= lines:
            break
        time.sleep(0.002)
    process.kill()
    process.wait(60)


def test_the_trunk_is_not_trained_again_and_its_sources_go_on(
    finished: Path, tmp_path: Path, curriculum: Curriculum
) -> None:
    project = branched(finished, tmp_path, curriculum)
    trunk = {path: path.stat().st_mtime_ns for path in (project / "runs/full/trunk").rglob("checkpoints/*")}
    curriculum(project, "run", "child", *FULL)
    assert {path: path.stat().st_mtime_ns for path in trunk} == trunk
    branch_point = checkpoints.state(project / "runs/full/variant/continual/checkpoints" / checkpoint_name(0, 7168))
    end = checkpoints.state(checkpoints.list_checkpoints(StageFolder(project / "runs/full/child/cooldown"))[-1].path)
    read = sum(end["windows"].values()) - sum(branch_point["windows"].values())
    assert read * 32 == 12288 - 7168


@pytest.mark.promise("A position that is pinned while a stage trains towards it gets a checkpoint that stays")
def test_a_position_that_is_pinned_while_a_stage_trains_towards_it_gets_a_checkpoint_that_stays(
    finished: Path, tmp_path: Path, curriculum: Curriculum
) -> None:
    project = tmp_path / "project"
    shutil.copytree(finished, project)
    shutil.rmtree(project / "runs")
    folder = project / "runs/full/trunk/basic"
    checkpoints.pin(StageFolder(folder), 1280, "mine")  # on no multiple of the cadence, and long before the last two
    curriculum(project, "run", "variant", *FULL)
    kept = [checkpoint.position for checkpoint in checkpoints.list_checkpoints(StageFolder(folder))]
    assert kept == [1280, 4096, 5120, 6144]


@pytest.mark.promise("A position that is pinned while a stage trains towards it gets a checkpoint that stays")
def test_a_position_that_is_pinned_during_the_step_that_reaches_it_gets_a_checkpoint(
    finished: Path, tmp_path: Path
) -> None:
    job = with_resume(job_of(finished, tmp_path / "basic"))
    stage = Stage(job, StopFlag(), agree=bool, rank=0, world_size=1)
    assert not stage.should_save()
    stage.step += 1
    checkpoints.pin(stage.folder, stage.position, "late")
    assert stage.should_save()


@pytest.mark.promise(
    "`prune` never deletes a checkpoint that a pin, a stage file or a started run needs, not even when killed or raced"
)
def test_prune_frees_what_nothing_needs_and_every_variant_still_runs(
    finished: Path, tmp_path: Path, curriculum: Curriculum
) -> None:
    project = branched(finished, tmp_path, curriculum)
    shown = curriculum(project, "prune", *FULL, "--dry-run").stdout
    assert "branched from by child" in shown
    before = sorted(project.rglob("checkpoints/*"))
    assert "would be deleted" in shown
    assert sorted(project.rglob("checkpoints/*")) == before
    rows = json.loads(curriculum(project, "prune", *FULL, "--json").stdout)
    gone = {row["position"] for row in rows if row["deleted"]}
    assert gone == {4096, 5120, 8192, 10240, 11264}
    assert len(sorted(project.rglob("checkpoints/*"))) == len(before) - len(gone)
    curriculum(project, "run", "grandchild", *FULL)
    assert "ok" in curriculum(project, "verify", "grandchild", *FULL).stdout


@pytest.fixture(scope="session")
def keeping(built_once: BuiltOnce, finished: Path) -> Path:
    """The trunk, trained with checkpoints that its file keeps: every 2,048 tokens, and at 3,000; read only."""

    def build(project: Path) -> None:
        write_prepared_project(project, finished)
        trunk = project / "stages/trunk.yaml"
        every = "every: {evaluate: 6144 tokens, checkpoint: 512 tokens"
        text = trunk.read_text().replace("every: {evaluate: 2048 tokens, checkpoint: 1024 tokens", every)
        trunk.write_text(text.replace("tokens}", "tokens, keep: 2048 tokens}\nkeep: 3000"))
        commands.run("run", "trunk", *FULL, folder=project, check=True)

    return built_once("keeping", build)


def saved(project: Path, curriculum: str, stage: str) -> list[int]:
    folder = StageFolder(project / "runs/full" / curriculum / stage)
    return [checkpoint.position for checkpoint in checkpoints.list_checkpoints(folder)]


@pytest.mark.promise("`plan` says what a run leaves on disk: its checkpoints are weighed")
@pytest.mark.parametrize(("built", "name"), [("finished", "variant"), ("keeping", "trunk")])
def test_a_run_leaves_as_many_bytes_of_checkpoints_as_its_plan_says(
    built: str, name: str, curriculum: Curriculum, request: pytest.FixtureRequest
) -> None:
    project: Path = request.getfixturevalue(built)
    cost = json.loads(curriculum(project, "plan", name, *FULL, "--json").stdout)["cost"]
    files = [path for path in project.glob("runs/full/*/*/checkpoints/*/*") if path.suffix == ".safetensors"]
    assert cost["checkpoints_kept"] == len({path.parent for path in files})
    assert sum(path.stat().st_size for path in files) == pytest.approx(cost["storage_bytes"], rel=0.02)


@pytest.mark.promise("A stage file says which checkpoints stay on disk, within the ceilings of the size")
def test_the_checkpoints_that_a_stage_file_keeps_stay_through_training_and_prune(
    keeping: Path, curriculum: Curriculum
) -> None:
    assert saved(keeping, "trunk", "basic") == [2048, 3072, 4096, 5120, 5632, 6144]
    rows = json.loads(curriculum(keeping, "prune", "--keep-last", "1", *FULL, "--dry-run", "--json").stdout)
    reasons = {row["position"]: row["kept_by"] for row in rows if row["stage"] == "trunk/basic"}
    assert [at for at, reason in reasons.items() if reason == ["kept by its stage file"]] == [2048, 3072, 4096]
    assert [at for at, reason in reasons.items() if not reason] == [5120, 5632]


@pytest.mark.promise("A branch at a pruned position says that it was pruned and what would have kept it")
@pytest.mark.parametrize(
    ("point", "cause", "hint"),
    [
        ("trunk@1000", "its checkpoint there was pruned since", "`keep: 1k`, or `every: {keep: …}`"),
        ("trunk@4600", "its checkpoint there was pruned since", "of the others the last 2 stay"),
        ("trunk@1100", "kept no checkpoint there", "says how often one is taken"),
    ],
)
def test_a_branch_where_no_checkpoint_is_says_whether_it_was_pruned(
    keeping: Path, curriculum: Curriculum, point: str, cause: str, hint: str
) -> None:
    refused = curriculum(keeping, "branch", point, "mine", *FULL, check=False)
    assert refused.returncode == 2
    said = " ".join(refused.stderr.split())
    assert cause in said
    assert hint in said
    assert not (keeping / "stages/mine.yaml").exists()


def test_a_branch_starts_at_each_checkpoint_that_a_stage_file_keeps(
    keeping: Path, tmp_path: Path, curriculum: Curriculum
) -> None:
    project = shutil.copytree(keeping, tmp_path / "project")
    for at in (2048, 3000, 4096):
        said = curriculum(project, "branch", f"trunk@{at}", f"decay-{at}", "--until", "8k", *FULL).stdout
        assert "checkpoint" in said
