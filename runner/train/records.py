"""What a run records of each step: metrics, trackers and events."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curriculum.artifacts import anomalies
from curriculum.plan.model import FLOPS_CONVENTION
from curriculum.stream import reader
from runner.monitor import environment, hardware, spikes, trackers
from runner.monitor.metrics import Lap, Metrics
from runner.train.setup import Setup


class Records:
    """Every rank calls it and rank 0 writes. The record of the environment is compared and written at the start."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        ranks, stage = setup.ranks, setup.stage
        record = environment.compare(setup.job, ranks, resumed=stage.resume.origin == "own")
        recent = spikes.losses_before(stage.folder.metrics, stage.position) if ranks.first else None
        self._detector = spikes.SpikeDetector(ranks.agree(recent))
        self._metrics = self._open(record) if ranks.first else None

    def _open(self, record: dict[str, Any]) -> Metrics:
        """On rank 0: open metrics and trackers, which want the records as the attempt before left them."""
        setup, stage, job, plan = self._setup, self._setup.stage, self._setup.job, self._setup.plan
        curves = trackers.start(
            job.machine.trackers,
            folder=stage.folder,
            generation=job.generation,
            lineage=job.lineage,
            resumed_at=stage.position,
            config={"fingerprint": plan.fingerprint, **plan.labels},
            first=not stage.attempt.previous(),
        )
        stage.open_records()
        peak = hardware.peak_flops(job.machine, setup.ranks)
        flops = setup.model.config.flops_per_token(plan.sequence_length)
        metrics = Metrics(
            stage.folder.metrics,
            plan,
            generation=job.generation,
            trackers=curves,
            mfu_of_one=flops / (peak * setup.ranks.size) if peak else None,
        )
        record |= {"micro_batch": setup.micro_batch, "groups": _groups(setup)}
        record |= {"flops_per_token": flops, "peak_flops": peak, "flops_convention": FLOPS_CONVENTION}
        environment.write(stage.attempt, record)
        return metrics

    def step(
        self,
        step: int,
        slot_losses: NDArray[np.float64],
        source_loss: NDArray[np.float64],
        windows: NDArray[np.int64],
        grad_norm: float,
        lap: Lap,
        *,
        outlier: bool,
        layer_norms: Mapping[str, float],
    ) -> None:
        """Record a step: this rank's `slot_losses`, all ranks' `source_loss` and `windows` `[sources]`.

        A loss that jumps, or a gradient that is not finite or an `outlier`, is also an event. `layer_norms`
        are those of each layer's gradient, where they were measured.
        """
        plan, finite = self._setup.plan, math.isfinite(grad_norm)
        loss = float(source_loss.sum()) / plan.tokens_of(step)
        if self._metrics:
            self._metrics.step(
                step,
                loss=loss,
                grad_norm=grad_norm,
                skipped=outlier or not finite,
                source_loss=source_loss,
                source_tokens=windows * plan.sequence_length,
                lap=lap,
                layer_norms=layer_norms,
            )
        spike = self._detector.observe(loss)
        if spike or outlier or not finite:
            kind = anomalies.OUTLIER if outlier else anomalies.SPIKE if spike else anomalies.NONFINITE
            self._event(step, kind, slot_losses, grad_norm, spike)

    def _event(
        self, step: int, kind: str, slot_losses: NDArray[np.float64], grad_norm: float, spike: spikes.Spike | None
    ) -> None:
        setup, ranks = self._setup, self._setup.ranks
        batch = setup.plan.batch_of(step)
        losses, groups = np.empty(batch), setup.groups[batch] if setup.groups is not None else None
        for rank, share in enumerate(ranks.gather(slot_losses.tolist())):
            losses[reader.slots_of(len(losses), rank, ranks.size, groups)] = share
        if ranks.first:
            event = spikes.event(
                setup.plan,
                setup.sources,
                step,
                losses / setup.plan.sequence_length,
                kind=kind,
                generation=setup.job.generation,
                grad_norm=grad_norm,
                spike=spike,
            )
            spikes.record(setup.stage.folder, event)

    def evaluated(self, sets: Mapping[str, Any], *, new: bool) -> None:
        """Send held-out losses of the present weights to the trackers; `new` ones were measured in this attempt."""
        if self._metrics is not None:
            stage = self._setup.stage
            self._metrics.trackers.evaluated(stage.position, sets, new=new or not stage.attempt.previous())


def _groups(setup: Setup) -> int | list[int] | None:
    """The groups of a step as they are recorded: a list where the batch changes inside the stage."""
    if setup.groups is None:
        return None
    numbers = list(setup.groups.values())
    return numbers[0] if len(numbers) == 1 else numbers
