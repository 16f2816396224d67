"""`status NAME --follow`: live metrics of the running stage of a lineage, from any terminal, only by reading files."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.text import Text

from curriculum.artifacts import checkpoints
from curriculum.artifacts.anomalies import count_by_kind, read_anomalies
from curriculum.artifacts.metrics import LiveMetrics, stage_activity
from curriculum.artifacts.stage_folder import Attempt, StageFolder
from curriculum.cli.view.anomalies import anomaly_counts, anomaly_line
from curriculum.cli.view.training import training_panel, training_plain
from curriculum.compiler.compile import CompiledStage
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.project import Project
from curriculum.fs import standard_streams
from curriculum.launchers import slurm_record
from curriculum.runs import folders
from curriculum.units import show_exact

POLL_SECONDS = 0.5
LINE_SECONDS = 5.0
QUEUE_SECONDS = 10.0  # between two requests to a cluster's queue, which others query too


@dataclass(slots=True)
class _Watched:
    stage: CompiledStage
    folder: StageFolder
    training: LiveMetrics
    anomalies: int
    attempt: Attempt | None = None


class Watch:
    """A follower. `poll` reads the files once and shows them; `follow` polls until the lineage is done."""

    def __init__(self, project: Project, name: str, size: str, console: Console, called: str | None = None) -> None:
        """Of the curriculum `name`, which is shown as `called`: an arm has the name of its study."""
        self.name, self.console = called or name, console
        self._options = project.options(size)
        self.compiled = PreparedText.open(project, name, size).compiled
        self.folders = [(stage, folders.stage_folder(project, self.compiled, stage)) for stage in self.compiled.stages]
        self._watched: _Watched | None = None
        self._live: Live | None = None
        self._last_line = ""
        self._printed = 0.0
        self._queried = -QUEUE_SECONDS
        self._submissions: dict[StageFolder, slurm_record.SubmissionStatus] = {}

    def follow(self) -> None:
        """Return once every stage is done; an interrupt changes nothing."""
        if self.console.is_terminal:
            with Live(Text(""), console=self.console, refresh_per_second=4, transient=True) as self._live:
                self._until_done()
        else:
            self._until_done()

    def _until_done(self) -> None:
        while self.poll() and standard_streams.failure(sys.stdout) is None:  # without a reader it would run for ever
            time.sleep(POLL_SECONDS)

    def poll(self) -> bool:
        """Show the present state; false once the lineage is done."""
        running = self._running()
        before = self._watched
        if before is not None and (running is None or running[1] != before.folder):
            self._ended(before)
        if running is None:  # between two stages no process holds one, for an instant
            return before is not None or self._show_waiting()
        stage, folder = running
        if self._watched is None:
            self._watched = _Watched(stage, folder, LiveMetrics(folder), len(read_anomalies(folder, stage.stop)))
        watched = self._watched
        watched.training.update()
        now = stage_activity(folder)
        if watched.attempt != now.attempt:
            again = "" if watched.attempt is None else " after another launch"
            watched.attempt = now.attempt
            number = watched.attempt.number if watched.attempt else 0
            self._print_once(f"{stage.name} runs{again}, attempt {number}")
        anomalies = read_anomalies(folder, stage.stop)
        for anomaly in anomalies[watched.anomalies :]:
            self._print_once(f"{stage.name}: {anomaly_line(anomaly)}")
        watched.anomalies = len(anomalies)
        if self._live is not None:
            self._live.update(training_panel(watched.training, now, stage))
        elif time.monotonic() - self._printed >= LINE_SECONDS:
            self._printed = time.monotonic()
            self._print_once(training_plain(watched.training, now, stage))
        return True

    def _running(self) -> tuple[CompiledStage, StageFolder] | None:
        if time.monotonic() - self._queried >= QUEUE_SECONDS:
            self._queried = time.monotonic()
            submissions = (
                (f, slurm_record.status_of(f.path)) for stage, f in self.folders if not folders.is_reached(f, stage)
            )
            self._submissions = {f: submission for f, submission in submissions if submission is not None}
        return next(((stage, f) for stage, f in reversed(self.folders) if self._runs(stage, f)), None)

    def _runs(self, stage: CompiledStage, folder: StageFolder) -> bool:
        submission = self._submissions.get(folder)
        in_queue = submission is not None and submission.state == slurm_record.RUNNING
        return folder.holder() is not None or (in_queue and not folders.is_reached(folder, stage))

    def _show_waiting(self) -> bool:
        waiting = next(((s, f) for s, f in self.folders if not folders.is_reached(f, s)), None)
        if waiting is None:
            self._print_once(f"{self.name} is done, at {show_exact(self.compiled.stop)} tokens")
            return False
        stage, folder = waiting
        saved = checkpoints.latest(folder)
        at = saved.position if saved else stage.plan.start
        submission = self._submissions.get(folder)
        self._print_once(
            f"{stage.name} is at {show_exact(at)} of {show_exact(stage.stop)} tokens: {submission.message}"
            if submission is not None
            else f"{self.name} is not running: {stage.name} is at {show_exact(at)} of "
            f"{show_exact(stage.stop)} tokens; `curriculum run {self.name}{self._options}` resumes it; waiting"
        )
        if self._live is not None:
            self._live.update(Text("waiting; Ctrl-C leaves", style="dim"))
        return True

    def _ended(self, watched: _Watched) -> None:
        """Print the last line of the stage."""
        watched.training.update()
        stage = watched.stage
        if watched.training.position is not None:
            self._print_once(training_plain(watched.training, stage_activity(watched.folder), stage))
        if anomalies := read_anomalies(watched.folder, stage.stop):
            counts = anomaly_counts(count_by_kind(anomalies))
            self._print_once(f"{stage.name}: {counts}; `curriculum status` names them")
        reached = folders.is_reached(watched.folder, stage)
        end = f"is done, at {show_exact(stage.stop)} tokens" if reached else "has stopped"
        self._print_once(f"{stage.name} {end}")
        self._watched = None

    def _print_once(self, line: str) -> None:
        """Print a line that stays, unless it repeats the last one."""
        if line != self._last_line:
            self._last_line = line
            self.console.print(Text(line), soft_wrap=not self.console.is_terminal)
            self.console.file.flush()
