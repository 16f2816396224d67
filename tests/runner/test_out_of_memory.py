"""A training job that runs out of a GPU's memory is refused with the plan's numbers, not restarted."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import commands
import pytest
import torch

from curriculum.artifacts import jobs
from curriculum.artifacts.stage_folder import Attempt
from curriculum.compiler.compile import compile_curriculum
from curriculum.config.project import Project
from runner.out_of_memory import refusal

FAILING = """\
import sys, torch
import runner.__main__ as process
from curriculum.artifacts import jobs

def fail(job):
    raise {error}

process.JOBS[jobs.TrainJob] = fail
sys.exit(process.main())
"""


def train_job(folder: Path, micro_batch: int | None) -> jobs.TrainJob:
    """A job of the paper's first stage."""
    attempt = folder / "attempts" / "0001"
    attempt.mkdir(parents=True)
    stage = compile_curriculum(Project(Path(__file__).resolve().parents[2]), "v1.1", "full").stages[0]
    stage.plan.save(folder / "plan.json")
    return jobs.TrainJob(
        plan=str(folder / "plan.json"),
        stage_folder=str(folder),
        attempt_folder=str(attempt),
        data={},
        held_out={},
        parent_checkpoint=None,
        generation=0,
        checkpoint_every=0,
        evaluate_every=0,
        machine=jobs.Machine(micro_batch=micro_batch),
    )


def test_what_the_plan_needs_is_said_where_the_formula_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "64")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    job = train_job(tmp_path, 7)
    refused = refusal(job, torch.OutOfMemoryError("CUDA out of memory"))
    assert refused is not None
    assert "by the plan a micro-batch of 7 sequences needs 31.3 GB of each GPU (weights 1.1 GB, " in refused.what
    for machine in (replace(job.machine, compile=False), replace(job.machine, micro_batch=None)):
        unknown = refusal(replace(job, machine=machine), torch.OutOfMemoryError())
        assert unknown is not None
        assert unknown.what == "a GPU ran out of memory"
    assert refusal(job, RuntimeError("out of memory")) is None


@pytest.mark.processes
@pytest.mark.promise("A run that is out of GPU memory ends with what it needs, and is not restarted")
def test_a_rank_out_of_memory_refuses_the_job_and_a_peer_that_fails_for_it_does_not_hide_that(tmp_path: Path) -> None:
    job = train_job(tmp_path, 7)
    attempt = Attempt(Path(job.attempt_folder))
    jobs.save(job, attempt.job)
    for rank, error in (("1", "torch.OutOfMemoryError('CUDA out of memory')"), ("0", "RuntimeError('a peer is gone')")):
        code, environment = FAILING.format(error=error), {**os.environ, "RANK": rank}
        done = commands.python("-c", code, str(attempt.job), folder=tmp_path, environment=environment)
        assert done.returncode == 1, done.stderr
        outcome = attempt.read_outcome()
        assert outcome is not None
        assert outcome["outcome"] == jobs.REFUSED
        assert "needs " in outcome["message"]
        assert "`micro_batch`" in outcome["hint"]
