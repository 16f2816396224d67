"""Live metrics of a stage in training, as one line or a panel."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from curriculum.artifacts.metrics import LiveMetrics, StageActivity
from curriculum.compiler.compile import CompiledStage
from curriculum.compiler.cost import evaluation_positions, saved_positions
from curriculum.units import show_bytes, show_count, show_exact, show_seconds


def training_line(training: LiveMetrics, stage: CompiledStage, name: str) -> str:
    """Progress, speed, time left and losses of a stage that is shown as `name`; empty before the first step."""
    position = training.position
    if position is None:
        return f"{name}  evaluating" if is_evaluating(training, stage) else ""
    return (
        f"{name} {share_of(position, stage):5.1f}%  {show_count(position)} of {show_count(stage.stop)} "
        f"tokens  {speed(training, stage)}  {losses(training.losses)}"
    )


def is_evaluating(training: LiveMetrics, stage: CompiledStage) -> bool:
    """Whether the trainer measures held-out losses now: they are due where it is, and not on record yet."""
    at = max(training.resumed_at, stage.plan.start) if training.position is None else training.position
    attempt = training.folder.newest_attempt()
    running = attempt is not None and attempt.environment.exists() and not attempt.outcome.exists()
    return running and at in evaluation_positions(stage) and not training.is_evaluated(at)


def speed(training: LiveMetrics, stage: CompiledStage) -> str:
    """The rate, and the time left with the evaluations and saves that are due; or that it evaluates."""
    position = training.position or stage.plan.start
    evaluating = is_evaluating(training, stage)
    evaluations = sum(at > position for at in evaluation_positions(stage)) + evaluating
    saves = sum(at > position for at in saved_positions(stage))
    seconds = training.seconds_left(stage.stop, evaluations, saves)
    now = "evaluating" if evaluating else f"{training.rate:,.0f} tok/s"
    return f"{now}  left {show_seconds(seconds if seconds is not None else 0.0)}"


def losses(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {loss:.3f}" for name, loss in sorted(values.items()))


def training_panel(training: LiveMetrics, now: StageActivity, stage: CompiledStage) -> RenderableType:
    """All live metrics of the running stage; fits 80 columns."""
    start, stop = stage.plan.start, stage.stop
    position = training.position if training.position is not None else start
    attempt = f"attempt {now.attempt.number}" if now.attempt else ""
    who = f"pid {now.holder['pid']} on {now.holder['host']}" if now.holder and "pid" in now.holder else ""
    head = Text.assemble((stage.name, "bold"), "  ", (", ".join(filter(None, (attempt, who))), "dim"))
    if training.position is None:
        begins = "evaluating" if is_evaluating(training, stage) else "starting"
        return Group(head, Text(f"{begins}: no step is written yet", style="dim"))
    drawn = Table.grid(padding=(0, 2, 0, 0))
    drawn.add_column(no_wrap=True, style="dim")
    drawn.add_column()
    drawn.add_row("speed", speed(training, stage))
    drawn.add_row("step", f"{show_exact(training.last['step'])}{_settings(training)}")
    drawn.add_row("loss", losses(training.losses))
    if now.held_out:
        drawn.add_row("held-out", f"{losses(now.held_out)}  at {show_count(now.held_out_at or 0)}")
    drawn.add_row("saved", _saved(now))
    if memory := _memory(training):
        drawn.add_row("memory", memory)
    bar = Table.grid(padding=(0, 2, 0, 0))
    bar.add_row(
        ProgressBar(total=max(1, stop - start), completed=position - start, width=30),
        f"{share_of(position, stage):.1f}%",
        f"{show_exact(position)} of {show_exact(stop)} tokens",
    )
    return Group(head, bar, drawn)


def training_plain(training: LiveMetrics, now: StageActivity, stage: CompiledStage) -> str:
    """The panel as one line, for a log."""
    if training.position is None:
        return training_line(training, stage, stage.name) or f"{stage.name}  starting"
    parts = [
        training_line(training, stage, stage.name).rstrip(),
        f"step {show_exact(training.last['step'])}{_settings(training)}",
    ]
    if now.held_out:
        parts.append(f"held-out at {show_count(now.held_out_at or 0)}: {losses(now.held_out)}")
    parts.append(f"saved {_saved(now)}")
    if memory := _memory(training):
        parts.append(f"memory {memory}")
    return "  |  ".join(parts)


def _settings(training: LiveMetrics) -> str:
    rate, batch = training.last.get("lr"), training.last.get("batch_sequences")
    shown = f", learning rate {rate:.3g}" if isinstance(rate, float) else ""
    return shown + (f", batch {show_exact(batch)} sequences" if isinstance(batch, int) else "")


def _saved(now: StageActivity) -> str:
    if now.saved_at is None:
        return "nothing yet"
    return f"at {show_count(now.saved_at)} tokens, {show_seconds(now.saved_age or 0.0)} ago"


def _memory(training: LiveMetrics) -> str:
    """The peak of rank 0's process or GPU; empty where the record has none."""
    used, reserved = (training.last.get(key) for key in ("memory_bytes", "memory_reserved_bytes"))
    if used is None:
        return ""
    return f"{show_bytes(used)} at most" + (f", {show_bytes(reserved)} reserved" if reserved is not None else "")


def share_of(position: int, stage: CompiledStage) -> float:
    return 100 * (position - stage.plan.start) / (stage.stop - stage.plan.start)
