"""accelerate: model and optimizer are prepared, the batches are not; what `prepare` would reorder is refused."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from torch.utils.data import DataLoader

from curriculum.errors import PlanError
from curriculum.integrations.torch import Batches, BatchSampler, Loader, PlannedLR, Samples
from curriculum.stream import Stream
from tests.integrations.witnessed import MICRO, Seen, loss, model, on_ranks, require_plan


def train(plan: Stream, folder: Path, stop: int, resume: bool) -> Seen:
    """Steps up to `stop` with the state of accelerate, from the last one if `resume`."""
    accelerator = Accelerator(cpu=True)
    network = model(plan)
    network, optimizer = accelerator.prepare(network, torch.optim.AdamW(network.parameters()))
    schedule = PlannedLR(optimizer.optimizer, plan)
    accelerator.register_for_checkpointing(schedule)
    if resume:
        accelerator.load_state(str(folder))
    seen = Seen()
    for batch in plan.batches(
        schedule.last_epoch,
        stop,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        micro_batch=MICRO,
    ):
        inputs, targets = torch.from_numpy(batch.inputs), torch.from_numpy(batch.targets)
        seen.read(batch.step, inputs, optimizer.param_groups[0]["lr"])
        with contextlib.nullcontext() if batch.last else accelerator.no_sync(network):
            accelerator.backward(loss(network(inputs), targets) / batch.micros)
        if batch.last:
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    accelerator.save_state(str(folder))
    return seen


@pytest.mark.holds("one run over all stages on two ranks, stopped and resumed within a stage")
def test_two_ranks_read_the_plan_also_after_a_stop(variant: Stream, tmp_path: Path) -> None:
    stop = variant.stages[1].first_step + 5
    parts = on_ranks(train, variant, tmp_path, stop, False)
    parts += on_ranks(train, variant, tmp_path, variant.last_step, True)
    require_plan(variant, range(variant.last_step), *parts)


@pytest.mark.holds("`Samples` without a sampler of ours may be prepared: its ranks read the plan's steps")
def test_samples_dealt_by_accelerate_are_those_of_the_step(variant: Stream) -> None:
    require_plan(variant, range(variant.last_step), *on_ranks(read_prepared_samples, variant))


def read_prepared_samples(plan: Stream) -> Seen:
    accelerator, seen = Accelerator(cpu=True), Seen()
    loader = iter(accelerator.prepare(DataLoader(Samples(plan), batch_size=MICRO)))
    for batch in plan.batches(rank=accelerator.process_index, world_size=2, micro_batch=MICRO):
        seen.read(batch.step, next(loader)[:, :-1], batch.lr)
    assert next(loader, None) is None
    return seen


MADE = {
    "Loader": lambda plan, ranks: Loader(Batches(plan, micro_batch=MICRO, **ranks)),
    "Batches": lambda plan, ranks: DataLoader(Batches(plan, micro_batch=MICRO, **ranks), batch_size=None),
    "BatchSampler": lambda plan, ranks: DataLoader(
        Samples(plan), batch_sampler=BatchSampler(plan, micro_batch=MICRO, **ranks)
    ),
}


def prepared(plan: Stream, name: str, dispatch: bool | None) -> str:
    """The refusal, or what was read."""
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(dispatch_batches=dispatch))
    ranks = {"rank": accelerator.process_index, "world_size": accelerator.num_processes}
    try:
        return f"read {len(list(accelerator.prepare(MADE[name](plan, ranks))))}"
    except PlanError as error:
        return str(error)


@pytest.mark.holds("on several ranks `prepare` of a `Loader`, `Batches` or `BatchSampler` is refused")
@pytest.mark.parametrize(
    ("name", "dispatch"),
    [("Loader", None), ("Loader", False), ("Batches", None), ("Batches", False), ("BatchSampler", None)],
)
def test_preparing_a_rank_s_part_is_refused_on_every_rank(variant: Stream, name: str, dispatch: bool | None) -> None:
    for said in on_ranks(prepared, variant, name, dispatch):
        assert said.startswith("this already is one rank's part"), said


@pytest.mark.holds("on one rank what `prepare` returns reads the plan")
@pytest.mark.parametrize("name", list(MADE))
def test_one_process_may_prepare_any_loader(variant: Stream, name: str) -> None:
    seen = Seen()
    loader: Any = Accelerator(cpu=True).prepare(MADE[name](variant, {}))
    for batch, item in zip(variant.batches(micro_batch=MICRO), loader, strict=True):
        seen.read(batch.step, item[:, :-1] if name == "BatchSampler" else item[0], batch.lr)
    require_plan(variant, range(variant.last_step), seen)
