"""Notices steps that went wrong: gradients that are not finite, losses that jump. It reports; nobody is rolled back.

A loss jumps when it is above the median of the last losses by more than SPREADS robust standard deviations
(1.4826 x the median absolute deviation) and by more than LEAST. Median and deviation are not moved by the jumps
themselves until they are the rule, and a loss that falls fast is never one. The rule reads metrics.jsonl, so a
resumed run goes on with the same window.
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
from curriculum.artifacts import ledger
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.data.dataset import Dataset
from curriculum.plan.stage import StagePlan

WINDOW, AT_LEAST = 128, 32  # losses that are looked at; before so many are there nothing is a jump
SPREADS, LEAST = 8.0, 0.1  # robust standard deviations; nats a token
NAMED = 8  # sequences of a step that an event names, the worst first


@dataclass(frozen=True, slots=True)
class Spike:
    """A loss (nats a token) above `limit`, by the losses before it."""

    loss: float
    median: float
    limit: float


class Losses:
    """The last finite losses of a stage, and whether another one jumps out of them."""

    def __init__(self, before: Iterable[float] = ()) -> None:
        self._last = deque((loss for loss in before if math.isfinite(loss)), maxlen=WINDOW)

    def take(self, loss: float) -> Spike | None:
        """Take in a step's loss; a Spike when it jumps. One that is not finite is neither taken in nor a jump."""
        if not math.isfinite(loss):
            return None
        spike = None
        if len(self._last) >= AT_LEAST:
            known = np.array(self._last)
            median = float(np.median(known))
            spread = 1.4826 * float(np.median(np.abs(known - median)))
            limit = median + max(SPREADS * spread, LEAST)
            spike = Spike(loss, median, limit) if loss > limit else None
        self._last.append(loss)
        return spike


def losses_before(path: Path, position: int) -> list[float]:
    """The last losses that a stage's `metrics.jsonl` has up to `position`."""
    lines = fs.read_json_lines(path)[-2 * WINDOW :]
    return [float(line["loss"]) for line in lines if line["position"] <= position]


def skip_of(plan: StagePlan, step: int) -> dict[str, int] | None:
    """What a stage file's `skip:` says to leave the data of `step` out, in full-size tokens; None for step 0."""
    scale = Fraction(plan.labels.get("size_scale", "1"))
    last = plan.position_after(step)
    begin, end = (math.floor(position / scale) for position in (last - plan.batch_tokens, last))
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
    """What is worth knowing of a step; `losses` are its slots' (nats a token, shape `[slots]`, in slot order)."""
    draws = plan.draws(step)
    rank = np.argsort(np.where(np.isfinite(losses), -losses, -np.inf), kind="stable")
    worst = []
    for slot in rank[:NAMED].tolist():
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
    told: dict[str, Any] = {
        "kind": kind,
        "generation": generation,
        "step": step,
        "position": plan.position_after(step),
        "loss": float(losses.mean()),
        "grad_norm": grad_norm,
        "sequences": worst,
    }
    if spike is not None:
        told |= {"median": spike.median, "limit": spike.limit}
    skip = skip_of(plan, step)
    if skip is not None:
        where = f"{plan.labels.get('curriculum', '')}/{plan.labels.get('stage', '')}".strip("/")
        told["skip"] = skip
        told["hint"] = (
            f"to train {where} without this step's data, branch before it with "
            f"`skip: [{{from: {skip['from']}, to: {skip['to']}}}]`"
        )
    return told


def record(folder: StageFolder, told: Mapping[str, Any]) -> None:
    """Add an event to the stage's `events.jsonl`."""
    fs.append_json_line(folder.events, fs.finite_json(told))


def cut_back(folder: StageFolder, position: int) -> None:
    """Drop the events past the position that a run goes on from."""
    ledger.cut_back(folder.events, position)
