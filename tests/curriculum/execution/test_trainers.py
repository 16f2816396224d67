"""The example of a plain PyTorch loop as a stage's trainer: real processes, killed, resumed, branched, compared."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import commands
import pytest

import curriculum as package
from curriculum.artifacts import checkpoints, ledger
from curriculum.artifacts.stage_folder import StageFolder

pytestmark = pytest.mark.processes

Curriculum = Callable[..., "subprocess.CompletedProcess[str]"]
EXAMPLE = Path(__file__).parents[3] / "examples/plain-pytorch"
PLAIN = ("--size", "full", "--machine", "plain")


@pytest.fixture(scope="module")
def trained(built_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """The example, run once undisturbed and branched from; read only."""

    def build(project: Path) -> None:
        shutil.copytree(EXAMPLE, project)
        for name in ("plain", "branched"):
            commands.run("run", name, *PLAIN, folder=project, check=True)

    return built_once("plain-pytorch", build)


@pytest.fixture
def project(trained: Path, tmp_path: Path) -> Path:
    """The example with its text prepared and nothing trained."""
    shutil.copytree(trained, tmp_path / "project", ignore=shutil.ignore_patterns("runs"))
    return tmp_path / "project"


def stage(project: Path, name: str) -> StageFolder:
    return StageFolder(project / "runs/full" / name)


def lines(folder: StageFolder) -> list[dict[str, object]]:
    return [json.loads(line) for line in folder.metrics.read_text().splitlines()]


def test_another_trainer_trains_the_lineage_and_every_step_read_what_the_plan_says(trained: Path) -> None:
    for name in ("plain/basic", "plain/continual", "branched/continual"):
        folder = stage(trained, name)
        newest = checkpoints.latest(folder)
        assert newest is not None
        assert folder.done.exists()
        checkpoints.verify(newest.path)
        state = checkpoints.state(newest.path)
        assert state["trainer"] == {"name": "plain-pytorch", "layout": "opaque"}
        assert state["counted"] == "witnessed"
        assert ledger.read(folder)[-1].checkpoint == newest.name
    stream = package.open(trained).stream("plain")
    steps = lines(stage(trained, "plain/basic")) + lines(stage(trained, "plain/continual"))
    assert [line["step"] for line in steps] == list(range(stream.last_step))
    assert [line["lr"] for line in steps] == [stream.lr(step) for step in range(stream.last_step)]


def test_what_a_killed_trainer_saved_is_resumed_to_the_same_bytes(project: Path, trained: Path) -> None:
    """SIGKILL of the command and its trainer, started as a person does and then forked; then to the end."""
    folder = stage(project, "plain/basic")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for number in range(3):
        before = checkpoints.latest(folder)
        with (project / "log").open("a") as log:
            streams = {"out": log.fileno(), "err": log.fileno()}
            running = commands.start(
                "run", "plain", *PLAIN, folder=project, environment=environment, fresh=number == 0, **streams
            )
        deadline = time.monotonic() + 120
        while number < 2:
            now = checkpoints.latest(folder)
            if now is not None and now != before and (pid := json.loads(folder.lock.read_text() or "{}").get("pid")):
                running.kill()
                os.kill(int(pid), signal.SIGKILL)
                break
            assert time.monotonic() < deadline, (project / "log").read_text()
            time.sleep(0.005)
        running.wait(120)
        assert folder.done.exists() == (number == 2), (project / "log").read_text()
    for name in ("plain/basic", "plain/continual"):
        assert json.loads(stage(project, name).done.read_text()) == json.loads(stage(trained, name).done.read_text())


def test_a_stage_trained_by_another_trainer_is_verified_compared_and_reported(
    trained: Path, curriculum: Curriculum
) -> None:
    assert "equal to the plan" in curriculum(trained, "verify", "branched", "--size", "full").stdout
    compared = curriculum(trained, "compare", "plain", "branched", *PLAIN)
    assert "not measured" not in compared.stdout + compared.stderr
    curriculum(trained, "report", "plain", "--size", "full")
    assert "branched from by branched" in curriculum(trained, "prune", "--dry-run", "plain", "--size", "full").stdout


def test_what_needs_weights_of_an_opaque_checkpoint_is_refused_by_name(
    trained: Path, project: Path, curriculum: Curriculum
) -> None:
    refused = curriculum(trained, "export", "plain", "--to", "out", "--size", "full", check=False)
    assert refused.returncode == 2
    assert "trainer `plain-pytorch` with `layout: opaque`" in " ".join(refused.stderr.split())
    shutil.copytree(trained / "runs", project / "runs")
    shutil.rmtree(project / "runs/full/plain/continual")
    ours = curriculum(project, "run", "plain", "--size", "full", check=False)
    assert ours.returncode == 2
    assert "continues from a checkpoint of trainer `plain-pytorch`" in " ".join(ours.stderr.split())
    assert not (project / "runs/full/plain/continual/attempts").exists()
