"""Branches of a small project through the command line: they go on exactly, and what they need is kept."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from curriculum.artifacts import checkpoints
from curriculum.artifacts.stage_folder import StageFolder, checkpoint_name

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
    """Run `name` and SIGKILL its whole process group once `metrics` has `lines` lines."""
    process = subprocess.Popen(
        [sys.executable, "-m", "curriculum", "run", name, *FULL],
        cwd=project,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and len(metrics.read_bytes().splitlines()) >= lines:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


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


@pytest.mark.promise(
    "`prune` never deletes a checkpoint that a pin, a stage file or a started run needs, not even when killed or raced"
)
def test_prune_frees_what_nobody_needs_and_every_variant_still_runs(
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
