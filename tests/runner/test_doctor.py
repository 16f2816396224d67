"""The doctor's report: every kernel with its reason, and no wish that cannot be served goes unsaid."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small import ALONE

from curriculum.artifacts.jobs import DoctorJob, Machine
from curriculum.errors import PlanError
from curriculum.plan.model import ModelConfig
from runner import doctor
from runner.model import attention
from runner.monitor import hardware
from runner.parallel import determinism
from runner.parallel.ranks import Ranks, join_ranks

GPUS = Ranks(0, 2, 2, torch.device("cuda"))


@pytest.mark.promise("`doctor` reports what this machine can run, and why it cannot run the rest")
def test_every_attention_kernel_is_listed_with_the_reason_it_cannot_serve(tmp_path: Path) -> None:
    doctor.doctor(DoctorJob(attempt_folder=str(tmp_path), machine=Machine()), ALONE)
    report = json.loads((tmp_path / "doctor.json").read_bytes())
    assert report["problems"] == []
    assert report["processes"] == {"asked": 1, "counted": 1}
    assert report["attention"]["kernels"]["dense"].keys() == attention.BACKENDS.keys()
    assert report["attention"]["kernels"]["dense"]["sdpa"] is None
    assert report["attention"]["kernels"]["dense"]["sdpa-flash"] == "it runs on CUDA devices only"
    serves = {"kernel": "sdpa", "why": "it serves everywhere"}
    assert report["attention"]["chosen"] == {"dense": serves, "document mask": serves}
    assert report["versions"]["torch"] == torch.__version__
    assert report["memory"]["bytes"] > 1 << 28


@pytest.mark.parametrize(
    ("machine", "said"),
    [
        (Machine(attention="flash-attn"), "attention `flash-attn` cannot serve here"),
        (Machine(attention="sdpa-cudnn"), "attention `sdpa-cudnn` cannot serve here"),
    ],
)
def test_a_kernel_asked_for_that_cannot_serve_is_a_problem(machine: Machine, said: str) -> None:
    problems = doctor.examine(machine, ALONE)["problems"]
    assert len(problems) == 1
    assert said in problems[0]["what"]
    assert problems[0]["hint"]


def test_blocks_to_be_compiled_without_a_compiler_are_a_problem_and_left_eager_they_are_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert doctor.examine(Machine(compile=True), ALONE)["problems"] == []
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    assert doctor.examine(Machine(), ALONE)["problems"] == []
    report = doctor.examine(Machine(compile=True), ALONE)
    assert "no C++ compiler is on the PATH" in report["problems"][0]["what"]
    monkeypatch.setenv("CXX", "/nowhere/c++")
    assert "`CXX=/nowhere/c++` is not a command" in doctor.why_no_compiler(torch.device("cpu"))


def test_a_gpu_that_is_not_there_is_refused_before_anything_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(PlanError, match=r"process 0 of this node needs a GPU of its own, and torch .* finds 0"):
        join_ranks("cuda")


@pytest.mark.promise("`deterministic: true` refuses what is not deterministic")
@pytest.mark.parametrize(
    ("name", "value"), [("CUBLAS_WORKSPACE_CONFIG", ":0:0"), ("NCCL_ALGO", "Tree"), ("TORCHINDUCTOR_MAX_AUTOTUNE", "1")]
)
def test_deterministic_refuses_an_environment_that_is_not_instead_of_changing_it(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("CUBLAS_WORKSPACE_CONFIG", "NCCL_ALGO", "TORCHINDUCTOR_MAX_AUTOTUNE"):
        monkeypatch.delenv(variable, raising=False)
    machine = Machine(deterministic=True)
    determinism.prepare(machine)
    determinism.check(machine, GPUS)
    monkeypatch.setenv(name, value)
    determinism.prepare(machine)
    with pytest.raises(PlanError, match=f"the environment says {name}={value}"):
        determinism.check(machine, GPUS)
    determinism.check(Machine(), GPUS)


@pytest.mark.promise("`deterministic: true` refuses what is not deterministic")
def test_deterministic_lets_no_operation_without_a_deterministic_kernel_pass() -> None:
    try:
        determinism.apply(Machine(deterministic=True), ALONE)
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_canonical_on_a_gpu_needs_deterministic_kernels() -> None:
    with pytest.raises(PlanError, match="`exactness: canonical` needs kernels"):
        determinism.check(Machine(exactness="canonical", micro_batch=1), GPUS)
    determinism.check(Machine(exactness="canonical", micro_batch=1), ALONE)


def test_a_token_of_tinyllama_costs_7_3_gigaflop_in_the_convention_that_is_named() -> None:
    config = ModelConfig(
        hidden_size=2048,
        num_hidden_layers=22,
        num_attention_heads=32,
        num_key_value_heads=4,
        intermediate_size=5632,
        vocab_size=32000,
        max_position_embeddings=2048,
    )
    matrices = 1_034_420_224  # of 1,100,048,384 parameters: not the embedding, not the norms
    assert config.flops_per_token(2048) == 6 * matrices + 12 * 22 * 2048 * 2048
    assert config.flops_per_token(2048) == pytest.approx(7.314e9, rel=1e-4)
    # the figure that TinyLlama gives for 24k tokens/s: 56% of an A100
    peak = hardware.peak_of("NVIDIA A100-SXM4-40GB")
    assert peak is not None
    assert 24_000 * config.flops_per_token(2048) / peak == pytest.approx(0.563, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989.5e12),
        ("NVIDIA H100 PCIe", 756.5e12),
        ("NVIDIA H100 80GB HBM3", 989.5e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA A10G", None),
        ("AMD EPYC", None),
    ],
)
def test_a_gpu_is_known_by_its_whole_name_and_another_is_not_guessed(name: str, peak: float | None) -> None:
    assert hardware.peak_of(name) == peak


def test_the_doctor_does_not_send_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(PlanError) as refused:
        join_ranks("cuda")
    assert "`curriculum doctor`" in str(refused.value.hint)
    doctor.doctor(DoctorJob(attempt_folder=str(tmp_path), machine=Machine()), ALONE, refused.value)
    (problem,) = json.loads((tmp_path / "doctor.json").read_bytes())["problems"]
    assert problem == {"what": refused.value.what, "hint": "set `device: cpu`, or fewer processes"}
