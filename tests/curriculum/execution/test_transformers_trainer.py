"""The example of transformers' Trainer as a stage's trainer, and weights that go between it and our own."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import commands
import pytest
import torch
from killed_runs import run_killed
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch
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


@pytest.mark.promise("What another trainer saves with `layout: hf` our own model measures, averages and converts")
def test_another_trainer_s_model_is_exported_in_another_dtype_by_ours(
    trained: Path, curriculum: Curriculum, tmp_path: Path
) -> None:
    curriculum(trained, "export", "base", "--to", str(tmp_path / "half"), "--size", "full", "--dtype", "bf16")
    assert json.loads((tmp_path / "half/config.json").read_text())["dtype"] == "bfloat16"
    half = load_torch(tmp_path / "half/model.safetensors")
    saved = load_torch(newest(stage(trained, "base/continual")).path / "model.safetensors")
    assert half.keys() == saved.keys()
    assert all(torch.equal(half[name], tensor.bfloat16()) for name, tensor in saved.items())
    AutoModelForCausalLM.from_pretrained(tmp_path / "half")


@pytest.mark.promise("What another trainer saves with `layout: hf` our own model measures, averages and converts")
@pytest.mark.parametrize("machine", ["hf", "local"])
def test_losses_that_another_trainer_does_not_measure_are_measured_by_our_model(
    machine: str, trained: Path, tmp_path: Path, curriculum: Curriculum
) -> None:
    project = tmp_path / "copy"
    shutil.copytree(trained, project)
    machines = (project / "machines.yaml").read_text()
    (project / "machines.yaml").write_text(machines.replace("does: [train, evaluate]", "does: [train]"))
    ends = [newest(stage(project, f"{name}/continual")) for name in ("base", "branched")]
    theirs = [evaluations.read_sets(StageFolder(e.path.parents[1]), e.generation, e.position) for e in ends]
    for end in ends:
        StageFolder(end.path.parents[1]).evaluation(end.generation, end.position).unlink()
    compared = curriculum(project, "compare", "base", "branched", "--size", "full", "--machine", machine)
    assert "not measured" not in compared.stdout + compared.stderr
    for end, measured in zip(ends, theirs, strict=True):
        ours = evaluations.read_sets(StageFolder(end.path.parents[1]), end.generation, end.position)
        assert ours.keys() == measured.keys() == {"prose", "code"}
        for source, entry in measured.items():
            assert ours[source]["digest"] == entry["digest"]
            assert ours[source]["loss"] == pytest.approx(entry["loss"], abs=1e-5)


@pytest.mark.promise("What another trainer saves with `layout: hf` our own model measures, averages and converts")
def test_another_trainer_s_checkpoints_are_averaged_and_gone_on_from(
    trained: Path, tmp_path: Path, curriculum: Curriculum
) -> None:
    project = tmp_path / "copy"
    shutil.copytree(trained, project)
    more = "stages:\n  - {name: more, until: 10240, mixture: mixed}\n"
    (project / "stages/soup.yaml").write_text(f"from: {{average: [base, branched, own], weights: [2, 1, 1]}}\n{more}")
    refused = curriculum(project, "run", "soup", *HF, check=False)
    assert "trainer `transformers` does not" in " ".join(refused.stderr.split())
    curriculum(project, "run", "soup", *LOCAL)
    members = [
        load_torch(newest(stage(project, f"{name}/continual")).path / "model.safetensors")
        for name in ("base", "branched")
    ]
    curriculum(project, "export", "own", "--to", str(tmp_path / "own"), "--size", "full")
    members.append(load_torch(tmp_path / "own/model.safetensors"))
    curriculum(project, "export", "soup/average", "--to", str(tmp_path / "soup"), "--size", "full")
    soup = load_torch(tmp_path / "soup/model.safetensors")
    assert soup.keys() == members[0].keys()
    for name, tensor in soup.items():
        mean = sum(w * member[name].double() for w, member in zip((2, 1, 1), members, strict=True)) / 4
        assert torch.equal(tensor, mean.float()), name
    assert checkpoints.trainer_of(newest(stage(project, "soup/more")).path) is None
    assert "equal to the plan" in curriculum(project, "verify", "soup", "--size", "full").stdout


def test_a_model_that_ours_does_not_compute_is_refused_by_name(
    trained: Path, tmp_path: Path, curriculum: Curriculum
) -> None:
    project = tmp_path / "copy"
    shutil.copytree(trained, project)
    end = newest(stage(project, "branched/continual"))
    config = end.path / "config.json"
    config.write_text(config.read_text().replace('"rms_norm_eps": 1e-05', '"rms_norm_eps": 1e-04'))
    StageFolder(end.path.parents[1]).evaluation(end.generation, end.position).unlink()
    compared = curriculum(project, "compare", "base", "branched", *LOCAL)
    said = " ".join((compared.stdout + compared.stderr).split())
    assert f"the model in checkpoint `{end.name}` is another than the plan's: `rms_norm_eps` is 0.0001" in said
    (project / "stages/soup.yaml").write_text("from: {average: [base, branched]}\n")
    refused = curriculum(project, "run", "soup", *LOCAL, check=False)
    assert refused.returncode == 2
    assert "`rms_norm_eps` is 0.0001, the plan's 1e-05" in " ".join(refused.stderr.split())
    half = curriculum(
        project, "export", "branched", "--to", str(tmp_path / "o"), "--size", "full", "--dtype", "bf16", check=False
    )
    assert "`rms_norm_eps` is 0.0001, the plan's 1e-05" in " ".join(half.stderr.split())
