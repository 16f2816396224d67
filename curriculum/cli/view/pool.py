"""Several curricula of one command: those in training, and how each of them ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import RenderableType
from rich.text import Text

from curriculum.artifacts.metrics import LiveMetrics
from curriculum.cli.view.tables import table
from curriculum.cli.view.training import losses, share_of, speed
from curriculum.compiler.compile import CompiledStage
from curriculum.execution import pool
from curriculum.units import show_exact

_STYLES = {pool.DONE: "green", pool.STOPPED: "yellow", pool.FAILED: "red"}


def training_table(running: Sequence[tuple[CompiledStage, LiveMetrics]]) -> RenderableType:
    """A row for each stage in training."""
    drawn = table("in training", "#", "speed", "loss")
    for stage, training in running:
        position = training.position
        cells = ("", "starting", "")
        if position is not None:
            cells = (f"{share_of(position, stage):.1f}%", speed(training, stage), losses(training.losses))
        drawn.add_row(stage.name, *cells)
    return drawn


def pool_view(
    results: Sequence[pool.LineageResult], held_out: Mapping[str, Mapping[str, float]], sources: Sequence[str]
) -> RenderableType:
    """A row for each curriculum: how it ended, where it is, and its last held-out losses (nats a token)."""
    drawn = table("curriculum", "", "#tokens", "#of", *(f"#{name}" for name in sources))
    for result in results:
        loss = held_out.get(result.name, {})
        drawn.add_row(
            result.name,
            Text(result.state, style=_STYLES[result.state]),
            show_exact(result.position),
            show_exact(result.compiled.stop),
            *(f"{loss[name]:.3f}" if name in loss else "" for name in sources),
        )
    return drawn
