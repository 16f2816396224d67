"""A rank that waits for others who never come says where, and ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path

import commands
import pytest
import torch.distributed as dist
from projects import BuiltOnce

from curriculum.artifacts import jobs
from curriculum.artifacts.stage_folder import Attempt
from curriculum.stream import flight_recorder

pytestmark = pytest.mark.processes


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def as_rank(rank: int, port: int) -> dict[str, str]:
    """The environment of one of two ranks."""
    ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    return {**os.environ, **ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}


def two_ranks(attempt: Attempt, *, limit: int) -> list[commands.Started]:
    """Two ranks that hang: rank 0 waits for rank 1, which does not come."""
    script, port = Path(__file__).parents[2] / "support" / "hung_rank.py", free_port()
    words = (str(script), str(attempt.path), str(limit))
    return [
        commands.start_python(*words, folder=attempt.path, environment=as_rank(rank, port), out=1, err=2)
        for rank in range(2)
    ]


@pytest.mark.promise("A rank that waits longer than the limit, also before the first step, writes its stacks and exits")
def test_a_rank_that_waits_in_vain_for_the_others_before_the_first_step_writes_its_stacks_and_ends(
    tmp_path: Path,
) -> None:
    attempt = tmp_path / "attempts/0001"
    attempt.mkdir(parents=True)
    job = jobs.TrainJob(
        plan="none",
        stage_folder=str(tmp_path),
        attempt_folder=str(attempt),
        data={},
        held_out={},
        parent_checkpoint=None,
        generation=0,
        checkpoint_every=1,
        evaluate_every=1,
        machine=jobs.Machine(device="cpu", threads=1, hang_limit=0.4),
    )
    jobs.save(job, attempt / "job.json")
    rank = as_rank(1, free_port())
    done = commands.python("-m", "runner", str(attempt / "job.json"), folder=tmp_path, environment=rank)
    assert done.returncode != 0
    said = Attempt(attempt).stacks(1).read_text()
    assert "Timeout" in said, done.stderr
    assert "in _train" in said
    assert "in main" in said


@pytest.fixture(scope="module")
def hung(built_once: BuiltOnce) -> Attempt:
    """The attempt of two ranks that ended at their limit: rank 0 waited for rank 1, which did not come."""
    return Attempt(built_once("hung-ranks", hang))


def hang(folder: Path) -> None:
    folder.mkdir()
    attempt = Attempt(folder)
    ranks = two_ranks(attempt, limit=4)
    try:
        assert [rank.wait(60) for rank in ranks] == [1, 1]
    finally:
        for rank in ranks:
            rank.kill()


@pytest.mark.promise("A rank that hangs leaves its last collectives beside its stacks")
def test_a_rank_that_hangs_leaves_its_last_collectives_beside_its_stacks(hung: Attempt) -> None:
    shapes = []
    for rank in range(2):
        assert "Timeout" in hung.stacks(rank).read_text()
        entries = json.loads(hung.gloo_operations(rank).read_text())["entries"]
        shapes.append([entry["input_sizes"] for entry in entries if "all_reduce" in entry["profiling_name"]])
    assert shapes == [[[[3]], [[7]]], [[[3]]]]
    assert hung.nccl_operations(0).exists() == dist.is_nccl_available()


def test_a_request_for_stacks_writes_the_collectives_too_and_ends_nothing(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path)
    ranks = two_ranks(attempt, limit=60)
    try:
        until = time.monotonic() + 60
        while not all(attempt.stacks(rank).exists() for rank in range(2)) and time.monotonic() < until:
            time.sleep(0.1)
        time.sleep(0.5)
        ranks[0].send_signal(signal.SIGUSR2)
        while not attempt.gloo_operations(0).exists() and time.monotonic() < until:
            time.sleep(0.1)
        assert attempt.gloo_operations(0).exists()
        assert attempt.stacks(0).read_text()
        assert [rank.poll() for rank in ranks] == [None, None]
    finally:
        for rank in ranks:
            rank.kill()


def test_each_stage_of_a_process_has_its_last_collectives_written_to_its_own_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCH_FR_DUMP_TEMP_FILE", raising=False)
    for name in ("first", "second"):
        attempt = Attempt(tmp_path / name)
        flight_recorder.configure(attempt)
        assert os.environ["TORCH_FR_DUMP_TEMP_FILE"] + "0" == str(attempt.nccl_operations(0))
