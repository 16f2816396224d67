"""How another trainer is asked to stop, by signal or by file, and what its exit code says."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import commands
import pytest

from curriculum.artifacts import checkpoints
from curriculum.artifacts.stage_folder import Attempt, StageFolder

pytestmark = pytest.mark.processes

TRAINER = """
import os, time
from curriculum.stream import join

with join() as stage:
    for batch in stage.batches():
        assert os.environ["CURRICULUM_ATTEMPT"] == str(stage.attempt)
        time.sleep(0.05)
        stage.took(batch.step, loss=1.0)
        if stage.should_save():
            with stage.checkpoint() as folder:
                (folder / "weights").write_text("w")
"""
TWO_RANKS = """
import torch
from curriculum.integrations.torch import any_rank
from curriculum.stream import join
from curriculum.stream import witness

torch.distributed.init_process_group("gloo")
with join(agree=any_rank) as stage:
    for batch in stage.batches(micro_batch=2):
        seen = (0 if batch.micro == 0 else seen) + witness(batch.inputs)
        if batch.last:
            seen = torch.tensor([seen >> 32 & 0xFFFFFFFF, seen & 0xFFFFFFFF])
            torch.distributed.all_reduce(seen)
            whole = (int(seen[0]) * 2**32 + int(seen[1])) % 2**64
            stage.took(batch.step, loss=1.0, witness=whole)
            if stage.should_save():
                with stage.checkpoint() as folder:
                    (folder / f"weights-{stage.rank}").write_text("w")
"""
WITHOUT_THE_CONTRACT = """
import json, os, sys
job = json.load(open(os.environ["CURRICULUM_JOB"]))
sys.exit(75 if job["attempt_folder"].endswith(("0001", "0002", "0003")) else 0)
"""


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "project", ignore=shutil.ignore_patterns("runs"))
    return tmp_path / "project"


def write(project: Path, script: str, machine: dict[str, object] | None = None, **more: str) -> None:
    entry = {"name": "mine", "run": ["python", "train.py", "{job}"], **more}
    mine = {"device": "cpu", "threads": 1, "trainer": entry, **(machine or {})}
    (project / "machines.yaml").write_text(json.dumps({"mine": mine}))
    (project / "train.py").write_text(script)


@pytest.mark.parametrize("stop", ["signal", "file"])
def test_a_trainer_that_is_asked_to_stop_saves_where_it_is_and_resumes_from_there(project: Path, stop: str) -> None:
    write(project, TRAINER, stop=stop, ranks="its-own")
    folder = StageFolder(project / "runs/full/trunk/basic")
    words = ("run", "trunk", "--size", "full", "--machine", "mine")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (project / "said.txt").open("w") as out:
        running = commands.start(*words, folder=project, environment=environment, out=out.fileno(), err=out.fileno())
    deadline = time.monotonic() + 120
    while not folder.metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    running.wait(timeout=120)
    first = Attempt(folder.attempts / "0001")
    outcome = first.read_outcome()
    assert outcome is not None, (project / "said.txt").read_text()
    assert outcome["outcome"] == "stopped"
    assert first.stop.exists() == (stop == "file")
    saved = checkpoints.latest(folder)
    assert saved is not None
    assert saved.position == outcome["position"] < 6144
    second = commands.run(*words, folder=project)
    assert second.returncode == 0, second.stderr
    job = json.loads((folder.attempts / "0002/job.json").read_text())
    assert job["resume"]["step"] == outcome["step"]
    steps = [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()]
    assert steps == list(range(24))
    verified = commands.run("verify", "trunk", "--size", "full", folder=project)
    assert "its trainer reported no witness of what it read" in verified.stdout


def test_a_trainer_whose_machine_is_taken_away_is_started_again_and_that_counts_as_no_failure(project: Path) -> None:
    write(project, WITHOUT_THE_CONTRACT)
    (project / "fast.py").write_text(
        "from curriculum.launchers import supervisor; supervisor.BACKOFF_SECONDS = (0.0,)\n"
        "from curriculum.__main__ import main; main()\n"
    )
    done = subprocess.run(
        [sys.executable, "fast.py", "run", "trunk", "--size", "full", "--machine", "mine"],
        cwd=project,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "ended without reaching the end or saying why" in done.stderr
    assert len(list((project / "runs/full/trunk/basic/attempts").iterdir())) == 4


def test_two_ranks_read_a_step_together_and_write_one_checkpoint(project: Path) -> None:
    write(project, TWO_RANKS, {"launcher": "torchrun", "processes": 2})
    stages = project / "stages/trunk.yaml"
    one = "  - {name: only, until: 2048, mixture: mixed, batch: 8 sequences}\n"
    stages.write_text(stages.read_text().partition("  - {name: basic")[0] + one)
    (project / "stages/variant.yaml").unlink()
    curriculum = commands.run("run", "trunk", "--size", "full", "--machine", "mine", folder=project)
    assert curriculum.returncode == 0, curriculum.stderr
    saved = checkpoints.latest(StageFolder(project / "runs/full/trunk/only"))
    assert saved is not None
    assert saved.position == 2048
    assert sorted(path.name for path in saved.path.glob("weights*")) == ["weights-0", "weights-1"]
    state = checkpoints.state(saved.path)
    assert (state["counted"], state["ranks"]) == ("witnessed", 2)
