"""Detects loss spikes, and describes them and steps without a finite gradient as events; nothing is rolled back.

A loss is a spike when it is above the median of the last losses by more than MIN_DEVIATIONS robust standard
deviations (1.4826 x the median absolute deviation) and by more than MIN_JUMP. Single spikes move neither median nor
deviation, and a loss that falls fast is never a spike. The window is read from metrics.jsonl, so a resumed run
continues with the same one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curriculum import fs
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.data.dataset import Dataset
from curriculum.plan.stage import StagePlan

WINDOW, MIN_WINDOW = 128, 32  # last losses that are compared; with fewer than the minimum nothing is a spike
MIN_DEVIATIONS, MIN_JUMP = 8.0, 0.1  # robust standard deviations; nats a token
SEQUENCES = 8  # of a step that an event names, the worst first


@dataclass(frozen=True, slots=True)
class Spike:
    """A loss (nats a token) above `limit`, by the losses before it."""

    loss: float
    median: float
    limit: float


class SpikeDetector:
    """The last finite losses of a stage, and whether the next one is a spike."""

    def __init__(self, losses: Iterable[float] = ()) -> None:
        self._last = deque((loss for loss in losses if math.isfinite(loss)), maxlen=WINDOW)

    def observe(self, loss: float) -> Spike | None:
        """Add a step's loss; the Spike if it is one. A loss that is not finite is neither added nor a spike."""
        if not math.isfinite(loss):
            return None
        spike = None
        if len(self._last) >= MIN_WINDOW:
            last = np.array(self._last)
            median = float(np.median(last))
            spread = 1.4826 * float(np.median(np.abs(last - median)))
            limit = median + max(MIN_DEVIATIONS * spread, MIN_JUMP)
            spike = Spike(loss, median, limit) if loss > limit else None
        self._last.append(loss)
        return spike


def losses_before(path: Path, position: int) -> list[float]:
    """The last losses that a stage's `metrics.jsonl` has up to `position`."""
    lines = fs.read_json_lines(path)[-2 * WINDOW :]
    return [float(line["loss"]) for line in lines if line["position"] <= position]


def skip_of(plan: StagePlan, step: int) -> dict[str, int] | None:
    """The `skip:` entry that leaves out the data of `step`, in full-size tokens; None for step 0."""
    scale = Fraction(plan.labels.get("size_scale", "1"))
    last = plan.position_after(step)
    begin, end = (math.floor(position / scale) for position in (plan.position_before(step), last))
    return {"from": begin, "to": end} if begin else None


def event(
    plan: StagePlan,
    datasets: Mapping[str, Dataset],
    step: int,
    losses: NDArray[np.float64],
    *,
    kind: str,
    generation: int,
    grad_norm: float,
    spike: Spike | None = None,
) -> dict[str, Any]:
    """The line of events.jsonl for a step; `losses` are its slots' (nats a token, shape `[slots]`, in slot order)."""
    draws = plan.draws(step)
    order = np.argsort(np.where(np.isfinite(losses), -losses, -np.inf), kind="stable")
    worst = []
    for slot in order[:SEQUENCES].tolist():
        source, window = draws.names[draws.source[slot]], int(draws.window[slot])
        worst.append(
            {
                "slot": slot,
                "source": source,
                "window": window,
                "loss": float(losses[slot]),
                "documents": [span.id for span in datasets[source].documents(window)],
            }
        )
    line: dict[str, Any] = {
        "kind": kind,
        "generation": generation,
        "step": step,
        "position": plan.position_after(step),
        "loss": float(losses.mean()),
        "grad_norm": grad_norm,
        "sequences": worst,
    }
    if spike is not None:
        line |= {"median": spike.median, "limit": spike.limit}
    skip = skip_of(plan, step)
    if skip is not None:
        where = f"{plan.labels.get('curriculum', '')}/{plan.labels.get('stage', '')}".strip("/")
        line["skip"] = skip
        line["hint"] = (
            f"to train {where} without this step's data, branch before it with "
            f"`skip: [{{from: {skip['from']}, to: {skip['to']}}}]`"
        )
    return line


def record(folder: StageFolder, event: Mapping[str, Any]) -> None:
    """Add an event to the stage's `events.jsonl`."""
    fs.append_json_line(folder.events, fs.finite_json(event))
