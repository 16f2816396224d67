"""The Slurm jobs that measure the tasks of a cadence: a small job after each stage that asks for some.

It takes one process of one node, so it waits for no resources of a training, and runs while later stages train.
`python -m curriculum.execution.slurm.benchmark FOLDER` is the main of that job: a score is never measured twice, so
the job may be cancelled, queued again or submitted again at any time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curriculum import fs
from curriculum.artifacts import jobs
from curriculum.artifacts.job_process import stop_on_signals
from curriculum.artifacts.stage_folder import Attempt
from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.project import Project
from curriculum.execution import benchmark, lm_eval
from curriculum.execution.request import Listener, RunRequest
from curriculum.execution.slurm.submission import SCRIPT, QueuedJob, Submission, expected_job, finish
from curriculum.fs import standard_streams
from curriculum.launchers import slurm, slurm_record
from curriculum.runs.folders import stage_folder
from curriculum.runs.measurements import due_benchmarks

REQUEST = "asked.json"


def submit(
    request: RunRequest, compiled: Compiled, training: tuple[QueuedJob, ...]
) -> tuple[tuple[QueuedJob, ...], list[str]]:
    """Queue the benchmarks of every stage that asks for tasks, after its training job where one is queued.

    All such jobs that wait or run, and a line for the tasks that cannot be measured here.
    """
    trainings = {job.label: job for job in training}
    submissions = list(_due(request, compiled, trainings))
    if submissions and not lm_eval.installed():
        stages = ", ".join(submission.stage.name for submission in submissions)
        return (), [f"the tasks of {stages}: {lm_eval.NOT_INSTALLED}"]
    return tuple(submission.submit() for submission in submissions), []


def outline(request: RunRequest, compiled: Compiled, trained: set[str]) -> Iterator[str]:
    """What `submit` would write and submit while the stages in `trained` are done, as lines."""
    trainings = {}
    for stage in compiled.stages:
        if stage.name not in trained:
            folder = stage_folder(request.project, compiled, stage).path
            trainings[stage.name] = QueuedJob(stage.name, expected_job(folder, stage.name), "", fresh=False)
    for submission in _due(request, compiled, trainings):
        if lm_eval.installed() or slurm_record.live_job(submission.folder):
            yield from submission.outline("as one batch job of one process")
        else:
            yield f"{submission.label}: not measured: {lm_eval.NOT_INSTALLED}"


def _due(request: RunRequest, compiled: Compiled, trainings: Mapping[str, QueuedJob]) -> Iterator[BenchmarkSubmission]:
    """The stages that ask for tasks and are in training, or have tasks that are not measured."""
    for stage in compiled.stages:
        training = trainings.get(stage.name)
        if stage.task_every and (training or due_benchmarks(request.project, compiled, stage.name)):
            after = training.job if training else None
            yield BenchmarkSubmission(request=request, after=after, compiled=compiled, stage=stage, training=training)


def label(stage: str) -> str:
    return f"{stage}, its tasks"


@dataclass(frozen=True, kw_only=True)
class BenchmarkSubmission(Submission):
    """`training` is the queued job that trains the stage, if there is one."""

    compiled: Compiled
    stage: CompiledStage
    training: QueuedJob | None

    @property
    def label(self) -> str:
        return label(self.stage.name)

    @property
    def folder(self) -> Path:
        return stage_folder(self.request.project, self.compiled, self.stage).measuring

    def serves(self, status: slurm_record.SubmissionStatus) -> bool:
        """False for a job that waits for an earlier training job, which is cancelled."""
        if status.state != slurm_record.QUEUED or self.training is None or not self.training.fresh:
            return True
        slurm.cancel(status.record.job)
        return False

    def files(self, attempt: Attempt) -> list[Path]:
        return [attempt.path / REQUEST]

    def write(self, attempt: Attempt) -> None:
        request = self.request
        values = {
            "project": str(request.project.root),
            "curriculum": request.curriculum,
            "size": request.size,
            "machine": request.machine,
            "stage": self.stage.name,
        }
        fs.write_json(attempt.path / REQUEST, values)

    def batch_jobs(self, attempt: Attempt) -> Mapping[str, slurm.BatchJob]:
        entry = self.request.machine_entry
        batch_job = slurm.BatchJob(
            name=f"curriculum:{self.stage.name}:tasks",
            command=(sys.executable, "-m", "curriculum.execution.slurm.benchmark", str(attempt)),
            log=attempt.path / "%j.log",
            gpus_per_node=min(1, entry.gpus_per_node),
            threads=entry.threads,
        )
        return {SCRIPT: batch_job}


class _Log(Listener):
    """Prints jobs to the log of the batch job."""

    def job_started(self, title: str, progress: Path | None) -> None:
        print(f"started: {title}", flush=True)

    def job_done(self, title: str) -> None:
        print(f"done: {title}", flush=True)


def main() -> int:
    """The exit code: see `finish`."""
    submission = Attempt(Path(sys.argv[1]))
    return finish(submission, lambda: _measure(submission))


def _measure(submission: Attempt) -> dict[str, Any]:
    values = fs.parse_json(fs.read_bytes(submission.path / REQUEST))
    project, stage = Project(Path(values.pop("project"))), values.pop("stage")
    request = RunRequest(project=project, listener=_Log(), **values)
    compiled = PreparedText.open(project, request.curriculum, request.size).compiled
    with stop_on_signals() as stop:
        result = benchmark.catch_up(request, compiled, stop, only=stage)
    if result.stopped:
        return {"outcome": jobs.STOPPED}
    for line in result.unmeasured:
        print(f"not measured: {line}", flush=True)
    if result.unmeasured:
        return {"outcome": jobs.FAILED, "message": "; ".join(result.unmeasured)}
    return {"outcome": jobs.DONE}


if __name__ == "__main__":
    standard_streams.protect()
    sys.exit(main())
