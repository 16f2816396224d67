"""A run as it happens: reads the metrics that the job writes, so that any terminal can follow it without harm."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from curriculum.artifacts.metrics import LiveMetrics
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.cli.view.training import training_line
from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.data.progress import Progress, describe_unread, read_progress
from curriculum.execution.request import Listener
from curriculum.units import show_bytes, show_count, show_exact, show_seconds


class RunDisplay(Listener):
    """Shows a run as it happens: a live line on a terminal, plain lines elsewhere (one every few seconds)."""

    def __init__(self, console: Console, every_seconds: float = 5.0) -> None:
        self.console = console
        self.every_seconds = every_seconds
        self._live: Live | None = None
        self._stage: CompiledStage | None = None
        self._training: LiveMetrics | None = None
        self._printed = 0.0
        self._last = ""
        self._started = 0.0
        self._job: tuple[str, Path | None] | None = None
        self._first: tuple[float, int, int] | None = None

    # --- Listener ---

    def job_started(self, title: str, progress: Path | None) -> None:
        self._job = (title, progress)
        self._started = time.monotonic()
        self._first = None
        self.console.print(f"preparing {title}")
        self._open()

    def job_done(self, title: str) -> None:
        line = self._prepare_line()
        self._close()
        path = self._job[1] if self._job else None
        if path is not None:
            self._say(line)
            progress = read_progress(path)
            if progress.unread:
                self._say(f"  {title}: left out, since they are no text: {describe_unread(progress.unread)}")
            if progress.other_endings:
                others = describe_unread(progress.other_endings)
                self._say(f"  {title}: not read, as `files` does not name them: {others}")
            for split, (count, name) in progress.repeated_ids.items():
                self._say(
                    f"  {title}: {count:,} documents of {split} have an id that an earlier one has, as `{name}`; "
                    "all are kept, and `trace --document` shows each"
                )
            if progress.fast_encoder_refused:
                self._say(f"  {title}: encoded by tokenizers, many times slower: {progress.fast_encoder_refused}")
        self._job = None

    def plan_compiled(self, compiled: Compiled) -> None:
        if compiled.scaled:
            self.console.print(
                f"size `{compiled.size_name}`: every length is scaled by {float(compiled.scale):g}. "
                f"The real one: curriculum run {compiled.curriculum} --size full --machine MACHINE",
                style="bold",
            )

    def stage_skipped(self, stage: CompiledStage) -> None:
        self.console.print(f"{stage.name}  done, at {show_exact(stage.stop)} tokens")

    def stage_started(self, stage: CompiledStage, folder: StageFolder, start: int) -> None:
        self._stage, self._training = stage, LiveMetrics(folder, resumed_at=start)
        self.console.print(self._begins(stage, start))
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

    def note(self, line: str) -> None:
        self.console.print(line)

    def stage_ended(self, stage: CompiledStage) -> None:
        line = self._line()
        self._close()
        self._say(line)
        self._stage = None

    # --- inside ---

    def _begins(self, stage: CompiledStage, start: int) -> str:
        plan = stage.plan
        how = "resumes" if start > plan.start else "starts"
        first = plan.step_at(start)
        last = plan.first_step + stage.steps_run
        if stage.members:
            return f"{stage.name}  {how} at {show_exact(start)} tokens: 0 steps, an average of weights"
        batches = " -> ".join(str(batch) for batch in dict.fromkeys((plan.batch_of(first), plan.batch_of(last - 1))))
        return (
            f"{stage.name}  {how} at {show_exact(start)} tokens: {show_exact(last - first)} steps of "
            f"{batches} sequences, learning rate {plan.lr(first):.3g} -> {plan.lr(last - 1):.3g}"
        )

    def _say(self, line: str) -> None:
        """Print a line that stays, once."""
        if line and line != self._last:
            self._last = line
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
        return training_line(self._training, self._stage, self._stage.setting.stage)

    def _prepare_line(self) -> str:
        if self._job is None:
            return ""
        title, path = self._job
        now = time.monotonic()
        progress = read_progress(path) if path is not None else None
        if progress is None or not progress.documents:
            seconds = now - self._started
            return f"  {title}: {show_seconds(seconds)}" if seconds >= self.every_seconds else ""
        self._first = self._first or (now, progress.tokens, progress.bytes)
        seconds, tokens = now - self._first[0], progress.tokens - self._first[1]
        if progress.done or not tokens or seconds < 1:  # all tokens over all the time
            seconds, tokens = now - self._started, progress.tokens
        rate = f"{show_seconds(now - self._started)}, {show_count(int(tokens / max(seconds, 1e-3)))} tokens/s"
        rest = "" if progress.done else self._rest(progress, now)
        return f"  {title}: {counts(progress)}, {rate}{rest}"

    def _rest(self, progress: Progress, now: float) -> str:
        """What is still to come, in proportion to the bytes that are left; nothing before a second has passed."""
        assert self._first is not None
        since, read = now - self._first[0], progress.bytes - self._first[2]
        if since < 1 or read <= 0 or not progress.total_bytes:
            return ""
        bytes_to_read = max(0, progress.total_bytes - progress.bytes)
        documents, tokens = (
            int(so_far * progress.total_bytes / progress.bytes) for so_far in (progress.documents, progress.tokens)
        )
        return (
            f"; of about {show_count(documents)} documents, {show_count(tokens)} tokens, "
            f"{show_seconds(round(since * bytes_to_read / read))} left"
        )


def counts(progress: Progress) -> str:
    """What of a text is prepared so far: documents, tokens, and the bytes that are read."""
    return f"{show_exact(progress.documents)} documents, {show_count(progress.tokens)} tokens" + _bytes_read(progress)


def _bytes_read(progress: Progress) -> str:
    if progress.done:
        return ""
    if not progress.total_bytes:
        return f", {show_bytes(progress.bytes)} read" if progress.bytes else ""
    share = progress.bytes / progress.total_bytes
    return f", {show_bytes(progress.bytes)} of {show_bytes(progress.total_bytes)} ({share:.0%}) read"
