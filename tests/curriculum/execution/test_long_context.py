"""A Qwen3-shaped import grown to longer contexts, shrunk again and branched, through the command line."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import commands
import family_models
import llamas
import pytest
import torch
from projects import write_small_project
from transformers import AutoModelForCausalLM

from curriculum.artifacts import checkpoints
from curriculum.artifacts.evaluations import read_evaluations
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.plan.model import ModelConfig
from curriculum.plan.stage import StagePlan
from runner.checkpoint import tensors
from runner.model.transformer import Transformer

pytestmark = pytest.mark.processes

GROWN = """
from: hf:tiny
seed: 7
sequence_length: 32
optimizer: {name: adamw, betas: [0.9, 0.95], weight_decay: 0.1, clip_norm: 1.0}
learning_rate: {shape: constant, max: 1e-2}
every: {evaluate: 2048 tokens, checkpoint: 512 tokens}
held_out_windows: 4
stages:
  - {name: short, until: 1024, mixture: prose-only, batch: 8 sequences}
  - {name: longer, until: 2048, sequence_length: 64, rope_theta: 5000, positions: restart}
  - name: longest
    until: 4096
    sequence_length: 128
    rope_scaling: {rope_type: yarn, factor: 4, original_max_position_embeddings: 32}
    positions: restart
  - {name: shorter, until: 5120, sequence_length: 32, positions: restart, batch: 16 sequences}
"""
BRANCH = """
from: grown/longer
stages:
  - {name: other, tokens: 1024, sequence_length: 128, rope_theta: 9000, positions: restart}
"""


@pytest.fixture(scope="module")
def drafted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_small_project(tmp_path_factory.mktemp("grown") / "project")
    made = family_models.model("Qwen3", dtype=torch.bfloat16, max_position_embeddings=32, num_hidden_layers=2)
    llamas.save(root / "tiny", made)
    sources = root / "sources.yaml"
    sources.write_text(sources.read_text().replace("held_out: 25%", "held_out: 45%"))
    (root / "stages/grown.yaml").write_text(GROWN)
    (root / "stages/branch.yaml").write_text(BRANCH)
    return root


@pytest.fixture(scope="module")
def finished(drafted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = Path(shutil.copytree(drafted, tmp_path_factory.mktemp("finished") / "project"))
    for name in ("grown", "branch"):
        commands.run("run", name, "--size", "full", folder=project, check=True)
    return project


def folder(project: Path, stage: str) -> Path:
    return project / "runs/full" / stage


def plan(project: Path, stage: str) -> StagePlan:
    return StagePlan.load(folder(project, stage) / "plan.json")


@pytest.mark.promise("`sequence_length`, `rope_theta` and `rope_scaling` change at a stage; the tokens of a batch stay")
def test_windows_and_rotations_change_by_stage_and_the_tokens_of_a_batch_stay(finished: Path) -> None:
    plans = [plan(finished, f"grown/{name}") for name in ("short", "longer", "longest", "shorter")]
    assert [p.sequence_length for p in plans] == [32, 64, 128, 32]
    assert [p.batch_tokens for p in plans] == [256, 256, 256, 512]
    assert [p.model["rope_theta"] for p in plans] == [10000, 5000, 5000, 5000]
    assert [(p.model.get("rope_scaling") or {}).get("factor") for p in plans] == [None, None, 4, 4]
    other = plan(finished, "branch/other")
    assert (other.sequence_length, other.batch_tokens, other.model["rope_theta"]) == (128, 256, 9000)
    for one in (*plans, other):
        assert one.model["qk_norm"] == "head"
        draws = one.draws_of(one.first_step, one.stop_step)
        pairs = list(zip(draws.pass_number.tolist(), draws.window.tolist(), strict=True))
        assert len({*pairs}) == len(pairs), "no window is read twice in an epoch"


@pytest.mark.promise("Held-out loss is measured by position: in each quarter of the window")
def test_held_out_loss_is_recorded_and_reported_by_quarter_of_the_window(finished: Path, tmp_path: Path) -> None:
    for stage, length in (("grown/longest", 128), ("grown/shorter", 32)):
        measured = [*read_evaluations(StageFolder(folder(finished, stage))).values()][-1]["prose"]
        assert measured["tokens"] == measured["windows"] * length
        assert len(measured["by_quarter"]) == 4
        assert sum(measured["by_quarter"]) / 4 == pytest.approx(measured["loss"], abs=1e-5)
    commands.run("report", "grown", "--size", "full", "--to", str(tmp_path / "r.html"), folder=finished, check=True)
    assert "Loss by position in the window" in (tmp_path / "r.html").read_text()


def test_an_export_says_the_rotations_of_its_last_stage_and_the_positions_that_it_was_trained_to(
    finished: Path, tmp_path: Path
) -> None:
    to = tmp_path / "out"
    commands.run(
        *("export", "branch", "--size", "full", "--to", str(to), "--dtype", "fp32"), folder=finished, check=True
    )
    config = json.loads((to / "config.json").read_text())
    assert config["model_type"] == "qwen3"
    assert config["max_position_embeddings"] == 128
    assert config["rope_parameters"]["rope_theta"] == 9000
    last = plan(finished, "branch/other")
    ours = Transformer(ModelConfig.from_json(last.model))
    saved = checkpoints.latest(StageFolder(folder(finished, "branch/other")))
    assert saved is not None
    tensors.load(saved.path, ours, None)
    with torch.no_grad():
        mine = ours.head.logits(ours(llamas.tokens()))
    theirs = llamas.logits(AutoModelForCausalLM.from_pretrained(to))
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4)


@pytest.mark.promise("A long-context stage that is killed ends with the same bits as an uninterrupted one")
def test_a_long_stage_that_was_killed_ends_with_the_same_bits(finished: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(finished, tmp_path / "project"))
    for stage in ("longest", "shorter"):
        shutil.rmtree(folder(project, f"grown/{stage}"))
    metrics = folder(project, "grown/longest") / "metrics.jsonl"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = ("run", "grown", "--size", "full")
    with (tmp_path / "said.txt").open("w") as said:
        process = commands.start(*words, folder=project, environment=environment, out=said.fileno(), err=said.fileno())
    until = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 3):
        assert time.monotonic() < until, (tmp_path / "said.txt").read_text()
        time.sleep(0.002)
    process.kill()
    process.wait(timeout=60)
    assert not (folder(project, "grown/shorter") / "DONE").exists(), "it ended before it could be killed"
    commands.run("run", "grown", "--size", "full", folder=project, check=True)
    for stage in ("grown/longest", "grown/shorter"):
        assert json.loads((folder(project, stage) / "DONE").read_bytes()) == json.loads(
            (folder(finished, stage) / "DONE").read_bytes()
        )


def test_more_positions_than_the_import_has_need_a_word_on_its_rotations(drafted: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(drafted, tmp_path / "project"))
    (project / "stages/grown.yaml").write_text(GROWN.replace(", rope_theta: 5000", ""))
    done = commands.run("plan", "grown", "--size", "full", folder=project)
    assert done.returncode != 0
    assert "a `sequence_length` of 64 is more than the 32 positions of the imported model" in done.stderr
    assert "`rope_theta:`" in done.stderr
