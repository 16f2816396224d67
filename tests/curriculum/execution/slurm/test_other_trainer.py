"""The example of a plain PyTorch loop as the trainer of a stage on a real Slurm: a rank on each of two nodes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from slurm_cluster import queue, wait_for
from slurm_runs import HEAD, Here

from curriculum.artifacts import checkpoints
from curriculum.artifacts.stage_folder import StageFolder

EXAMPLE = Path(__file__).parents[4] / "examples/plain-pytorch/train.py"
STAGES = (
    HEAD
    + "every: {evaluate: 40960 tokens, checkpoint: 5120 tokens}\n"
    + "stages:\n  - {name: basic, until: 61440, mixture: prose-only, batch: 8 sequences}\n"
)
TRAINER = "trainer: {name: plain-pytorch, run: [python, train.py], does: [train, evaluate]}"
MACHINES = f"""\
two: {{launcher: slurm, nodes: 2, device: cpu, threads: 1, address: 127.0.0.1, {TRAINER}}}
plain: {{device: cpu, threads: 1, {TRAINER}}}
"""


def test_another_trainer_on_two_nodes_saves_when_it_is_stopped_and_is_resumed_on_one(
    slurm: Path, finished: Path, tmp_path: Path
) -> None:
    here = Here(tmp_path / "project")
    shutil.copytree(finished, here.root, ignore=shutil.ignore_patterns("runs"))
    shutil.copy(EXAMPLE, here.root)
    (here.root / "stages/trunk.yaml").write_text(STAGES)
    (here.root / "machines.yaml").write_text(MACHINES)
    with (here.root / "mixtures/prose-only.yaml").open("a") as file:
        file.write("passes: {prose: 100}\n")
    here.run("trunk", "two")
    job = here.job("trunk/basic")
    wait_for("a checkpoint", lambda: here.saved("trunk/basic"), 120)
    assert f"asked Slurm job {job} to save and end" in here.say("stop", "trunk", "--size", "full")
    wait_for("the job to end", lambda: queue(job) == "FAILED", 60)
    assert here.state("trunk/basic") == ("started", f"Slurm job {job} saved and ended")
    folder = StageFolder(here.stage("trunk/basic"))
    saved = checkpoints.latest(folder)
    assert saved is not None
    state = checkpoints.state(saved.path)
    assert (state["ranks"], state["counted"]) == (2, "witnessed")
    assert 0 < state["position"] < 61440

    here.run("trunk", "plain")
    assert folder.done.exists()
    steps = [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()]
    assert steps == list(range(240))
    saved = checkpoints.latest(folder)
    assert saved is not None
    state = checkpoints.state(saved.path)
    assert (state["ranks"], state["counted"]) == (1, "witnessed")
