"""Lightning: a `Loader`, whose state it keeps; a sampler that it or Fabric would inject is refused."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from curriculum.errors import PlanError
from curriculum.integrations.torch import Batches, BatchSampler, Loader, PlannedLR, Samples
from curriculum.stream import Stream
from tests.integrations.witnessed import MICRO, Seen, loss, model, on_ranks, require_plan

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


class Manual(lightning.LightningModule):
    """The plan's own number of micro-batches a step, by manual optimisation: any batch, in one run."""

    def __init__(self, plan: Stream, ranks: int = 1) -> None:
        super().__init__()
        self.plan, self.ranks, self.seen, self.network = plan, ranks, Seen(), model(plan)
        self.automatic_optimization = False
        self.micro = 0

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.network.parameters())
        return {"optimizer": optimizer, "lr_scheduler": PlannedLR(optimizer, self.plan)}

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> None:
        optimizer, schedule, step = self.optimizers(), self.lr_schedulers(), self.global_step
        micros = self.plan.batch_size(step) // (MICRO * self.ranks)
        self.seen.read(step, batch[0], optimizer.param_groups[0]["lr"])
        self.manual_backward(loss(self.network(batch[0]), batch[1]) / micros)
        self.micro += 1
        if self.micro == micros:
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            self.micro = 0


class StopAt(Callback):
    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


def fit(plan: Stream, path: Path, stop: int, resume: bool, ranks: int = 1, rank: int = 0) -> Seen:
    """Steps up to `stop` on a rank, from the checkpoint at `path` if `resume`."""
    trainer = lightning.Trainer(
        max_steps=plan.last_step,
        devices=1 if ranks == 1 else ranks,
        strategy="auto" if ranks == 1 else "ddp",
        enable_checkpointing=False,
        callbacks=[StopAt(stop, path)],
        **QUIET,
    )
    module = Manual(plan, ranks)
    loader = Loader(Batches(plan, rank=trainer.global_rank, world_size=ranks, micro_batch=MICRO))
    trainer.fit(module, loader, ckpt_path=path if resume else None, weights_only=False)
    return module.seen


@pytest.mark.holds("manual optimisation: one run over all stages, stopped and resumed within a stage by its checkpoint")
@pytest.mark.parametrize("stop", [5, 29])
def test_one_run_reads_all_stages_also_after_a_stop(variant: Stream, tmp_path: Path, stop: int) -> None:
    first = fit(variant, tmp_path / "at.ckpt", stop, False)
    assert max(first.witness) == stop - 1
    second = fit(variant, tmp_path / "at.ckpt", variant.last_step, True)
    assert min(second.witness) == stop
    require_plan(variant, range(variant.last_step), first, second)


@pytest.mark.holds("on two ranks")
def test_two_ranks_read_the_plan_also_after_a_stop(variant: Stream, tmp_path: Path) -> None:
    parts = on_ranks(fit, variant, tmp_path / "at.ckpt", 29, False, 2)
    parts += on_ranks(fit, variant, tmp_path / "at.ckpt", variant.last_step, True, 2)
    require_plan(variant, range(variant.last_step), *parts)


class Automatic(lightning.LightningModule):
    """Lightning's own accumulation: a Trainer a stage, whose steps are counted from the stage's first."""

    def __init__(self, plan: Stream) -> None:
        super().__init__()
        self.seen, self.network = Seen(), model(plan)
        self.optimizer = torch.optim.AdamW(self.network.parameters())

    def of_stage(self, stage: Stream) -> Automatic:
        self.stage = stage
        return self

    def configure_optimizers(self) -> Any:
        schedule = PlannedLR(self.optimizer, self.stage, start=self.stage.first_step)
        return {"optimizer": self.optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        step = self.stage.first_step + self.global_step
        self.seen.read(step, batch[0], self.optimizer.param_groups[0]["lr"])
        return loss(self.network(batch[0]), batch[1])


def fit_stage(module: Automatic, stage: Stream, *callbacks: Callback, resume: Path | None = None) -> None:
    trainer = lightning.Trainer(
        max_steps=stage.last_step - stage.first_step,
        accumulate_grad_batches=stage.batch_size(stage.first_step) // MICRO,
        devices=1,
        enable_checkpointing=False,
        callbacks=list(callbacks),
        **QUIET,
    )
    loader = Loader(Batches(stage, micro_batch=MICRO))
    trainer.fit(module.of_stage(stage), loader, ckpt_path=resume, weights_only=False)


@pytest.mark.holds("automatic optimisation: a Trainer a stage, stopped and resumed within a stage by its checkpoint")
def test_a_trainer_a_stage_reads_the_plan(variant: Stream, tmp_path: Path) -> None:
    basic, continual, cooldown = (variant.stage(name) for name in ("basic", "continual", "cooldown"))
    first, path = Automatic(variant), tmp_path / "at.ckpt"
    fit_stage(first, basic)
    fit_stage(first, continual, StopAt(5, path))
    second = Automatic(variant)
    fit_stage(second, continual, resume=path)
    fit_stage(second, cooldown)
    assert min(second.seen.witness) == continual.first_step + 5
    require_plan(variant, range(variant.last_step), first.seen, second.seen)


def refused(plan: Stream, of: str) -> str:
    rank = {"rank": 0, "world_size": 2, "micro_batch": MICRO}
    loader = DataLoader(Samples(plan), batch_sampler=BatchSampler(plan, **rank))
    try:
        if of == "fabric":
            fabric = lightning.Fabric(accelerator="cpu", devices=2, strategy="ddp")
            fabric.launch()
            fabric.setup_dataloaders(loader)
        else:
            trainer = lightning.Trainer(max_steps=1, devices=2, strategy="ddp", enable_checkpointing=False, **QUIET)
            trainer.fit(Manual(plan, 2), loader)
    except PlanError as error:
        return str(error)
    return "not refused"


@pytest.mark.holds("a sampler that Lightning or Fabric would inject over a `BatchSampler` is refused")
@pytest.mark.parametrize("of", ["fabric", "trainer"])
def test_an_injected_sampler_is_refused_on_every_rank(variant: Stream, of: str) -> None:
    for said in on_ranks(refused, variant, of):
        assert said.startswith("this already is one rank's part"), said


def by_fabric(plan: Stream) -> Seen:
    fabric, seen = lightning.Fabric(accelerator="cpu", devices=2, strategy="ddp"), Seen()
    fabric.launch()
    sampler = BatchSampler(plan, rank=fabric.global_rank, world_size=2, micro_batch=MICRO)
    loader = iter(
        fabric.setup_dataloaders(DataLoader(Samples(plan), batch_sampler=sampler), use_distributed_sampler=False)
    )
    for batch in plan.batches(rank=fabric.global_rank, world_size=2, micro_batch=MICRO):
        seen.read(batch.step, next(loader)[:, :-1], batch.lr)
    return seen


@pytest.mark.holds("Fabric, with `use_distributed_sampler=False`, on two ranks")
def test_fabric_reads_the_plan(variant: Stream) -> None:
    require_plan(variant, range(variant.last_step), *on_ranks(by_fabric, variant))


def forgotten(plan: Stream) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            fit_without_ranks(plan)
        except PlanError as error:
            return str(error)
    return "not refused"


def fit_without_ranks(plan: Stream) -> None:
    trainer = lightning.Trainer(max_steps=1, devices=2, strategy="ddp", enable_checkpointing=False, **QUIET)
    trainer.fit(Manual(plan, 2), Loader(Batches(plan, micro_batch=MICRO)))


@pytest.mark.holds("ranks that were not told apart are refused")
def test_ranks_that_were_not_distinguished_are_refused(variant: Stream) -> None:
    for said in on_ranks(forgotten, variant):
        assert said.startswith("there are 2 ranks"), said
