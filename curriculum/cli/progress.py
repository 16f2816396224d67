"""A run as it happens: reads the metrics that the job writes, so that any terminal can follow it without harm."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from curriculum.artifacts.metrics import LiveMetrics
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.cli.view.training import training_line
from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.data.progress import describe_unread, read_progress
from curriculum.units import show_count, show_exact, show_seconds


class Progress:
    """Shows a run as it happens: a live line on a terminal, plain lines elsewhere (one every few seconds)."""

    def __init__(self, console: Console, every_seconds: float = 5.0) -> None:
        self.console = console
        self.every_seconds = every_seconds
        self._live: Live | None = None
        self._stage: CompiledStage | None = None
        self._training: LiveMetrics | None = None
        self._printed = 0.0
        self._said = ""
        self._begun = 0.0
        self._text: tuple[str, Path | None] | None = None
        self._first: tuple[float, int] | None = None

    # --- Listener ---

    def preparing(self, what: str, progress: Path | None) -> None:
        self._text = (what, progress)
        self._begun = time.monotonic()
        self._first = None
        self.console.print(f"preparing {what}")
        self._open()

    def prepared(self, what: str) -> None:
        line = self._prepare_line()
        self._close()
        self._say(line)
        path = self._text[1] if self._text else None
        if path is not None and (unread := read_progress(path).unread):
            self._say(f"  {what}: left out, since they are no text: {describe_unread(unread)}")
        self._text = None

    def compiled(self, compiled: Compiled) -> None:
        if compiled.scaled:
            self.console.print(
                f"size `{compiled.size_name}`: every length is scaled by {float(compiled.scale):g}. "
                f"The real one: curriculum run {compiled.curriculum} --size full --machine MACHINE",
                style="bold",
            )

    def skipped(self, stage: CompiledStage) -> None:
        self.console.print(f"{stage.name}  done, at {show_exact(stage.stop)} tokens")

    def begun(self, stage: CompiledStage, folder: StageFolder, resumed_at: int) -> None:
        self._stage, self._training = stage, LiveMetrics(folder, resumed_at=resumed_at)
        plan = stage.plan
        how = "resumes" if resumed_at > plan.start else "starts"
        first = plan.step_at(resumed_at)
        last = plan.first_step + stage.steps_run
        self.console.print(
            f"{stage.name}  {how} at {show_exact(resumed_at)} tokens: {show_exact(last - first)} steps of "
            f"{plan.batch_sequences} sequences, learning rate {plan.lr(first):.3g} -> {plan.lr(last - 1):.3g}"
        )
        self._open()

    def tick(self) -> None:
        line = self._line() if self._stage is not None else self._prepare_line()
        if not line:
            return
        if self._live is not None:
            self._live.update(Text(line))
        elif time.monotonic() - self._printed >= self.every_seconds:
            self._printed = time.monotonic()
            self._say(line)

    def noted(self, line: str) -> None:
        self.console.print(line)

    def ended(self, stage: CompiledStage, outcome: Mapping[str, Any]) -> None:
        line = self._line()
        self._close()
        self._say(line)
        self._stage = None

    # --- inside ---

    def _say(self, line: str) -> None:
        """Print a line that stays, once."""
        if line and line != self._said:
            self._said = line
            self.console.print(line)

    def _open(self) -> None:
        if self.console.is_terminal:
            self._live = Live(Text(""), console=self.console, refresh_per_second=8, transient=True)
            self._live.start()

    def _close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _line(self) -> str:
        if self._stage is None or self._training is None:
            return ""
        self._training.update()
        return training_line(
            self._training, self._stage.setting.stage, self._stage.plan.start, self._stage.stop
        )

    def _prepare_line(self) -> str:
        if self._text is None:
            return ""
        what, path = self._text
        if path is None:
            return ""
        so_far = read_progress(path)
        if not so_far.documents:
            return ""
        now = time.monotonic()
        self._first = self._first or (now, so_far.tokens)
        since, tokens = now - self._first[0], so_far.tokens - self._first[1]
        if since < 1:  # nothing was seen on its way, so what there is took all the time
            since, tokens = now - self._begun, so_far.tokens
        share = (
            f", {so_far.bytes / so_far.total_bytes:.0%} read"
            if so_far.total_bytes and not so_far.done
            else ""
        )
        return (
            f"  {what}: {show_exact(so_far.documents)} documents, {show_count(so_far.tokens)} tokens{share}, "
            f"{show_seconds(now - self._begun)}, {show_count(int(tokens / max(since, 1e-3)))} tokens/s"
        )
