"""How many trainings a machine runs beside each other, and with which threads and GPUs each."""

from __future__ import annotations

from pathlib import Path

import pytest
from projects import write_small_project

from curriculum import fs
from curriculum.config.project import Project
from curriculum.execution import workers as execution_workers
from curriculum.execution.request import RunRequest
from curriculum.execution.workers import Worker, workers


def of(machine: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *, cores: int = 8, gpus: int = 0) -> list[Worker]:
    write_small_project(folder / "project", texts=False)
    (folder / "project/machines.yaml").write_text(f"mine: {machine}\n")
    for number in range(gpus):
        (folder / f"gpus/0000:0{number}:00.0").mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(execution_workers, "GPUS", folder / "gpus")
    monkeypatch.setattr(fs, "processors", lambda: cores)
    return list(
        workers(RunRequest(project=Project(folder / "project"), curriculum="trunk", size="full", machine="mine"))
    )


@pytest.fixture(autouse=True)
def _no_gpus_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_a_core_is_a_worker_with_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert of("{launcher: process, device: cpu}", tmp_path, monkeypatch) == [Worker(1)] * 8


def test_fewer_workers_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert of("{launcher: process, device: cpu, workers: 3}", tmp_path, monkeypatch) == [Worker(2)] * 3
    assert of("{launcher: process, device: cpu, workers: 3, threads: 1}", tmp_path, monkeypatch) == [Worker(1)] * 3


def test_a_gpu_is_a_worker_that_sees_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    each = of("{launcher: process}", tmp_path, monkeypatch, gpus=4)
    assert each == [Worker(2, str(number)) for number in range(4)]
    assert of("{launcher: process, device: cpu}", tmp_path, monkeypatch, gpus=4) == [Worker(1)] * 8


def test_a_worker_of_two_processes_has_two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = "{launcher: torchrun, gpus_per_node: 5, processes: 2}"
    assert of(machine, tmp_path, monkeypatch) == [Worker(2, "0,1"), Worker(2, "2,3")]


def test_the_gpus_are_those_that_are_visible_and_workers_may_share_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert of("{launcher: process}", tmp_path, monkeypatch, gpus=8) == [Worker(4, "3"), Worker(4, "5")]
    shared = of("{launcher: process, workers: 3}", tmp_path, monkeypatch, gpus=8)
    assert [worker.devices for worker in shared] == ["3", "5", "3"]
