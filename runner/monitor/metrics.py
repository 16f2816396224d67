"""One JSON line per logged step in `metrics.jsonl`, which trackers, tables and live views read."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from curriculum import fs
from curriculum.plan.stage import StagePlan
from runner.monitor.trackers import Trackers


class Stopwatch:
    """Seconds of each phase of a step. On a GPU, phases in `ON_DEVICE` are timed by the GPU's own clock.

    FSDP2's exchanges during the backward pass belong to that phase; `communication` are the other collectives:
    flags, counts and sums. A profiler's trace shows the rest.
    """

    ON_DEVICE = ("forward_backward", "optimizer")

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._spent: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextlib.contextmanager
    def measure(self, phase: str) -> Iterator[None]:
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

    def read(self) -> dict[str, float]:
        """Seconds of each phase since the last reading."""
        spent, self._spent = self._spent, {}
        for phase, begin, end in self._events:
            end.synchronize()
            spent[phase] = spent.get(phase, 0.0) + begin.elapsed_time(end) / 1000
        self._events = []
        return spent


def memory_bytes(device: torch.device) -> int:
    """Peak memory so far: of the GPU, else of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB


class Metrics:
    """Writes each step's figures; losses in nats a token, times in seconds.

    `mfu_of_one` is the model FLOPs utilisation of
    one token a second, None where the device's peak is unknown.
    """

    def __init__(
        self,
        path: Path,
        plan: StagePlan,
        *,
        generation: int,
        trackers: Trackers,
        device: torch.device,
        mfu_of_one: float | None = None,
    ) -> None:
        self.path = path
        self.plan = plan
        self.generation = generation
        self.device = device
        self.mfu_of_one = mfu_of_one
        self.trackers = trackers
        self._since = time.monotonic()
        self._evaluation = 0.0

    def step(
        self,
        step: int,
        *,
        loss: float,
        grad_norm: float,
        skipped: bool,
        source_loss: NDArray[np.float64],
        source_tokens: NDArray[np.int64],
        seconds: Mapping[str, float],
    ) -> None:
        """Write one step's figures; `source_loss` sums per source over the global batch (shape `[sources]`).

        `seconds` are those of each phase.
        """
        now = time.monotonic()
        elapsed, self._since = now - self._since, now
        rate = self.plan.batch_tokens / elapsed if elapsed > 0 else 0.0
        line: dict[str, Any] = {
            "generation": self.generation,
            "step": step,
            "position": self.plan.position_after(step),
            "loss": loss,
            "lr": self.plan.lr(step),
            "grad_norm": grad_norm,
            "batch_sequences": self.plan.batch_sequences,
            "tokens_per_second": rate,
            "seconds": elapsed,
            **{f"{phase}_seconds": spent for phase, spent in sorted(seconds.items())},
            "memory_bytes": memory_bytes(self.device),
            "sources": {
                name: {"loss": total / tokens, "tokens": tokens}
                for name, total, tokens in zip(
                    self.plan.names, source_loss.tolist(), source_tokens.tolist(), strict=True
                )
                if tokens
            },
        }
        if self.mfu_of_one is not None:
            line["mfu"] = rate * self.mfu_of_one
        if self._evaluation:
            line["evaluation_seconds"], self._evaluation = self._evaluation, 0.0
        if skipped:
            line["skipped"] = True
        fs.append_json_line(self.path, fs.finite_json(line), sync=False)
        self.trackers.trained(line["position"], line)

    def pause(self) -> None:
        """Count the time until now as an evaluation's: the next line states it and leaves it out of its own seconds."""
        now = time.monotonic()
        self._evaluation, self._since = self._evaluation + now - self._since, now
