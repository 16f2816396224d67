"""A rank that waits for others who never come says where, and ends."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from curriculum.artifacts import jobs
from curriculum.artifacts.stage_folder import Attempt

pytestmark = [
    pytest.mark.processes,
    pytest.mark.promise(
        "A rank that waits longer than the limit, also before the first step, writes its stacks and exits"
    ),
]


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
        machine=jobs.Machine(device="cpu", threads=1, hang_limit=2.0),
    )
    jobs.save(job, attempt / "job.json")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    done = subprocess.run(
        [sys.executable, "-m", "runner", str(attempt / "job.json")],
        env={**os.environ, **ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
        timeout=120,
        capture_output=True,
        check=False,
    )
    assert done.returncode != 0
    said = Attempt(attempt).stacks(1).read_text()
    assert "Timeout" in said, done.stderr
    assert "in _train" in said
    assert "in main" in said
