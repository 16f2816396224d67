"""What a stage is trained with on this rank: plan, model, optimizer, data and the state to continue from."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

from curriculum.artifacts.jobs import TrainJob
from curriculum.artifacts.stage_folder import Attempt, StageFolder
from curriculum.data.dataset import Dataset
from curriculum.plan.stage import StagePlan
from curriculum.stage.held_out import HeldOutSets
from curriculum.stream import reader
from curriculum.stream.batch import Batch
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
    """One stage on this rank. `micro_batch` is in sequences; `groups` are each batch's, None unless sums are canonical.

    `end` is the position (tokens) that this job trains to, and `last_step` the step that begins there.
    """

    job: TrainJob
    ranks: Ranks
    plan: StagePlan
    model: Transformer
    optimizer: AdamW
    sources: Mapping[str, Dataset]
    held_out: HeldOutSets
    state: State
    micro_batch: int
    groups: Mapping[int, int] | None
    end: int
    last_step: int

    @property
    def folder(self) -> StageFolder:
        return StageFolder(Path(self.job.stage_folder))

    @property
    def attempt(self) -> Attempt:
        return Attempt(Path(self.job.attempt_folder))

    def batches(self) -> Generator[Batch, None, None]:
        """This rank's batches from the state's step to the end."""
        return reader.batches(
            self.plan,
            self.sources,
            first_step=self.state.step,
            last_step=self.last_step,
            rank=self.ranks.rank,
            ranks=self.ranks.size,
            groups=self.groups,
        )


def set_up(job: TrainJob, ranks: Ranks) -> Setup:
    """Build model and optimizer, open the data and restore the state; refusals as each of these raises them."""
    plan = StagePlan.load(Path(job.plan))
    end = plan.end if job.stop_at is None else job.stop_at
    trackers.check(job.machine.trackers)
    determinism.apply(job.machine, ranks)
    micro = micro_batch(plan, job.machine.micro_batch, ranks)
    canonical = job.machine.exactness == "canonical"
    groups = {batch: groups_of(batch, micro, ranks) for batch in plan.batches} if canonical else None
    model = build(plan, job.machine, ranks)
    optimizer = optimizer_of(model, plan.optimizer)
    return Setup(
        job=job,
        ranks=ranks,
        plan=plan,
        model=model,
        optimizer=optimizer,
        sources=reader.open_sources(plan, job.data),
        held_out=HeldOutSets(plan, job.held_out),
        state=restore(plan, job, model, optimizer, ranks),
        micro_batch=micro,
        groups=groups,
        end=end,
        last_step=plan.step_at(end),
    )
