"""The training loop of one stage. Read this first.

The loop does not know the words stage, mixture or curriculum: the plan says what a step reads and at which learning
rate, and the clock in tokens when to evaluate and to save. Resuming is starting at another step.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from curriculum.artifacts import evaluations
from curriculum.artifacts.job_process import StopFlag
from curriculum.artifacts.jobs import DONE, STOPPED, TrainJob, due
from curriculum.artifacts.stage_folder import Attempt
from curriculum.errors import RunFailed
from curriculum.stage.watchdog import Watchdog
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
    with Watchdog(Attempt(Path(job.attempt_folder)), ranks.rank, job.machine.hang_limit) as watchdog:
        setup = set_up(job, ranks)
        trainer, state = Trainer(setup, watchdog), setup.state
        before = setup.plan.position_before(setup.plan.step_of(state.position - 1))
        # where a run was stopped nothing is due; where it was killed between an evaluation and its save, something is
        if state.position in (setup.plan.start, setup.end) or due(before, state.position, job.evaluate_every):
            trainer.evaluate()
        if state.step < setup.last_step:
            trainer.saves.check_room()
        with contextlib.closing(setup.batches()) as batches, GarbageCollection() as garbage:
            while state.step < setup.last_step:
                watchdog.arm()
                if (outcome := trainer.save_or_stop(stop)) is not None:
                    return outcome
                before = state.position
                trainer.step(batches)
                garbage.after(state.step)
                at_end = state.position == setup.end
                if at_end or due(before, state.position, job.evaluate_every):
                    trainer.evaluate()
                if at_end or due(before, state.position, job.checkpoint_every) or state.position in job.keep:
                    trainer.save()
        if setup.plan.average:
            trainer.save()
        return trainer.finish()


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

    def __init__(self, setup: Setup, watchdog: Watchdog) -> None:
        self.setup, self.state, self.watchdog = setup, setup.state, watchdog
        self.records = Records(setup)
        self.stopwatch = Stopwatch(setup.ranks.device)
        self.grace = Grace(setup.job, setup.ranks)
        self.saves = Saves(setup, self.grace)
        self.unread: Unread | None = None
        self.profiler = Profiler(setup.job.machine.profile, setup.attempt.path, setup.ranks)

    def step(self, batches: Iterator[Batch]) -> None:
        """One optimizer step of the plan; afterwards the state is the next step's."""
        setup, state, measure = self.setup, self.state, self.stopwatch.measure
        plan, model, ranks, step = setup.plan, setup.model, setup.ranks, state.step
        every = setup.job.machine.layer_norms
        groups = setup.groups[plan.batch_of(step)] if setup.groups is not None else None
        with self.grace.step():
            self.profiler.before(step)
            with measure("data"):
                batch = next(batches)
            with measure("forward_backward"):
                slot_losses = forward_backward(model, batch, setup.micro_batch, plan, groups, self.watchdog.arm)
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
        state.position = plan.position_after(step)
        state.step += 1
        if state.step % replica_check.EVERY == 0:
            replica_check.check(model, setup.optimizer, ranks, state.step)

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
                hint=f"the last good checkpoint is kept; {self.setup.folder.events} names what was read",
            )

    def evaluate(self) -> None:
        """Measure the held-out losses of the weights as they are, of every set without one at this position."""
        self.read()
        setup, ranks = self.setup, self.setup.ranks
        measured = evaluations.read_sets(setup.folder, setup.job.generation, self.state.position)
        names = ranks.agree([name for name in setup.held_out.datasets if name not in measured])
        self.records.evaluated(measured, new=False)
        if names:
            with self.stopwatch.evaluation():
                results = evaluate(
                    setup.model, setup.plan, setup.held_out, names, ranks, setup.micro_batch, self.watchdog.arm
                )
                self.records.evaluated(results, new=True)

    def save(self) -> None:
        """Begin a checkpoint of the state, written while the next steps are computed; none where there is one."""
        if self.state.saved_at == self.state.position:
            return
        self.read()
        self.watchdog.arm_slow()
        self.saves.check_state(self.state)
        with self.stopwatch.measure("checkpoint"):
            self.saves.begin(self.state)

    def wait_for_saves(self) -> None:
        """Until no save is being written on any rank."""
        self.watchdog.arm_slow()
        self.saves.wait()

    def save_or_stop(self, stop: StopFlag) -> dict[str, Any] | None:
        """Save where a stop or a branch requests it; the outcome when the run is to end here."""
        state, ranks = self.state, self.setup.ranks
        self.saves.check()
        pinned = self.saves.pinned(state)
        with self.stopwatch.measure("communication"):
            requested = ranks.any(bool(stop) or pinned)
        if not requested:
            return None
        self.read()
        stopping = ranks.any(bool(stop))
        unsaved = stopping and state.saved_at != state.position
        reason = self.grace.insufficient(stop) if unsaved else None
        if reason is None:
            self.save()
        if not stopping:
            return None
        self.profiler.end()
        self.wait_for_saves()
        return self._outcome(STOPPED) | ({"unsaved": reason} if reason else {})

    def finish(self) -> dict[str, Any]:
        """The outcome, once all is saved."""
        setup = self.setup
        self.profiler.end()
        self.wait_for_saves()
        if setup.end == setup.plan.end:
            self.watchdog.arm_slow()
            setup.ranks.first_does(self.saves.mark_done)
        return self._outcome(DONE)

    def _outcome(self, outcome: str) -> dict[str, Any]:
        return {"outcome": outcome, "position": self.state.position, "step": self.state.step}
