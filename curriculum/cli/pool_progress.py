"""Several curricula in training at once, as they happen: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time

from rich.console import Console
from rich.live import Live

from curriculum.artifacts.metrics import LiveMetrics
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.cli.progress import RunDisplay
from curriculum.cli.view.pool import training_table
from curriculum.cli.view.training import training_line
from curriculum.compiler.compile import Compiled, CompiledStage


class PoolDisplay(RunDisplay):
    """Shows every stage that trains now; what is prepared before is shown as for a single curriculum."""

    def __init__(self, console: Console, every_seconds: float = 10.0) -> None:
        super().__init__(console, every_seconds)
        self._running: dict[str, tuple[CompiledStage, LiveMetrics]] = {}
        self._lines: dict[str, str] = {}
        self._scale_said = False

    def plan_compiled(self, compiled: Compiled) -> None:
        if not self._scale_said:  # once, and not for each curriculum
            super().plan_compiled(compiled)
            self._scale_said = True

    def stage_started(self, stage: CompiledStage, folder: StageFolder, start: int) -> None:
        self.console.print(self._begins(stage, start))
        self._running[stage.name] = stage, LiveMetrics(folder, resumed_at=start)
        if self._live is None and self.console.is_terminal:
            self._live = Live(training_table([]), console=self.console, refresh_per_second=4, transient=True)
            self._live.start()

    def tick(self) -> None:
        if not self._running:
            super().tick()
            return
        if self._live is None and time.monotonic() - self._printed < self.every_seconds:
            return
        self._printed = time.monotonic()
        for _, training in self._running.values():
            training.update()
        if self._live is not None:
            self._live.update(training_table(list(self._running.values())))
            return
        for stage, training in self._running.values():
            self._say_of(stage, training)

    def stage_ended(self, stage: CompiledStage) -> None:
        _, training = self._running.pop(stage.name)
        if not self._running:
            self._close()
        training.update()
        self._say_of(stage, training)

    def _say_of(self, stage: CompiledStage, training: LiveMetrics) -> None:
        """Print the line of a stage that stays, once."""
        line = training_line(training, stage, stage.name)
        if line and self._lines.get(stage.name) != line:
            self._lines[stage.name] = line
            self.console.print(line)
