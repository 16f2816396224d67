"""What launchers make of a job file: the lines of a batch script, and the commands of srun and torchrun."""

from __future__ import annotations

from pathlib import Path

import pytest

from curriculum.config import MachineEntry
from curriculum.errors import PlanError
from curriculum.launchers import process as subprocess_launcher, slurm, srun_rank, torchrun


def test_a_batch_script_asks_for_all_in_lines_that_sbatch_reads_and_ends_in_one_command() -> None:
    machine = MachineEntry.model_validate(
        {
            "launcher": "slurm",
            "slurm": {
                "partition": "gpu",
                "account": "proj",
                "qos": "long",
                "time": "24:00:00",
                "grace": 300,
                "options": ["--constraint=a b", "--exclusive"],
                "setup": ["module load cuda"],
            },
        }
    )
    job = slurm.BatchJob(
        name="curriculum:v1.1/basic",
        command=("/a b/python", "-m", "curriculum.execution.slurm.batch_main", "/runs/0001"),
        log=Path("/my runs/%j.log"),
        nodes=16,
        processes=4,
        gpus_per_node=4,
        threads=8,
        after="7",
    )
    assert slurm.script(job, machine) == (
        "#!/bin/bash\n"
        "#SBATCH --job-name=curriculum:v1.1/basic\n"
        "#SBATCH --nodes=16\n"
        "#SBATCH --ntasks-per-node=4\n"
        "#SBATCH --cpus-per-task=8\n"
        "#SBATCH --gpus-per-node=4\n"
        "#SBATCH --partition=gpu\n"
        "#SBATCH --account=proj\n"
        "#SBATCH --qos=long\n"
        "#SBATCH --time=24:00:00\n"
        '#SBATCH --output="/my runs/%j.log"\n'
        "#SBATCH --open-mode=append\n"
        "#SBATCH --signal=B:USR1@300\n"
        "#SBATCH --dependency=afterok:7\n"
        "#SBATCH --kill-on-invalid-dep=yes\n"
        "#SBATCH --requeue\n"
        '#SBATCH --constraint="a b"\n'
        "#SBATCH --exclusive\n"
        "module load cuda\n"
        "exec '/a b/python' -m curriculum.execution.slurm.batch_main /runs/0001\n"
    )


@pytest.mark.parametrize("value", ['a"b', "a\nexec rm", "a\\b"])
def test_nothing_leaves_the_line_of_a_batch_script_that_it_stands_in(value: str) -> None:
    machine = MachineEntry.model_validate({"launcher": "slurm", "slurm": {"account": value}})
    with pytest.raises(PlanError, match="cannot stand in a batch script"):
        slurm.script(slurm.BatchJob(name="n", command=("true",), log=Path("/l")), machine)


def test_srun_starts_a_process_for_each_rank_and_each_has_what_torchrun_would_give_it() -> None:
    environment = {"SLURM_JOB_ID": "123456"}
    steps = slurm.SrunLauncher(nodes=2, processes=4, threads=3, join_limit=90, environment=environment)
    words = steps.command(Path("/runs/job.json"))
    assert words[:5] == ["srun", "--nodes=2", "--ntasks=8", "--ntasks-per-node=4", "--cpus-per-task=3"]
    assert {"--kill-on-bad-exit=1", "--immediate=90", "--overlap"} <= set(words)
    host, port, processes, job = words[-4:]
    assert (port, processes, job) == (str(10_000 + 123456 % 20_000), "4", "/runs/job.json")
    task = {"SLURM_NTASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1"}
    assert srun_rank.as_torchrun(host, port, processes, task) == {
        "MASTER_ADDR": host,
        "MASTER_PORT": port,
        "WORLD_SIZE": "8",
        "RANK": "5",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "4",
    }


@pytest.mark.parametrize("stated", [None, "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"])
def test_gpu_memory_grows_in_place_unless_the_user_configures_torch_s_allocator(
    stated: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    if stated:
        monkeypatch.setenv(stated, "max_split_size_mb:64")
    made = subprocess_launcher.environment(1)
    expected = {stated: "max_split_size_mb:64"} if stated else {names[0]: "expandable_segments:True"}
    assert {name: made[name] for name in names if name in made} == expected


def test_on_several_nodes_torchrun_meets_at_an_address_and_each_node_says_which_it_is() -> None:
    node = torchrun.TorchrunLauncher(nodes=2, node_rank=1, address="node0:1234", processes=4, threads=1)
    words = node.command(Path("job.json"))
    for word in ("--nnodes=2", "--node-rank=1", "--master-addr=node0", "--master-port=1234", "--nproc-per-node=4"):
        assert word in words
    assert "--standalone" not in words
    assert words[-3:] == ["-m", "runner", "job.json"]
    with pytest.raises(PlanError, match="no node 2 among 2"):
        torchrun.TorchrunLauncher(nodes=2, node_rank=2, address="node0", processes=1, threads=1)


@pytest.mark.parametrize("address", ["", ":1", "a:", "a:b", "a:0", "a:65536", "a:1:2"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(PlanError, match="is not the address"):
        torchrun.host_and_port(address)
