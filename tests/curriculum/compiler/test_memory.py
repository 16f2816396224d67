"""What a stage needs of a GPU: the micro-batch that is chosen for it, what is refused, and what would fit."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pretend_runs import pretend

from curriculum.cli.view.plan import _saves as saves_of
from curriculum.compiler import memory
from curriculum.compiler.compile import compile_curriculum
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.machines import MachineEntry
from curriculum.config.project import Project
from curriculum.errors import PlanError
from curriculum.execution.machine import check_devices
from curriculum.execution.request import RunRequest
from curriculum.execution.train_job import train_job

ROOT = Path(__file__).resolve().parents[3]
STAGE = compile_curriculum(Project(ROOT), "v1.1", "full").stages[0]


def machine(**keys: Any) -> MachineEntry:
    return MachineEntry(**{"launcher": "torchrun", "nodes": 16, "gpus_per_node": 4, "memory": "40GB", **keys})


def needed(entry: MachineEntry, **changes: Any) -> int:
    need = memory.need(STAGE.plan, entry.model_copy(update=changes))
    assert need is not None
    return need.bytes


@pytest.mark.parametrize("room", ["25GB", "34GB", "40GB", "80GB"])
def test_the_micro_batch_chosen_is_the_largest_that_leaves_a_tenth_of_the_memory(room: str) -> None:
    entry = machine(memory=room)
    assert entry.memory is not None
    chosen = memory.chosen_micro_batch(STAGE.plan, entry)
    assert chosen is not None
    divisors = [n for n in range(1, 15) if 14 % n == 0]  # 896 sequences on 64 GPUs are 14 each
    fitting = [n for n in divisors if needed(entry, micro_batch=n) <= entry.memory * 9 / 10]
    assert chosen == fitting[-1]


def test_the_machine_s_own_micro_batch_stays_and_no_memory_chooses_none() -> None:
    assert memory.chosen_micro_batch(STAGE.plan, machine(micro_batch=2)) is None
    assert memory.chosen_micro_batch(STAGE.plan, machine().model_copy(update={"memory": None})) is None
    assert memory.need(STAGE.plan, MachineEntry()) is None
    assert memory.need(STAGE.plan, MachineEntry(device="cpu", micro_batch=2)) is None


@pytest.mark.parametrize("keys", [{"precision": "fp32"}, {"compile": False}, {"exactness": "canonical"}])
def test_of_training_that_the_formula_does_not_count_nothing_is_said(keys: dict[str, Any]) -> None:
    entry = machine(micro_batch=14, **keys)
    assert memory.need(STAGE.plan, entry) is None
    memory.require_room("v1.1/basic", STAGE.plan, "m", entry, Project(ROOT).machines_document, None)


def test_more_devices_to_share_the_model_take_less_of_each() -> None:
    shared = [needed(machine(micro_batch=7, sharding=kind)) for kind in ("none", "hybrid", "full")]
    assert shared == sorted(shared, reverse=True)
    assert needed(machine(micro_batch=7, sharding="auto")) == shared[1]
    eight = memory.need(STAGE.plan, machine(micro_batch=7), processes=8)
    assert eight is not None
    assert eight.kinds["moments"] == 8 * 1_100_048_384 // 8


@pytest.mark.promise("Where a machine states its GPUs' memory, what cannot fit is refused before anything starts")
@pytest.mark.parametrize(
    ("keys", "hint"),
    [
        ({"micro_batch": 14}, "`micro_batch: 7` is the largest that fits; or `activation_checkpointing: selective` "),
        (
            {"micro_batch": 14, "memory": "32GB"},
            "or `activation_checkpointing: selective`, `exchange: every-micro-batch` and `reshard: after-forward` "
            "makes room for 14",
        ),
        ({"micro_batch": 14, "memory": "30GB"}, "or `activation_checkpointing: full` makes room for 14"),
        ({"memory": "11GB"}, "`exchange: every-micro-batch` makes room for a micro-batch of up to "),
        ({"memory": "1GB"}, "no micro-batch fits"),
    ],
)
def test_what_is_too_little_is_refused_with_what_would_fit(keys: dict[str, Any], hint: str, tmp_path: Path) -> None:
    project = with_machine(tmp_path, machine(**keys))
    with pytest.raises(PlanError) as refused:
        memory.require_room(
            "v1.1/basic", STAGE.plan, "tested", project.machine("tested"), project.machines_document, None
        )
    assert refused.value.hint is not None
    assert hint in refused.value.hint


def test_a_stage_that_trained_already_is_not_refused(small_project: Path) -> None:
    (small_project / "machines.yaml").write_text("tiny: {gpus_per_node: 1, memory: 0.1MB}\n")
    project = Project(small_project)
    compiled = compile_curriculum(project, "trunk", "full")
    with pytest.raises(PlanError, match="stage `trunk/basic`: a micro-batch of 1 sequence needs"):
        check_devices(project, compiled, "tiny")
    pretend(small_project, "trunk", part=0.5)
    with pytest.raises(PlanError, match="stage `trunk/cooldown`"):
        check_devices(project, compiled, "tiny")


@pytest.mark.processes
def test_a_training_job_gets_the_micro_batch_that_is_chosen_and_on_a_cpu_none(finished: Path) -> None:
    project = Project(finished)
    texts = PreparedText.open(project, "trunk", "full")
    for name, size in (("gpu", 8), ("local", None)):
        request = RunRequest(project=project, curriculum="trunk", size="full", machine=name)
        job = train_job(request, texts.compiled, texts.compiled.stages[0], texts, None)
        assert job.machine.micro_batch == size


def with_machine(root: Path, entry: MachineEntry) -> Project:
    """The shipped project with the machine `tested`."""
    for folder in ("stages", "mixtures"):
        shutil.copytree(ROOT / folder, root / folder)
    for name in ("sources.yaml", "sizes.yaml"):
        shutil.copy(ROOT / name, root)
    stated = entry.model_dump(exclude_unset=True) | {"memory": f"{entry.memory // 10**6}MB" if entry.memory else None}
    (root / "machines.yaml").write_text("tested: {" + ", ".join(f"{k}: {v}" for k, v in stated.items()) + "}\n")
    return Project(root)


@pytest.mark.parametrize(
    ("host", "copies", "said"),
    [
        (None, None, "saves copy 13.2 GB into the memory of each node; with less than 17.6 GB of it they are written"),
        ("512GB", True, "saves copy 13.2 GB into the 512 GB of each node"),
        ("16GB", False, "saves are written without a copy, and training waits for them: a copy of 13.2 GB takes"),
    ],
)
def test_a_plan_says_whether_training_waits_for_saves(host: str | None, copies: bool | None, said: str) -> None:
    entry = machine(**({"host_memory": host} if host else {}))
    row = {"host_memory": memory.host_summary(STAGE.plan, entry)}
    assert row["host_memory"]["copies"] is copies
    assert said in str(saves_of([row])[0])


def test_a_moving_average_takes_as_much_as_the_weights_and_muon_keeps_one_moment_of_its_matrices() -> None:
    entry = machine(micro_batch=7, sharding="none")
    plain, kept, muon = (
        memory.need(replace(STAGE.plan, optimizer=STAGE.plan.optimizer | more), entry)
        for more in ({}, {"ema": 10**9}, {"name": "muon"})
    )
    assert plain is not None
    assert kept is not None
    assert muon is not None
    assert kept.kinds["average"] == kept.kinds["weights"] == kept.bytes - plain.bytes
    tables = 2 * 32000 * 2048
    vectors = (2 * 22 + 1) * 2048
    assert muon.kinds["moments"] == 4 * 1_100_048_384 + 4 * (tables + vectors)
    averaged = replace(STAGE.plan, optimizer=STAGE.plan.optimizer | {"ema": 10**9})
    assert memory.host_summary(averaged, machine())["staging_bytes"] == 16 * 1_100_048_384
