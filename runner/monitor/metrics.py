"""One JSON line per logged step in `metrics.jsonl`, which trackers, tables and live views read."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from curriculum import fs
from curriculum.plan.stage import StagePlan
from curriculum.stream import metrics
from runner.monitor.trackers import Trackers


@dataclass(frozen=True, slots=True)
class Lap:
    """The time from one step's end to the next one's, in seconds, and what an evaluation took that is left out of it.

    Both are this process's. `memory` is `peak_memory`.
    """

    seconds: float
    evaluation: float
    memory: dict[str, int]
    _phases: dict[str, float]
    _events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]]

    def phases(self) -> dict[str, float]:
        """Seconds of each phase; waits for the GPU to end them."""
        spent = dict(self._phases)
        for phase, begin, end in self._events:
            end.synchronize()
            spent[phase] = spent.get(phase, 0.0) + begin.elapsed_time(end) / 1000
        return spent


class Stopwatch:
    """Measures laps, one a step, and their phases. On a GPU, those in `ON_DEVICE` are timed by the GPU's own clock.

    FSDP2's exchanges during the backward pass belong to that phase; `communication` are the other collectives:
    flags, counts and sums. A profiler's trace shows the rest.
    """

    ON_DEVICE = ("forward_backward", "optimizer")

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cuda = device.type == "cuda"
        self._since = time.monotonic()
        self._evaluation = 0.0
        self._spent: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextlib.contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Add the seconds of the block to `phase`; of what runs on a GPU, those between two events on it."""
        if self._cuda and phase in self.ON_DEVICE:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            begin.record()
            yield
            end.record()
            self._events.append((phase, begin, end))
            return
        start = time.monotonic()
        yield
        self._spent[phase] = self._spent.get(phase, 0.0) + time.monotonic() - start

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """Leave an evaluation out of the lap that it is in, which states it by itself."""
        start = time.monotonic()
        yield
        spent = time.monotonic() - start
        self._evaluation += spent
        self._since += spent

    def lap(self) -> Lap:
        """End a lap; the GPU's own times are read from it later."""
        now = time.monotonic()
        lap = Lap(now - self._since, self._evaluation, peak_memory(self._device), self._spent, self._events)
        self._since, self._evaluation, self._spent, self._events = now, 0.0, {}, []
        return lap


def peak_memory(device: torch.device) -> dict[str, int]:
    """Peak memory so far, in bytes: of the GPU in use and reserved from it, else of this process."""
    if device.type == "cuda":
        reserved = int(torch.cuda.max_memory_reserved(device))
        return {"memory_bytes": int(torch.cuda.max_memory_allocated(device)), "memory_reserved_bytes": reserved}
    return {"memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}  # Linux counts KiB


class Metrics:
    """Writes each step's figures; losses in nats a token, times in seconds.

    `mfu_of_one` is the model FLOPs utilisation of
    one token a second, None where the device's peak is unknown.
    """

    def __init__(
        self, path: Path, plan: StagePlan, *, generation: int, trackers: Trackers, mfu_of_one: float | None = None
    ) -> None:
        self.path = path
        self.plan = plan
        self.generation = generation
        self.mfu_of_one = mfu_of_one
        self.trackers = trackers

    def step(
        self,
        step: int,
        *,
        loss: float,
        grad_norm: float,
        skipped: bool,
        source_loss: NDArray[np.float64],
        source_tokens: NDArray[np.int64],
        lap: Lap,
        layer_norms: Mapping[str, float],
    ) -> None:
        """Write one step's figures; `source_loss` sums per source over the global batch (shape `[sources]`).

        `layer_norms` are those of each layer's gradient, where they were measured.
        """
        sources = zip(self.plan.names, source_loss.tolist(), source_tokens.tolist(), strict=True)
        line = metrics.line(
            self.plan,
            self.generation,
            step,
            loss=loss,
            grad_norm=grad_norm,
            seconds=lap.seconds,
            sources={name: (total / tokens, tokens) for name, total, tokens in sources if tokens},
            more={**{f"{phase}_seconds": spent for phase, spent in sorted(lap.phases().items())}, **lap.memory},
        )
        if self.mfu_of_one is not None:
            line["mfu"] = line["tokens_per_second"] * self.mfu_of_one
        if lap.evaluation:
            line["evaluation_seconds"] = lap.evaluation
        if layer_norms:
            line["layer_norms"] = dict(layer_norms)
        if skipped:
            line["skipped"] = True
        fs.append_json_line(self.path, fs.finite_json(line), sync=False)
        self.trackers.trained(line["position"], line)
