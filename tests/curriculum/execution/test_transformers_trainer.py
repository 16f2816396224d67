"""The example of transformers' Trainer as a stage's trainer, and weights that go between it and our own."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import commands
import pytest
from killed_runs import run_killed
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

import curriculum as package
from curriculum.artifacts import checkpoints, evaluations
from curriculum.artifacts.stage_folder import StageFolder

pytestmark = [pytest.mark.processes, pytest.mark.slow]

Curriculum = Callable[..., "subprocess.CompletedProcess[str]"]
EXAMPLE = Path(__file__).parents[3] / "examples/transformers-trainer"
HF = ("--size", "full", "--machine", "hf")
LOCAL = ("--size", "full", "--machine", "local")


@pytest.fixture(scope="module")
def trained(built_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """The example, each of its lineages run by the trainer that its `about` names; read only."""

    def build(project: Path) -> None:
        shutil.copytree(EXAMPLE, project)
        for name, machine in (("base", HF), ("branched", HF), ("own", LOCAL), ("back", HF)):
            commands.run("run", name, *machine, folder=project, check=True)

    return built_once("transformers-trainer", build)


@pytest.fixture
def project(trained: Path, tmp_path: Path) -> Path:
    """The example with its text prepared and nothing trained."""
    shutil.copytree(trained, tmp_path / "project", ignore=shutil.ignore_patterns("runs"))
    return tmp_path / "project"


def stage(project: Path, name: str) -> StageFolder:
    return StageFolder(project / "runs/full" / name)


def newest(folder: StageFolder) -> checkpoints.Checkpoint:
    saved = checkpoints.latest(folder)
    assert saved is not None
    return saved


@pytest.mark.promise("transformers' Trainer trains stages: killed, resumed to the same bytes, branched and compared")
def test_transformers_trainer_trains_the_lineage_and_every_step_read_what_the_plan_says(
    trained: Path, curriculum: Curriculum
) -> None:
    for name in ("base/basic", "base/continual", "branched/continual"):
        state = checkpoints.state(newest(stage(trained, name)).path)
        assert state["trainer"] == {"name": "transformers", "layout": "hf"}
        assert state["counted"] == "witnessed"
    stream = package.open(trained).stream("base")
    metrics = [stage(trained, f"base/{name}").metrics.read_text() for name in ("basic", "continual")]
    lines = [json.loads(line) for line in "".join(metrics).splitlines()]
    assert [line["step"] for line in lines] == list(range(stream.last_step))
    assert lines[-1]["loss"] < lines[0]["loss"] == pytest.approx(5.7, abs=0.2)
    assert "equal to the plan" in curriculum(trained, "verify", "branched", "--size", "full").stdout
    compared = curriculum(trained, "compare", "base", "branched", *HF)
    assert "not measured" not in compared.stdout + compared.stderr
    curriculum(trained, "report", "base", "--size", "full")


@pytest.mark.promise("transformers' Trainer trains stages: killed, resumed to the same bytes, branched and compared")
def test_what_a_killed_transformers_trainer_saved_is_resumed_to_the_same_bytes(project: Path, trained: Path) -> None:
    run_killed(project, stage(project, "base/basic"), "base", *HF, kills=1, fresh=False)
    for name in ("base/basic", "base/continual"):
        assert json.loads(stage(project, name).done.read_text()) == json.loads(stage(trained, name).done.read_text())


@pytest.mark.promise("A stage takes the weights of another trainer's checkpoint, or gives it ours, by `layout: hf`")
def test_weights_go_from_one_trainer_to_another_and_back(
    trained: Path, project: Path, curriculum: Curriculum, tmp_path: Path
) -> None:
    """By the losses that each trainer measures of the same weights, and by the bytes of our export."""
    position = newest(stage(trained, "base/basic")).position
    theirs = evaluations.read_sets(stage(trained, "base/basic"), 0, position)
    ours = evaluations.read_sets(stage(trained, "own/continual"), 0, position)
    for source, measured in theirs.items():
        assert ours[source]["loss"] == pytest.approx(measured["loss"], abs=1e-5)
    position = newest(stage(trained, "own/continual")).position
    ours = evaluations.read_sets(stage(trained, "own/continual"), 0, position)
    for source, measured in evaluations.read_sets(stage(trained, "back/last"), 0, position).items():
        assert ours[source]["loss"] == pytest.approx(measured["loss"], abs=1e-5)
    assert checkpoints.trainer_of(newest(stage(trained, "own/continual")).path) is None
    assert checkpoints.trainer_of(newest(stage(trained, "back/last")).path) == ("transformers", "hf")
    assert not stage(trained, "back/last").parent.exists()


def test_a_child_by_another_trainer_that_does_not_reset_its_optimizer_is_refused(
    trained: Path, project: Path, curriculum: Curriculum
) -> None:
    shutil.copytree(trained / "runs/full/base/basic", project / "runs/full/base/basic")
    file = project / "stages/own.yaml"
    file.write_text(file.read_text().replace(", optimizer: reset", ""))
    refused = curriculum(project, "run", "own", *LOCAL, check=False)
    assert refused.returncode == 2
    said = " ".join(refused.stderr.split())
    assert "checkpoint of trainer `transformers`, and `curriculum's own` can take its weights alone" in said
    assert "say `optimizer: reset` at the stage" in said
    assert not (project / "runs/full/own").exists()


def test_another_trainer_s_hugging_face_model_is_exported_as_it_is(
    trained: Path, curriculum: Curriculum, tmp_path: Path
) -> None:
    curriculum(trained, "export", "base", "--to", str(tmp_path / "out"), "--size", "full")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    saved = load_file(newest(stage(trained, "base/continual")).path / "model.safetensors")
    assert all((model[name].numpy() == tensor).all() for name, tensor in saved.items())
    assert not (tmp_path / "out/optimizer.pt").exists()
    assert "Saved by the trainer `transformers`" in (tmp_path / "out/README.md").read_text()
    refused = curriculum(
        trained, "export", "base", "--to", str(tmp_path / "half"), "--size", "full", "--dtype", "bf16", check=False
    )
    assert "its weights are copied as they are, in `float32`" in " ".join(refused.stderr.split())
