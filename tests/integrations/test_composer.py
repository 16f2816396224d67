"""Composer: whole steps as its batches, which it cuts into micro-batches itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from composer import Callback, ComposerModel, DataSpec, State, Trainer
from torch.utils.data import DataLoader

from curriculum.integrations.torch import Batches, PlannedLR, tokens
from curriculum.stream import Stream
from tests.integrations.witnessed import MICRO, Seen, loss, model, on_ranks, require_plan


class Planned(ComposerModel):
    def __init__(self, plan: Stream) -> None:
        super().__init__()
        self.seen, self.network = Seen(), model(plan)
        self.step, self.lr = 0, 0.0

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.seen.read(self.step, batch[:, :-1], self.lr)
        return self.network(batch[:, :-1])

    def loss(self, outputs: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
        return loss(outputs, batch[:, 1:])


class Interrupted(Exception):
    pass


class Watch(Callback):
    def __init__(self, watched: Planned, stop: int | None) -> None:
        self.watched, self.stop = watched, stop

    def batch_start(self, state: State, logger: Any) -> None:
        self.watched.step = state.timestamp.batch.value
        self.watched.lr = state.optimizers[0].param_groups[0]["lr"]
        if self.watched.step == self.stop:
            raise Interrupted


def cut(batch: torch.Tensor, size: int) -> list[torch.Tensor]:
    return list(batch.split(size))


def train(plan: Stream, folder: Path, stop: int | None, rank: int = 0, world_size: int = 1) -> Seen:
    """Train from the newest checkpoint in `folder`; one is written every 7 steps, and `stop` interrupts."""
    planned = Planned(plan)
    optimizer = torch.optim.AdamW(planned.parameters())
    batches = Batches(plan, rank=rank, world_size=world_size, shape=tokens)
    trainer = Trainer(
        model=planned,
        train_dataloader=DataSpec(DataLoader(batches, batch_size=None), split_batch=cut, get_num_samples_in_batch=len),
        max_duration=f"{plan.last_step}ba",
        optimizers=optimizer,
        schedulers=PlannedLR(optimizer, plan),
        step_schedulers_every_batch=True,
        device_train_microbatch_size=MICRO,
        device="cpu",
        progress_bar=False,
        callbacks=Watch(planned, stop),
        run_name="planned",
        save_folder=str(folder),
        save_interval="7ba",
        autoresume=True,
        save_overwrite=False,
    )
    try:
        trainer.fit()
    except Interrupted:
        assert stop
        for step in range(stop // 7 * 7, stop):  # after the newest checkpoint
            del planned.seen.witness[step], planned.seen.rates[step]
    trainer.close()
    return planned.seen


@pytest.mark.holds("one run over all stages, interrupted and resumed within a stage by its checkpoint")
def test_one_run_reads_all_stages_also_after_an_interruption(variant: Stream, tmp_path: Path) -> None:
    first = train(variant, tmp_path, 30)
    second = train(variant, tmp_path, None)
    assert min(second.witness) == 28
    require_plan(variant, range(variant.last_step), first, second)


def train_as_rank(plan: Stream, folder: Path, stop: int | None) -> Seen:
    from composer.utils import dist

    dist.initialize_dist("cpu")
    return train(plan, folder, stop, dist.get_global_rank(), dist.get_world_size())


@pytest.mark.holds("on two ranks")
def test_two_ranks_read_the_plan(variant: Stream, tmp_path: Path) -> None:
    require_plan(variant, range(variant.last_step), *on_ranks(train_as_rank, variant, tmp_path, None))
