"""The training loop of one stage. Read this first.

It is a loop like any other trainer's: the stage (`curriculum.stream`) gives the batches and says when to evaluate, to
save and to stop. Ours reads a step's figures one step later, and its threads write a checkpoint while it trains.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from curriculum.artifacts.job_process import StopFlag
from curriculum.artifacts.jobs import TrainJob
from curriculum.errors import RunFailed
from curriculum.stream import Stage
from curriculum.stream.batch import Batch
from runner.evaluate.held_out import evaluate
from runner.model.transfer import to_host
from runner.monitor.layer_norms import layer_norms
from runner.monitor.metrics import Lap, Stopwatch
from runner.monitor.profiler import Profiler
from runner.parallel import replica_check
from runner.parallel.ranks import Ranks
from runner.train.garbage import GarbageCollection
from runner.train.grace import Grace
from runner.train.records import Records
from runner.train.saves import Saves
from runner.train.setup import Setup, set_up
from runner.train.step import count, forward_backward, update

NONFINITE_AT_MOST = 8
"""Steps in a row without a finite gradient before the run ends at its last good checkpoint."""


def train(job: TrainJob, ranks: Ranks, stop: StopFlag) -> dict[str, Any]:
    """Train the stage to its end, or to the next step boundary after a stop request; returns the outcome."""
    with Stage(job, stop, agree=ranks.any, rank=ranks.rank, world_size=ranks.size) as stage:
        trainer = Trainer(set_up(stage, ranks), stop)
        if not stage.ended:
            trainer.saves.check_room()
        trainer.at_boundary()
        batches = stage.batches(groups=trainer.setup.groups)
        with contextlib.closing(batches), GarbageCollection() as garbage:
            while not stage.ended:
                trainer.step(batches)
                garbage.after(stage.step)
                trainer.at_boundary()
        trainer.end()
    return stage.outcome


@dataclass(frozen=True, slots=True)
class Unread:
    """A step whose figures the CPU has not waited for.

    Its batch, this rank's slots' losses, the norm, whether it is an outlier, and the layers' norms if measured.
    """

    step: int
    batch: Batch
    slot_losses: Callable[[], torch.Tensor]
    norm: Callable[[], torch.Tensor]
    outlier: Callable[[], torch.Tensor] | None
    layer_norms: Callable[[], dict[str, float]]
    lap: Lap


class Trainer:
    """The actions of the loop on this rank.

    A step's figures are read while the device computes the next step, or before anything is saved or evaluated.
    """

    def __init__(self, setup: Setup, stop: StopFlag) -> None:
        self.setup, self.stage, self.state, self.stop = setup, setup.stage, setup.state, stop
        self.records = Records(setup)
        self.stopwatch = Stopwatch(setup.ranks.device)
        self.grace = Grace(setup.job, setup.ranks)
        self.saves = Saves(setup, self.grace)
        self.unread: Unread | None = None
        self.profiler = Profiler(setup.job.machine.profile, setup.stage.attempt.path, setup.ranks)

    def step(self, batches: Iterator[Batch]) -> None:
        """One optimizer step of the plan; afterwards the stage is at the next one."""
        setup, state, measure, stage = self.setup, self.state, self.stopwatch.measure, self.stage
        plan, model, ranks, step = setup.plan, setup.model, setup.ranks, stage.step
        every = setup.job.machine.layer_norms
        groups = setup.groups[plan.batch_of(step)] if setup.groups is not None else None
        with self.grace.step():
            self.profiler.before(step)
            with measure("data"):
                batch = next(batches)
            with measure("forward_backward"):
                slot_losses = forward_backward(model, batch, setup.micro_batch, plan, groups, stage.heartbeat)
            with measure("optimizer"):
                canonical = groups is not None
                self.saves.wait_for_copy()
                layers = layer_norms(model) if every and step % every == 0 else dict
                norm = update(model, setup.optimizer, plan, step, ranks, canonical=canonical, outliers=state.outliers)
            outlier = to_host(state.outliers.latest) if state.outliers is not None else None
            figures = to_host(slot_losses), to_host(norm), outlier, layers
            self.read()
            self.unread = Unread(step, batch, *figures, self.stopwatch.lap())
            self.profiler.after(step)
        stage.advance(step)
        if stage.step % replica_check.EVERY == 0:
            replica_check.check(model, setup.optimizer, ranks, stage.step)

    def read(self) -> None:
        """Wait for the figures of the last step, if they are unread, count them and record them."""
        if self.unread is None:
            return
        taken, self.unread = self.unread, None
        state, slot_losses, norm = self.state, taken.slot_losses().numpy(), float(taken.norm())
        outlier = taken.outlier is not None and bool(taken.outlier())
        with self.stopwatch.measure("communication"):
            source_loss, windows = count(
                state, taken.batch, slot_losses, math.isfinite(norm), self.setup.ranks, outlier=outlier
            )
        layers = taken.layer_norms()
        self.records.step(
            taken.step, slot_losses, source_loss, windows, norm, taken.lap, outlier=outlier, layer_norms=layers
        )
        if state.nonfinite_in_a_row >= NONFINITE_AT_MOST:
            self.wait_for_saves()
            raise RunFailed(
                f"the gradient was not finite in {state.nonfinite_in_a_row} steps in a row, up to step {taken.step:,}",
                hint=f"the last good checkpoint is kept; {self.stage.folder.events} names what was read",
            )

    def at_boundary(self) -> None:
        """Between two steps: evaluate and save where the stage asks for it."""
        stage = self.stage
        if stage.should_evaluate():
            self.evaluate()
        self.saves.check()
        with self.stopwatch.measure("communication"):
            is_due = stage.should_save()
        if not is_due:
            return
        self.read()
        reason = self.grace.insufficient(self.stop) if stage.stopping and stage.step < stage.last_step else None
        stage.unsaved = reason or stage.unsaved
        if reason is None:
            self.save()

    def evaluate(self) -> None:
        """Measure the held-out losses of the weights as they are, of every set without one at this position."""
        self.read()
        setup, stage = self.setup, self.stage
        measured, names = stage.unmeasured()
        self.records.evaluated(measured, new=False)
        if names:
            with self.stopwatch.evaluation():
                results = evaluate(
                    setup.model, setup.plan, setup.held_out, names, setup.ranks, setup.micro_batch, stage.heartbeat
                )
                stage.record_losses(results)
                self.records.evaluated(results, new=True)

    def save(self) -> None:
        """Begin a checkpoint of the state, written while the next steps are computed."""
        self.stage.heartbeat(slow=True)
        self.saves.check_state(self.state)
        with self.stopwatch.measure("checkpoint"):
            self.saves.begin(self.state)

    def wait_for_saves(self) -> None:
        """Until no save is being written on any rank."""
        self.stage.heartbeat(slow=True)
        self.saves.wait()

    def end(self) -> None:
        """Until all is recorded and saved."""
        self.read()
        self.profiler.end()
        self.wait_for_saves()
