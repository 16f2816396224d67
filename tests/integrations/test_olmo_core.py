"""OLMo-core's Trainer: the whole lineage in one run; a step at once, which its train module cuts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from olmo_core.data.data_loader import DataLoaderBase
from olmo_core.nn.transformer import TransformerConfig
from olmo_core.optim import AdamWConfig
from olmo_core.optim.scheduler import Scheduler
from olmo_core.train import Duration, TrainerConfig, prepare_training_environment, teardown_training_environment
from olmo_core.train.callbacks import Callback, CheckpointerCallback
from olmo_core.train.train_module import TransformerTrainModule
from olmo_core.train.train_module.transformer.config import TransformerDataParallelConfig

from curriculum.stream import Stream
from tests.integrations.witnessed import MICRO, Seen, on_ranks, require_plan


class PlannedLoader(DataLoaderBase):
    """A whole step of this rank at once; its state is the number of steps."""

    def __init__(self, plan: Stream, folder: Path, rank: int, world_size: int) -> None:
        self.plan = plan
        tokens = plan.batch_size(0) * plan.sequence_length
        super().__init__(work_dir=folder, global_batch_size=tokens, dp_rank=rank, dp_world_size=world_size)

    def _iter_batches(self) -> Iterator[dict[str, torch.Tensor]]:
        for batch in self.plan.batches(self.batches_processed, rank=self.dp_rank, world_size=self.dp_world_size):
            yield {"input_ids": torch.from_numpy(batch.inputs), "labels": torch.from_numpy(batch.targets)}

    @property
    def total_batches(self) -> int:
        return self.plan.last_step

    def global_num_tokens_in_batch(self, batch: dict[str, Any]) -> int:
        return batch["labels"].numel() * self.dp_world_size

    def reshuffle(self, epoch: int | None = None, **_: Any) -> None:
        self._epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.batches_processed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.batches_processed = state_dict["steps"]

    def get_mock_batch(self) -> dict[str, Any]:
        raise NotImplementedError  # then there is no dry run


@dataclass
class PlannedRate(Scheduler):
    plan: Any = None

    def get_lr(self, initial_lr: Any, current: int, t_max: int) -> float:
        return self.plan.lr(current - 1)  # its steps are counted from 1


class Interrupted(Exception):
    pass


@dataclass
class Watch(Callback):
    seen: Any = None
    stop: int | None = None

    def pre_step(self, batch: dict[str, Any]) -> None:
        if self.step - 1 == self.stop:
            raise Interrupted

    def post_train_batch(self) -> None:
        self.seen.rates[self.step - 1] = self.trainer.train_module.optim.param_groups[0]["lr"]


def train(plan: Stream, folder: Path, stop: int | None, rank: int = 0, world_size: int = 1) -> Seen:
    """Train from the newest checkpoint in `folder`; one is written every 7 steps, and `stop` interrupts."""
    seen = Seen()
    config = TransformerConfig.llama_like(d_model=16, vocab_size=plan.vocab_size, n_layers=1, n_heads=2)
    module = TransformerTrainModule(
        model=config.build(init_device="cpu"),
        optim=AdamWConfig(),
        rank_microbatch_size=MICRO * plan.sequence_length,
        max_sequence_length=plan.sequence_length,
        scheduler=PlannedRate(plan=plan),
        dp_config=TransformerDataParallelConfig(name="ddp") if world_size > 1 else None,
        device=torch.device("cpu"),
    )
    trainer = TrainerConfig(
        save_folder=str(folder),
        max_duration=Duration.steps(plan.last_step),
        device="cpu",
        callbacks={
            "checkpointer": CheckpointerCallback(save_interval=7, save_async=False),
            "watch": Watch(seen=seen, stop=stop),
        },
    ).build(module, PlannedLoader(plan, folder, rank, world_size))

    def watched(_: Any, arguments: tuple[torch.Tensor, ...]) -> None:
        seen.read(trainer.global_step - 1, arguments[0])

    module.model.register_forward_pre_hook(watched)
    try:
        trainer.fit()
    except Interrupted:
        assert stop
        for step in range(stop // 7 * 7, stop):  # after the newest checkpoint
            del seen.witness[step], seen.rates[step]
    return seen


@pytest.mark.holds("one run over all stages, interrupted and resumed within a stage by its checkpoint")
def test_one_run_reads_all_stages_also_after_an_interruption(variant: Stream, tmp_path: Path) -> None:
    first = train(variant, tmp_path, 30)
    second = train(variant, tmp_path, None)
    assert min(second.witness) == 28
    require_plan(variant, range(variant.last_step), first, second)


def train_as_rank(plan: Stream, folder: Path) -> Seen:
    prepare_training_environment(backend="gloo", shared_filesystem=True)
    seen = train(plan, folder, None, torch.distributed.get_rank(), torch.distributed.get_world_size())
    teardown_training_environment()
    return seen


@pytest.mark.holds("on two ranks")
def test_two_ranks_read_the_plan(variant: Stream, tmp_path: Path) -> None:
    require_plan(variant, range(variant.last_step), *on_ranks(train_as_rank, variant, tmp_path))
