"""torchtitan's Trainer with its Llama 3, told that its device is the CPU: a run a stage."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch.distributed.fsdp import FSDPModule

with mock.patch("torch._utils._get_available_device_type", return_value="cpu"):  # without a GPU it assumes "cuda"
    from torchtitan.components import metrics
    from torchtitan.components.checkpointer import CheckpointManager
    from torchtitan.components.dataloader import BaseDataLoader
    from torchtitan.components.loss import CrossEntropyLoss
    from torchtitan.components.optimizer import LRSchedulersContainer, default_adamw
    from torchtitan.components.tokenizer import BaseTokenizer
    from torchtitan.config import ParallelismConfig, TrainingConfig
    from torchtitan.distributed import utils as distributed
    from torchtitan.models.common.attention import ScaledDotProductAttention
    from torchtitan.models.llama3 import model_registry
    from torchtitan.trainer import Trainer

import curriculum
from curriculum.integrations.torch import Batches, Loader, pair
from curriculum.stream import Stream
from tests.integrations.witnessed import MICRO, Seen, on_ranks, require_plan


def titan(rows: Any) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    inputs, targets = pair(rows)
    return {"input": inputs, "positions": torch.arange(inputs.shape[1]).expand_as(inputs)}, targets


class PlannedLoader(BaseDataLoader):
    @dataclass(kw_only=True, slots=True)
    class Config(BaseDataLoader.Config):
        project: str = ""
        stage: str = ""

    def __init__(self, config: Config, *, dp_world_size: int, dp_rank: int, local_batch_size: int, **_: Any) -> None:
        stage = curriculum.open(config.project).stream("variant").stage(config.stage)
        self.items = Loader(
            Batches(stage, rank=dp_rank, world_size=dp_world_size, micro_batch=local_batch_size, shape=titan)
        )

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)

    def state_dict(self) -> dict[str, Any]:
        return self.items.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.items.load_state_dict(state_dict)


class PlannedRates(LRSchedulersContainer):
    """Of all stages: the rate in a checkpoint is that of the next step, also where the next stage takes it."""

    @dataclass(kw_only=True, slots=True)
    class Config(LRSchedulersContainer.Config):
        project: str = ""

        def build(self, *, optimizers: Any, training_steps: int) -> PlannedRates:
            plan = curriculum.open(self.project).stream("variant")
            return PlannedRates(optimizers, lambda step: plan.lr(min(step, plan.last_step - 1)))  # times a rate of 1


class NoTokenizer(BaseTokenizer):
    @dataclass(kw_only=True, slots=True)
    class Config(BaseTokenizer.Config):
        pass

    def __init__(self, config: Config, **_: Any) -> None:
        super().__init__()

    encode = decode = get_vocab_size = None  # type: ignore[assignment]


class NoMemoryMonitor:
    """Instead of torchtitan's own, which only GPUs have."""

    device_name = "cpu"

    def get_peak_stats(self) -> metrics.DeviceMemStats:
        return metrics.DeviceMemStats(0, 0, 0, 0, 0, 0)

    def reset_peak_stats(self) -> None:
        pass


class Interrupted(Exception):
    pass


def train(project: str, name: str, folder: Path, stop: int | None = None) -> Seen:
    """Train a stage from the newest checkpoint in `folder`; one is written every 2 steps, and `stop` interrupts."""
    metrics.build_device_memory_monitor = NoMemoryMonitor
    distributed.set_pg_timeouts = lambda **_: None  # its barrier is over GPUs
    stage = curriculum.open(project).stream("variant").stage(name)
    seen = Seen()
    spec = model_registry("debugmodel")
    for layer in spec.model.layers:
        layer.attention.inner_attention = ScaledDotProductAttention.Config()  # the others have no backward pass here
    config = Trainer.Config(
        model_spec=spec,
        loss=CrossEntropyLoss.Config(),
        dump_folder=str(folder),
        tokenizer=NoTokenizer.Config(),
        dataloader=PlannedLoader.Config(project=project, stage=name),
        optimizer=default_adamw(lr=1.0),
        lr_scheduler=PlannedRates.Config(project=project),
        training=TrainingConfig(
            local_batch_size=MICRO,
            global_batch_size=stage.batch_size(stage.first_step),
            seq_len=stage.sequence_length,
            steps=stage.last_step,
            disable_cuda_graphs=True,
            mixed_precision_param="float32",
        ),
        parallelism=ParallelismConfig(spmd_backend="partial_dtensor"),
        checkpoint=CheckpointManager.Config(enable=True, interval=2, last_save_model_only=False),
    )
    trainer = Trainer(config)
    for module in trainer.model_parts[0].modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)  # gloo has no other
    forward = trainer.post_dataloading_process

    def watched(inputs: dict[str, torch.Tensor], labels: torch.Tensor) -> Any:
        if trainer.step - 1 == stop:
            raise Interrupted
        rate = trainer.optimizers.optimizers[0].param_groups[0]["lr"]
        seen.read(trainer.step - 1, inputs["input"], float(rate))
        return forward(inputs, labels)

    trainer.post_dataloading_process = watched
    try:
        trainer.train()
    except Interrupted:
        assert stop
        for step in range(stop // 2 * 2, stop):  # after the newest checkpoint
            del seen.witness[step], seen.rates[step]
    finally:
        trainer.close()
        torch.distributed.destroy_process_group()
    return seen


@pytest.mark.holds(
    "a run a stage on two ranks (FSDP), from the checkpoint of the stage before; interrupted and resumed within a stage"
)
def test_a_run_a_stage_reads_the_plan(variant: Stream, tmp_path: Path) -> None:
    project = os.environ["INTEGRATIONS_PROJECT"]
    stop = variant.stages[1].first_step + 5
    parts = []
    for name, until in (("basic", None), ("continual", stop), ("continual", None), ("cooldown", None)):
        parts += on_ranks(train, project, name, tmp_path, until)
    require_plan(variant, range(variant.last_step), *parts)
