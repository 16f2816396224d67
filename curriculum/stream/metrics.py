"""A line of metrics.jsonl: what every trainer reports of a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curriculum.plan.stage import StagePlan


def line(
    plan: StagePlan,
    generation: int,
    step: int,
    *,
    loss: float,
    grad_norm: float | None,
    seconds: float,
    sources: Mapping[str, tuple[float, int]],
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """The line of `step`: losses in nats a token, of each source with the number of its tokens; `more` as it is."""
    figures: dict[str, Any] = {
        **more,
        "generation": generation,
        "step": step,
        "position": plan.position_after(step),
        "loss": float(loss),
        "lr": plan.lr(step),
        "batch_sequences": plan.batch_of(step),
        "tokens_per_second": plan.tokens_of(step) / seconds if seconds > 0 else 0.0,
        "seconds": seconds,
        "sources": {name: {"loss": of_source, "tokens": tokens} for name, (of_source, tokens) in sources.items()},
    }
    if grad_norm is not None:
        figures["grad_norm"] = float(grad_norm)
    return figures
