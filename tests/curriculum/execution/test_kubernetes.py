"""A run rendered for Kubernetes: taken by the official models and schemas; its command is that of several nodes."""

from __future__ import annotations

import copy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from curriculum.__main__ import main
from curriculum.config.machines import MachineEntry
from curriculum.errors import PlanError
from curriculum.launchers import kubernetes

ROOT = Path(__file__).resolve().parents[3]
MACHINES = """\
pods:
  launcher: kubernetes
  nodes: 2
  gpus_per_node: 8
  grace: 300
  kubernetes:
    image: registry.example.com/curriculum:0.1.0
    volume: project.claim
    namespace: training
    max_restarts: 3
    resources: {cpu: 96, memory: 900Gi, vpc.amazonaws.com/efa: 4}
boxes: {launcher: torchrun, nodes: 2, gpus_per_node: 8}
one: {launcher: kubernetes, device: cpu, kubernetes: {image: my/image, volume: claim, folder: /data/p}}
"""
Curriculum = Callable[..., str]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for path in ("sources.yaml", "sizes.yaml"):
        shutil.copy(ROOT / path, tmp_path)
    for path in ("stages", "mixtures"):
        shutil.copytree(ROOT / path, tmp_path / path)
    (tmp_path / "machines.yaml").write_text(MACHINES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Curriculum:
    """What `curriculum run v1.1 --size full WORDS` prints."""

    def call(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["curriculum", "run", "v1.1", "--size", "full", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert not ended.value.code, err
        return out

    return call


def rendered(run: Curriculum, machine: str, *words: str) -> dict[str, Any]:
    run("--machine", machine, "--render", "jobset.yaml", *words)
    jobset: dict[str, Any] = yaml.safe_load(Path("jobset.yaml").read_text())
    return jobset


def check(jobset: dict[str, Any]) -> None:
    """Refuses what Kubernetes' own models do: JobSet's by a round trip, the Job in it by the strict schema."""
    import kubernetes_validate  # here, as their hundreds of models take seconds, and one worker alone needs them
    from kubeflow_trainer_api.models import JobsetV1alpha2JobSet

    assert JobsetV1alpha2JobSet.from_dict(jobset).to_dict() == jobset
    for replicated in jobset["spec"]["replicatedJobs"]:
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "node"}, **replicated["template"]}
        kubernetes_validate.validate(job, "1.37", strict=True)


@pytest.mark.promise("A JobSet written by `run --render` is one that the official models of JobSet and Job take")
@pytest.mark.parametrize("machine", ["pods", "one"])
def test_the_official_models_take_the_rendered_jobset(run: Curriculum, machine: str) -> None:
    check(rendered(run, machine))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "failurePolicy", "maxRestart"), 3),
        (("spec", "replicatedJobs", 0, "replicas"), "1"),
        (("spec", "replicatedJobs", 0, "template", "spec", "completion"), 2),
        (("spec", "replicatedJobs", 0, "template", "spec", "template", "spec", "containers", 0, "img"), "my/image"),
    ],
)
def test_the_check_refuses_a_misspelt_key_and_a_wrong_type(run: Curriculum, path: tuple[Any, ...], value: Any) -> None:
    import kubernetes_validate

    jobset = copy.deepcopy(rendered(run, "pods"))
    part: Any = jobset
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    with pytest.raises((AssertionError, ValidationError, kubernetes_validate.ValidationError)):
        check(jobset)


def test_a_pod_for_each_node_asks_for_its_gpus_and_mounts_the_project(run: Curriculum) -> None:
    jobset = rendered(run, "pods")
    assert jobset["metadata"] == {"name": "v1-1-full", "namespace": "training"}
    assert jobset["spec"]["failurePolicy"] == {"maxRestarts": 3}
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (job["completions"], job["parallelism"], job["completionMode"], job["backoffLimit"]) == (2, 2, "Indexed", 0)
    pod = job["template"]["spec"]
    assert (pod["restartPolicy"], pod["terminationGracePeriodSeconds"]) == ("Never", 300)
    (container,) = pod["containers"]
    limits = {"cpu": "96", "memory": "900Gi", "vpc.amazonaws.com/efa": "4", "nvidia.com/gpu": "8"}
    assert container["resources"] == {"limits": limits}
    assert container["workingDir"] == container["volumeMounts"][0]["mountPath"] == "/project"
    assert pod["volumes"][0] == {"name": "project", "persistentVolumeClaim": {"claimName": "project.claim"}}
    small = rendered(run, "one")["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert small["containers"][0]["resources"] == {"limits": {}}
    assert small["terminationGracePeriodSeconds"] == 120


@pytest.mark.promise("What a pod runs is the command of several nodes, with the pod's number")
def test_the_command_in_a_pod_starts_the_same_processes_as_on_nodes_without_a_scheduler(run: Curriculum) -> None:
    options = ("--nproc-per-node", "4", "--profile-steps", "20:23", "--accept-environment")
    spec = rendered(run, "pods", *options)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    (variable,) = container["env"]
    assert "job-completion-index" in variable["valueFrom"]["fieldRef"]["fieldPath"]
    words = [word.replace(f"$({variable['name']})", "1") for word in container["command"]]
    assert words[:5] == ["curriculum", "run", "v1.1", "--size", "full"]
    assert not {*options} - {*words}
    host = "v1-1-full-node-0-0.v1-1-full"
    on_boxes = run("--machine", "boxes", "--node-rank", "1", "--master-addr", host, *options, "--dry-run")
    assert run(*words[5:], "--dry-run") == on_boxes
    assert "--nnodes=2 --node-rank=1" in on_boxes


def test_a_dry_run_shows_the_jobset_that_render_writes_and_writes_nothing(run: Curriculum, project: Path) -> None:
    before = sorted(project.rglob("*"))
    shown = run("--machine", "pods", "--dry-run", "--render", "jobset.yaml")
    assert sorted(project.rglob("*")) == before
    head, _, jobset = shown.partition("writes:\n")
    assert "v1.1/cooldown" in head
    assert yaml.safe_load(jobset) == rendered(run, "pods")


def test_the_name_of_the_last_pod_has_63_characters_at_most() -> None:
    pods = {"image": "my/image", "volume": "claim"}
    machine = MachineEntry.model_validate({"launcher": "kubernetes", "nodes": 11, "kubernetes": pods})
    longest = kubernetes.name(machine, "v1.1" + "a" * 38, "full")
    assert longest == "v1-1" + "a" * 38 + "-full"
    assert len(f"{longest}-node-0-10-abcde") == 63
    for curriculum in ("v1.1" + "a" * 39, "1"):
        with pytest.raises(PlanError, match="cannot be the name of a JobSet of 11 pods"):
            kubernetes.name(machine, curriculum, "full")
