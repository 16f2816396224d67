"""transformers' Trainer on a plan: one Trainer a stage, since its gradient accumulation cannot change in a run.

    stage = curriculum.open(".").stream("v1.1-math-code").stage("continual")
    arguments = TrainingArguments("out", **planned_arguments(stage, micro_batch=8, world_size=4), ...)
    PlannedTrainer(model, arguments, stream=stage).train(resume_from_checkpoint=FOLDER_OF_THE_STAGE_BEFORE)

The Trainer's `global_step` is the plan's step, so a checkpoint's step is all that resuming needs. `StageTrainer` is the
trainer of a stage that `curriculum run` starts (examples/transformers-trainer).
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import get_last_checkpoint

from curriculum.errors import PlanError
from curriculum.integrations.torch import Integers, PlannedLR, Samples, causal_lm, pair
from curriculum.plan.ranks import share_of_rank
from curriculum.stream import Stage, Stream, witness
from curriculum.stream.stream import StreamStage


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
        super().__init__(model, args, options.pop("data_collator", collate), self.samples, **options)
        for name, value in self._wanted().items():
            if getattr(self.args, name) != value:
                raise PlanError(
                    f"`{name}` is {getattr(self.args, name)!r}, and the plan needs {value!r}",
                    hint="pass `**planned_arguments(stream, micro_batch=..., world_size=...)` to TrainingArguments",
                )

    def _wanted(self) -> dict[str, Any]:
        micro_batch, world_size = self.args.per_device_train_batch_size, self.args.world_size
        return planned_arguments(self.stream, micro_batch=micro_batch, world_size=world_size)

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


def stage_arguments(stage: Stage, *, micro_batch: int) -> dict[str, Any]:
    """The TrainingArguments that a stage decides: those of the plan, its optimizer, and that it saves and records."""
    optimizer = stage.plan.optimizer
    return {
        **planned_arguments(stage.stream, micro_batch=micro_batch, world_size=stage.world_size),
        "output_dir": str(stage.attempt),
        "max_steps": stage.last_step,
        "seed": stage.plan.seed,
        "adam_beta1": optimizer["betas"][0],
        "adam_beta2": optimizer["betas"][1],
        "adam_epsilon": optimizer["eps"],
        "weight_decay": optimizer["weight_decay"],
        "max_grad_norm": optimizer["clip_norm"],
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": [],
    }


class StageTrainer(PlannedTrainer):
    """The trainer of a stage with `layout: hf`: it reports, evaluates, saves and stops as the stage asks.

    `model` is made from its configuration alone: weights are loaded from what the stage resumes from. A checkpoint is
    that of a Trainer without what differs from one launch to the next, so that a resume gives the same bytes.
    """

    def __init__(self, model: Any, args: TrainingArguments, *, stage: Stage, **options: Any) -> None:
        self.stage = stage
        self._resumed: str | None = None
        self._loss, self._witness = torch.zeros(()), torch.zeros((), dtype=torch.int64)
        super().__init__(model, args, stream=stage.stream, data_collator=witnessed, **options)

    def _wanted(self) -> dict[str, Any]:
        return {**super()._wanted(), "max_steps": self.stage.last_step, "save_strategy": "no"}

    def train(self, *_: Any, **options: Any) -> Any:
        """Train from the stage's step to its last or until a stop is asked for; None where there is no step to take."""
        stage = self.stage
        folder = stage.hf_folder
        if folder is not None:
            self._load_from_checkpoint(str(folder))
        if stage.should_evaluate():
            self._measure()
        if stage.step == stage.last_step or stage.should_stop():
            return None
        self.train_dataset = self.samples = Samples(self.stream, stage.step)
        self._resumed = str(folder) if stage.resume.optimizer else None
        return Trainer.train(self, self._resumed, **options)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        optimizer = optimizer or cast(torch.optim.Optimizer, self.optimizer)
        self.lr_scheduler: Any = PlannedLR(optimizer, self.stream, self.stage.step)
        return self.lr_scheduler

    def _init_training_state(self, *args: Any, **options: Any) -> tuple[int, int]:
        super()._init_training_state(*args, **options)
        self.state.global_step = self.stage.step  # weights of another trainer come without a Trainer's state
        return 0, 0

    def training_step(self, model: Any, inputs: dict[str, torch.Tensor], *more: Any) -> torch.Tensor:
        self.stage.heartbeat()
        if self._resumed is not None:  # once more: what iterates over a DataLoader draws from torch's generator first
            self._load_rng_state(self._resumed)
            self._resumed = None
        self._witness = self._witness + inputs.pop("witness").cpu()
        loss = super().training_step(model, inputs, *more)
        self._loss = self._loss.to(loss.device) + loss
        return loss

    def _maybe_log_save_evaluate(self, tr_loss: Any, grad_norm: Any, *more: Any, **options: Any) -> None:
        if self.state.global_step > self.stage.step:  # it is called once more at the end of an epoch
            self._report(None if grad_norm is None else float(grad_norm))
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *more, **options)

    def _report(self, grad_norm: float | None) -> None:
        stage = self.stage
        loss = self.accelerator.reduce(self._loss, "mean").item()
        seen = int(self.accelerator.reduce(self._witness.to(self.args.device), "sum").item())  # it wraps at 2**64
        stage.took(stage.step, loss=loss, grad_norm=grad_norm, witness=seen % 2**64)
        self._loss, self._witness = torch.zeros(()), torch.zeros((), dtype=torch.int64)
        if stage.should_evaluate():
            self._measure()
        self.control.should_save = stage.should_save()
        self.control.should_training_stop |= stage.should_stop()

    def _measure(self) -> None:
        cast(torch.nn.Module, self.model).eval()  # a training step sets it back
        self.stage.evaluate(self._losses, micro_batch=self.args.per_device_eval_batch_size)

    @torch.no_grad()
    def _losses(self, rows: Integers) -> torch.Tensor:
        inputs, targets = (part.to(self.args.device) for part in pair(rows))
        with self.compute_loss_context_manager():
            logits = cast(torch.nn.Module, self.model)(input_ids=inputs).logits.float()
        each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
        return each.sum(dim=1).cpu()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.store_flos()
        with self.stage.checkpoint() as folder:
            self.save_model(str(folder), _internal_call=True)
            self._save_optimizer_and_scheduler(str(folder))
            self._save_scaler(str(folder))
            self._save_rng_state(str(folder))
            if self.stage.first:
                (folder / TRAINING_ARGS_NAME).unlink()  # it holds the paths of this launch
                # what starts again with a launch is left out
                state = dataclasses.replace(self.state, epoch=0.0, num_train_epochs=1, log_history=[])
                state.save_to_json(str(folder / TRAINER_STATE_NAME))


def witnessed(rows: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """What `collate` gives, and the witness of the inputs, as a signed integer."""
    inputs = collate(rows)
    seen = np.uint64(witness(inputs["input_ids"].numpy())).astype(np.int64)
    return {**inputs, "witness": torch.tensor(int(seen))}


def collate(rows: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Items of `Samples` as the keywords of a transformers model."""
    return causal_lm(np.stack([row.numpy() for row in rows]))


def _batch(stream: Stream) -> int:
    grows = [stage.name for stage in stream.stages if len(set(_batches(stage))) > 1]
    if grows:
        raise PlanError(
            f"the batch changes inside stage `{grows[0]}`, and one Trainer has one",
            hint="write a stage for each batch, or train the stage by a loop over `stage.batches()`",
        )
    sizes = {batch for stage in stream.stages for batch in _batches(stage)}
    if len(sizes) > 1:
        raise PlanError(
            f"the stages have batches of {' and '.join(map(str, sorted(sizes)))} sequences, and one Trainer has one",
            hint="one Trainer a stage: `stream.stage(NAME)`",
        )
    return sizes.pop()


def _batches(stage: StreamStage) -> list[int]:
    return [batch for _, batch in stage.batch_parts(stage.first_step, stage.last_step)]
