"""What a stage is trained with on this rank: model, optimizer, data and the state to continue from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from curriculum.artifacts.jobs import TrainJob
from curriculum.data.dataset import Dataset
from curriculum.plan.stage import StagePlan
from curriculum.stream import Stage
from curriculum.stream.held_out import HeldOutSets
from runner.model.transformer import Transformer
from runner.monitor import trackers
from runner.parallel import determinism
from runner.parallel.build import build, micro_batch
from runner.parallel.canonical import groups_of
from runner.parallel.ranks import Ranks
from runner.train.muon import optimizer_of
from runner.train.optimizer import AdamW
from runner.train.state import State, restore


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """One stage on this rank.

    `micro_batch` is in sequences; `groups` are each batch's, None unless sums are canonical.
    """

    stage: Stage
    job: TrainJob
    ranks: Ranks
    model: Transformer
    optimizer: AdamW
    sources: Mapping[str, Dataset]
    held_out: HeldOutSets
    state: State
    micro_batch: int
    groups: Mapping[int, int] | None

    @property
    def plan(self) -> StagePlan:
        return self.stage.plan


def set_up(stage: Stage, ranks: Ranks) -> Setup:
    """Build model and optimizer, open the data and restore the state; refusals as each of these raises them."""
    job, plan = stage.job, stage.plan
    assert isinstance(job, TrainJob)
    trackers.check(job.machine.trackers)
    determinism.apply(job.machine, ranks)
    micro = micro_batch(plan, job.machine.micro_batch, ranks)
    canonical = job.machine.exactness == "canonical"
    groups = {batch: groups_of(batch, micro, ranks) for batch in plan.batches} if canonical else None
    model = build(plan, job.machine, ranks)
    optimizer = optimizer_of(model, plan.optimizer)
    return Setup(
        stage=stage,
        job=job,
        ranks=ranks,
        model=model,
        optimizer=optimizer,
        sources=stage.stream.stages[0].datasets,
        held_out=stage.held_out,
        state=restore(plan, job, model, optimizer, ranks),
        micro_batch=micro,
        groups=groups,
    )
