"""What a training job says when a GPU runs out of memory: a restart would run out of it again."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from curriculum.artifacts.jobs import TrainJob
from curriculum.errors import RunFailed
from curriculum.plan import memory
from curriculum.plan.model import ModelConfig
from curriculum.plan.stage import StagePlan
from curriculum.units import show_bytes


def refusal(job: TrainJob, error: BaseException) -> RunFailed | None:
    """The error with what the plan needs of each GPU and what this one has; None when `error` is another one."""
    if not isinstance(error, torch.OutOfMemoryError):
        return None
    what, machine = "a GPU ran out of memory", job.machine
    if torch.cuda.is_available():
        what += f": it has {show_bytes(torch.cuda.mem_get_info()[1])}"
    counted = memory.formula_holds(precision=machine.precision, compile=machine.compile, exactness=machine.exactness)
    if machine.micro_batch is not None and counted:
        plan = StagePlan.load(Path(job.plan))
        step = memory.step_of(
            plan,
            micro_batch=machine.micro_batch,
            ranks=int(os.environ.get("WORLD_SIZE", "1")),
            local_ranks=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
            sharding=machine.sharding,
            checkpointing=machine.activation_checkpointing,
            reshard=machine.reshard,
            exchange=machine.exchange,
        )
        peak = memory.peak(ModelConfig.from_json(plan.model), step, plan.optimizer)
        what += f"; by the plan {memory.sentence(step.micro_batch, peak)}"
    return RunFailed(
        what,
        hint="state the GPU's `memory` in machines.yaml, and `plan` names what fits: a smaller `micro_batch`, "
        "`activation_checkpointing: selective`; what else uses the GPU takes of it too",
    )
