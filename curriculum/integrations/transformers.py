"""transformers' Trainer on a plan: one Trainer a stage, since its gradient accumulation cannot change in a run.

    stage = curriculum.open(".").stream("v1.1-math-code").stage("continual")
    arguments = TrainingArguments("out", **planned_arguments(stage, micro_batch=8, world_size=4), ...)
    PlannedTrainer(model, arguments, stream=stage).train(resume_from_checkpoint=FOLDER_OF_THE_STAGE_BEFORE)

The Trainer's `global_step` is the plan's step, so a checkpoint's step is all that resuming needs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from curriculum.errors import PlanError
from curriculum.integrations.torch import PlannedLR, Samples, causal_lm
from curriculum.plan.ranks import share_of_rank
from curriculum.stream import Stream


def planned_arguments(stream: Stream, *, micro_batch: int, world_size: int = 1) -> dict[str, Any]:
    """The TrainingArguments that the plan decides: steps, batch, accumulation, and that no column or row is dropped."""
    share = share_of_rank(_batch(stream), world_size, micro_batch)
    return {
        "max_steps": stream.last_step,
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": share // micro_batch,
        "remove_unused_columns": False,
        "ignore_data_skip": True,
    }


class PlannedTrainer(Trainer):
    """A Trainer that reads one stage of a stream, at its learning rates; PlanError where its arguments differ."""

    def __init__(self, model: Any, args: TrainingArguments, *, stream: Stream, **options: Any) -> None:
        self.stream, self.samples = stream, Samples(stream)
        super().__init__(model, args, collate, self.samples, **options)
        wanted = planned_arguments(
            stream, micro_batch=self.args.per_device_train_batch_size, world_size=self.args.world_size
        )
        for name, value in wanted.items():
            if getattr(self.args, name) != value:
                raise PlanError(
                    f"`{name}` is {getattr(self.args, name)!r}, and the plan needs {value!r}",
                    hint="pass `**planned_arguments(stream, micro_batch=..., world_size=...)` to TrainingArguments",
                )

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **options: Any) -> Any:
        """Train from the step of the checkpoint on; PlanError where that is no step of the stage."""
        folder = resume_from_checkpoint
        if folder is True:
            folder = get_last_checkpoint(self.args.output_dir)  # type: ignore[no-untyped-call]
        step = json.loads(Path(folder, "trainer_state.json").read_text())["global_step"] if folder else 0
        if not self.stream.first_step <= step <= self.stream.last_step:
            raise PlanError(
                f"training would start at step {step:,}, and the stage has the steps {self.stream.first_step:,} to "
                f"{self.stream.last_step - 1:,}",
                hint="resume from a checkpoint of the stage, or from the last one of the stage before it",
            )
        self.train_dataset = self.samples = Samples(self.stream, step)
        return super().train(resume_from_checkpoint, *args, **options)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        self.lr_scheduler: Any = PlannedLR(optimizer or cast(torch.optim.Optimizer, self.optimizer), self.stream)
        return self.lr_scheduler

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.samples)


def collate(rows: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Items of `Samples` as the keywords of a transformers model."""
    return causal_lm(np.stack([row.numpy() for row in rows]))


def _batch(stream: Stream) -> int:
    sizes = {stage.batch_size for stage in stream.stages}
    if len(sizes) > 1:
        raise PlanError(
            f"the stages have batches of {' and '.join(map(str, sorted(sizes)))} sequences, and one Trainer has one",
            hint="one Trainer a stage: `stream.stage(NAME)`",
        )
    return sizes.pop()
