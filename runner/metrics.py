"""One JSON line per logged step in `metrics.jsonl`: the truth that trackers, tables and live views read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curriculum import durable, ledger
from curriculum.plan import StagePlan
from runner.trackers import Trackers


class Metrics:
    """Collects a step's figures and writes them; losses in nats a token, times in seconds.

    Per-source losses are sums over all tokens since the last line, so that a rare source is not lost to the
    cadence. Lines past the position that a run resumes from are cut away first.
    """

    def __init__(
        self,
        path: Path,
        plan: StagePlan,
        *,
        generation: int,
        resumed_at: int,
        trackers: Trackers,
        every: int = 1,
    ) -> None:
        ledger.cut_back(path, resumed_at)
        self.path = path
        self.plan = plan
        self.generation = generation
        self.every = every
        self.trackers = trackers
        self._loss = np.zeros(len(plan.names))
        self._tokens = np.zeros(len(plan.names), np.int64)
        self._steps = 0
        self._since = time.monotonic()
        self._data_seconds = 0.0

    def step(
        self,
        step: int,
        *,
        loss: float,
        grad_norm: float,
        skipped: bool,
        source_loss: NDArray[np.float64],
        source_tokens: NDArray[np.int64],
        data_seconds: float,
    ) -> None:
        """Take in one step's figures; `source_loss` sums per source over the global batch (shape `[sources]`)."""
        self._loss += source_loss
        self._tokens += source_tokens
        self._steps += 1
        self._data_seconds += data_seconds
        if self._steps < self.every and step + 1 < self.plan.last_step:
            return
        now = time.monotonic()
        seconds = now - self._since
        tokens = self._steps * self.plan.batch_tokens
        line: dict[str, Any] = {
            "generation": self.generation,
            "step": step,
            "position": self.plan.position_after(step),
            "loss": loss,
            "lr": self.plan.lr(step),
            "grad_norm": grad_norm,
            "batch_sequences": self.plan.batch_sequences,
            "tokens_per_second": tokens / seconds if seconds > 0 else 0.0,
            "seconds": seconds,
            "data_seconds": self._data_seconds,
            "sources": _per_source(self.plan.names, self._loss, self._tokens),
        }
        if skipped:
            line["skipped"] = True
        durable.append_json_line(self.path, _finite(line), sync=False)
        self.trackers.trained(line["position"], line)
        self._loss[:] = 0
        self._tokens[:] = 0
        self._steps = 0
        self._data_seconds = 0.0
        self._since = now

    def pause(self) -> None:
        """Leave the time until now (an evaluation, a save) out of the next line's tokens per second."""
        self._since = time.monotonic()


def _per_source(names: Sequence[str], loss: NDArray[np.float64], tokens: NDArray[np.int64]) -> dict[str, Any]:
    return {
        name: {"loss": float(loss[i] / tokens[i]), "tokens": int(tokens[i])}
        for i, name in enumerate(names)
        if tokens[i]
    }


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they are written as text."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value
