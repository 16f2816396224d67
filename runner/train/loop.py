"""Trains one stage: build, go on from what is there, loop, save. READ THIS FIRST.

The loop does not know the words stage, mixture or curriculum: it asks the plan what a step reads and at which
learning rate, and the clock when to evaluate and to save. Resuming is starting at another step.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from curriculum.artifacts import checkpoints, ledger
from curriculum.artifacts.evaluations import cut_back_evaluations, read_sets, write_sets
from curriculum.artifacts.job_process import StopFlag
from curriculum.artifacts.jobs import DONE, STOPPED, TrainJob
from curriculum.artifacts.stage_folder import Attempt, StageFolder
from curriculum.errors import RunFailed
from curriculum.plan.model import FLOPS_CONVENTION
from curriculum.plan.stage import StagePlan
from runner import dataloader
from runner.evaluate.held_out import HeldOutSets
from runner.model.forward import losses
from runner.monitor import environment, hardware, spikes, trackers
from runner.monitor.metrics import Metrics, Stopwatch
from runner.monitor.profiler import Profiler
from runner.parallel import determinism, fsdp, replica_check
from runner.parallel.build import build, micro_batch
from runner.parallel.canonical import groups_of
from runner.parallel.ranks import Ranks
from runner.train.grace import Grace
from runner.train.optimizer import adamw
from runner.train.saves import Saves
from runner.train.state import restore
from runner.train.step import count, forward_backward, update
from runner.watchdog import Watchdog

NONFINITE_AT_MOST = 8
"""Steps in a row without a finite gradient before the run ends at its last good checkpoint."""


def train(job: TrainJob, ranks: Ranks, stop: StopFlag) -> dict[str, Any]:
    """Bring the stage to its end, or to the next step boundary once asked to stop; returns the outcome."""
    with Watchdog(Attempt(Path(job.attempt_folder)), ranks.rank, job.machine.hang_limit) as dog:
        run = Training(job, ranks, dog)
        run.measure()
        run.begin()
        while run.state.step < run.last_step:
            dog.begins()
            if (left := run.leave(stop)) is not None:
                return left
            run.step()
            if run.due(job.evaluate_every):
                run.measure()
            if run.due(job.checkpoint_every) or run.state.position in job.keep:
                run.save()
        return run.finish()


class Training:
    """A stage on this rank: what was built for it, where it stands (`state`) and where it ends (`end`, in tokens)."""

    def __init__(self, job: TrainJob, ranks: Ranks, dog: Watchdog) -> None:
        self.job, self.ranks, self.dog = job, ranks, dog
        self.folder = StageFolder(Path(job.stage_folder))
        self.plan = plan = StagePlan.load(Path(job.plan))
        self.end = plan.end if job.stop_at is None else job.stop_at
        self.last_step = plan.step_at(self.end)
        trackers.check(job.machine.trackers)
        determinism.apply(job.machine, ranks)
        self.micro = micro_batch(plan, job.machine.micro_batch, ranks)
        canonical = job.machine.exactness == "canonical"
        self.groups = groups_of(plan, self.micro, ranks) if canonical else None
        self.model, self.config = build(plan, job.machine, ranks)
        self.optimizer = adamw(self.model, plan.optimizer)
        self.sources = dataloader.open_sources(plan, job.data)
        self.held_out = HeldOutSets(
            job.held_out,
            sequence_length=plan.sequence_length,
            vocab_size=self.config.vocab_size,
            tokenizer_digest=plan.tokenizer.get("digest"),
        )
        self.state = restore(plan, job, self.model, self.optimizer, ranks)
        self.before = self.state.position
        told = environment.compare(job, ranks, begun=self.state.saved_at is not None)
        self.watch = Stopwatch(ranks.device)
        self.grace = Grace(job, ranks)
        self.saves = Saves(plan, job, self.model, self.optimizer, ranks, self.grace, self.end)
        self.profiler = Profiler(job.machine.profile, Path(job.attempt_folder), ranks)
        usual = spikes.losses_before(self.folder.metrics, self.state.position) if ranks.first else None
        self.usual = spikes.Losses(ranks.agree(usual))
        self.metrics = self._go_on_writing(told) if ranks.first else None

    def begin(self) -> None:
        """Have the batches from here to the end read."""
        self.model.train()
        if self.state.step < self.last_step:
            self.saves.check_room()
        self.batches = dataloader.batches(
            self.plan,
            self.sources,
            first_step=self.state.step,
            last_step=self.last_step,
            rank=self.ranks.rank,
            ranks=self.ranks.size,
            groups=self.groups,
        )

    def leave(self, stop: StopFlag) -> dict[str, Any] | None:
        """Save where a stop or a branch asks for it; the outcome when the run is to end here."""
        self.saves.check()
        wanted = self.saves.wanted(self.state)
        with self.watch.measure("communication"):
            wanted = self.ranks.any(bool(stop) or wanted)
        if not wanted:
            return None
        leaving = self.ranks.any(bool(stop))
        unsaved = self.state.saved_at != self.state.position
        lacking = self.grace.lacks(stop) if leaving and unsaved else None
        if lacking is None:
            self.save()
        if not leaving:
            return None
        self.profiler.end()
        self.saves.wait()
        self.ranks.wait()
        return self._outcome(STOPPED) | ({"unsaved": lacking} if lacking else {})

    def step(self) -> None:
        """Read, learn, count, write down: one optimizer step of the plan."""
        step = self.state.step
        self.grace.step_begins()
        self.profiler.before(step)
        with self.watch.measure("data"):
            batch = next(self.batches)
        with self.watch.measure("forward_backward"):
            slot_losses = forward_backward(self.model, batch, self.micro, self.plan, self.groups)
        with self.watch.measure("optimizer"):
            canonical = self.groups is not None
            norm = update(self.model, self.optimizer, self.plan, step, self.ranks, canonical=canonical)
        finite = math.isfinite(norm)
        with self.watch.measure("communication"):
            sums, windows = count(self.state, batch, slot_losses, finite, self.ranks)
        loss = float(sums.sum()) / self.plan.batch_tokens
        if self.metrics:
            self.metrics.step(
                step,
                loss=loss,
                grad_norm=norm,
                skipped=not finite,
                source_loss=sums,
                source_tokens=windows * self.plan.sequence_length,
                seconds=self.watch.read(),
            )
        spike = self.usual.take(loss)
        if spike or not finite:
            self._report("spike" if spike else "gradient not finite", slot_losses, norm, spike)
        self.profiler.after(step)
        self.grace.step_ended()
        self.before, self.state.position = self.state.position, self.plan.position_after(step)
        self.state.step += 1
        if self.state.nonfinite_in_a_row >= NONFINITE_AT_MOST:
            self.saves.wait()
            raise RunFailed(
                f"the gradient was not finite in {self.state.nonfinite_in_a_row} steps in a row, up to step {step:,}",
                hint=f"the last good checkpoint is kept; {self.folder.events} names what was read",
            )
        if self.state.step % replica_check.EVERY == 0:
            replica_check.check(self.model, self.optimizer, self.ranks, self.state.step)

    def due(self, every: int) -> bool:
        """Whether the step just done reached the end or a multiple of `every` tokens."""
        return self.state.position == self.end or due(self.before, self.state.position, every)

    def measure(self) -> None:
        """The held-out losses of the weights as they are, of every set that was not measured here before."""
        generation, at = self.job.generation, self.state.position
        known = read_sets(self.folder, generation, at)
        wanted = self.ranks.agree([name for name in self.held_out.sets if name not in known])
        if self.metrics:
            self.metrics.trackers.evaluated(at, known, new=False)
        if not wanted:
            return
        mark = dataloader.document_mark(self.plan)

        def summed(tokens: torch.Tensor) -> torch.Tensor:
            self.dog.begins()
            return losses(self.model, tokens, mark).sum(dim=1)

        self.model.eval()
        with torch.no_grad():
            results = self.held_out.measure(
                summed,
                names=wanted,
                rank=self.ranks.rank,
                ranks=self.ranks.size,
                add=self.ranks.add,
                chunk=self.micro,
                device=self.ranks.device,
            )
        fsdp.reshard(self.model)
        self.model.train()
        if self.metrics:
            write_sets(self.folder, generation, at, self.state.step, results)
            self.metrics.trackers.evaluated(at, results, new=True)
            self.metrics.pause()

    def save(self) -> None:
        """A checkpoint of where it stands, written while the next steps are computed; none where there is one."""
        if self.state.saved_at == self.state.position:
            return
        self.dog.saves()
        ledger.check(self.plan, self.state.position, self.state.windows)
        replica_check.check(self.model, self.optimizer, self.ranks, self.state.step)
        with self.watch.measure("checkpoint"):
            self.saves.begin(self.state)

    def finish(self) -> dict[str, Any]:
        """The outcome, once all is saved."""
        self.batches.close()
        self.profiler.end()
        self.dog.saves()
        self.saves.wait()
        if self.ranks.first and self.end == self.plan.end:
            self.saves.mark_done()
        self.ranks.wait()
        return self._outcome(DONE)

    def _outcome(self, word: str) -> dict[str, Any]:
        return {"outcome": word, "position": self.state.position, "step": self.state.step}

    def _go_on_writing(self, told: dict[str, Any]) -> Metrics:
        """On rank 0: cut back what was written past where this goes on from, and open the records anew."""
        job, at = self.job, self.state.position
        checkpoints.sweep(self.folder)
        ledger.cut_back(self.folder.ledger, at)
        cut_back_evaluations(self.folder, job.generation, at)
        tracked = trackers.start(
            job.machine.trackers,
            folder=self.folder,
            lineage=job.lineage,
            resumed_at=at,
            config={"fingerprint": self.plan.fingerprint, **self.plan.labels},
        )
        spikes.cut_back(self.folder, at)
        if self.state.saved_at is not None:  # a kill may have come between a checkpoint and its line
            ledger.append(self.folder, self.state.entry(self.plan, job))
        peak = hardware.peak_flops(job.machine, self.ranks)
        cost = self.config.flops_per_token(self.plan.sequence_length)
        metrics = Metrics(
            self.folder.metrics,
            self.plan,
            generation=job.generation,
            resumed_at=at,
            trackers=tracked,
            device=self.ranks.device,
            mfu_of_one=cost / (peak * self.ranks.size) if peak else None,
        )
        told |= {"micro_batch": self.micro, "groups": self.groups}
        told |= {"flops_per_token": cost, "peak_flops": peak, "flops_convention": FLOPS_CONVENTION}
        environment.write(Attempt(Path(job.attempt_folder)), told)
        return metrics

    def _report(
        self, kind: str, slot_losses: NDArray[np.float64], norm: float, spike: spikes.Spike | None
    ) -> None:
        whole = np.empty(self.plan.batch_sequences)
        for rank, part in enumerate(self.ranks.gather(slot_losses.tolist())):
            whole[dataloader.slots_of(len(whole), rank, self.ranks.size, self.groups)] = part
        if self.ranks.first:
            event = spikes.event(
                self.plan,
                self.sources,
                self.state.step,
                whole / self.plan.sequence_length,
                kind=kind,
                generation=self.job.generation,
                grad_norm=norm,
                spike=spike,
            )
            spikes.record(self.folder, event)


def due(before: int, now: int, every: int) -> bool:
    """Whether a multiple of `every` tokens lies in (before, now]."""
    return every > 0 and now // every > before // every
