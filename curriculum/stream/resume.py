"""What a launch of a stage resumes from: decided once by the launcher, checked by the trainer before it loads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from curriculum import fs
from curriculum.artifacts import checkpoints, evaluations, ledger
from curriculum.artifacts.jobs import Resume, TrainJob
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.errors import PlanError
from curriculum.plan.stage import StagePlan

LOCK_SECONDS = 15.0
"""A process that was just killed may take a moment to release the stage's lock; one that is stopped saves first."""


def stage_lock(folder: StageFolder) -> fs.Lock:
    """The lock that rank 0 holds while it trains."""
    return fs.Lock(folder.lock, f"the stage folder {folder}")


def with_resume(job: TrainJob) -> TrainJob:
    """The job with its steps and with what it resumes from: the stage's newest checkpoint, else its parent's.

    No rank looks for a checkpoint itself: two of them could see different ones.
    """
    plan, folder = StagePlan.load(Path(job.plan)), StageFolder(Path(job.stage_folder))
    own = checkpoints.latest(folder)
    if own is not None:
        resume = Resume(origin="own", folder=str(own.path), step=plan.step_at(own.position), optimizer=True)
    elif job.parent_checkpoint is not None:
        optimizer = not plan.reset_optimizer
        resume = Resume(origin="parent", folder=job.parent_checkpoint, step=plan.first_step, optimizer=optimizer)
    else:
        resume = Resume(origin="nothing", folder=None, step=plan.first_step, optimizer=False)
    end = plan.end if job.stop_at is None else job.stop_at
    return replace(job, first_step=plan.first_step, last_step=plan.step_at(end), resume=resume)


def cut_back(folder: StageFolder, generation: int, position: int) -> None:
    """Remove what a stage recorded past `position`, which is read again, and what a killed save left."""
    checkpoints.sweep(folder)
    for path in (folder.ledger, folder.metrics, folder.events):
        ledger.cut_back(path, position)
    evaluations.cut_back(folder, generation, position)


def check_history(resume: Resume, plan: StagePlan, state: Mapping[str, Any]) -> None:
    """PlanError when the checkpoint with this `state` has another history than the plan's."""
    assert resume.folder is not None
    name = Path(resume.folder).name
    if resume.origin == "own" and state["history"] != plan.history(int(state["position"])):
        raise PlanError(
            f"checkpoint `{name}` was trained by another plan than this stage's",
            hint="`curriculum run` shows what changed; put it back, or branch under a new name",
        )
    if resume.origin == "parent":
        assert plan.parent is not None
        if state["history"] != plan.parent.fingerprint:
            raise PlanError(
                f"checkpoint `{name}` is not the history that this stage was planned to continue from",
                hint="`curriculum plan` compiles the lineage again; branch under a new name if the trunk was changed",
            )


def verified_state(resume: Resume, plan: StagePlan) -> dict[str, Any] | None:
    """The state of what a launch resumes from, every byte of it read; None for nothing. Errors name what is wrong."""
    if resume.folder is None:
        return None
    folder = Path(resume.folder)
    checkpoints.verify(folder)
    state = checkpoints.state(folder)
    check_history(resume, plan, state)
    return state
