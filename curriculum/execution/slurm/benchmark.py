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
from typing import Any, ClassVar

from curriculum import fs
from curriculum.artifacts import jobs
from curriculum.artifacts.job_process import stop_on_signals
from curriculum.artifacts.stage_folder import Attempt
from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.project import Project
from curriculum.execution import benchmark, lm_eval
from curriculum.execution.request import Listener, RunRequest
from curriculum.execution.slurm.submission import SCRIPT, QueuedJob, Submission, finish
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
    stages = [
        stage for stage in compiled.stages if _is_due(request, compiled, stage, stage.name in trainings)
    ]
    if stages and not lm_eval.installed():
        return (), [f"the tasks of {', '.join(stage.name for stage in stages)}: {lm_eval.NOT_INSTALLED}"]
    return tuple(
        BenchmarkSubmission.of(request, compiled, stage, trainings.get(stage.name)).submit()
        for stage in stages
    ), []


def outline(request: RunRequest, compiled: Compiled, trained: set[str]) -> Iterator[str]:
    """What `submit` would write and submit while the stages in `trained` are done, as lines."""
    for stage in compiled.stages:
        in_training = stage.name not in trained
        if not _is_due(request, compiled, stage, in_training):
            continue
        folder = stage_folder(request.project, compiled, stage)
        status = slurm_record.status_of(folder.measuring)
        if status is not None and status.live:
            yield f"{label(stage.name)}: {status.message}"
            continue
        if not lm_eval.installed():
            yield f"{label(stage.name)}: not measured: {lm_eval.NOT_INSTALLED}"
            continue
        training = None
        if in_training:
            status = slurm_record.status_of(folder.path)
            job = status.record.job if status is not None and status.live else f"JOB-OF-{stage.name}"
            training = QueuedJob(stage.name, job, "", fresh=False)
        yield f"{label(stage.name)}: as one batch job of one process"
        yield from BenchmarkSubmission.of(request, compiled, stage, training).outline()


def _is_due(request: RunRequest, compiled: Compiled, stage: CompiledStage, in_training: bool) -> bool:
    """Whether the stage asks for tasks that are not all measured."""
    return bool(stage.task_every) and (
        in_training or bool(due_benchmarks(request.project, compiled, stage.name))
    )


def label(stage: str) -> str:
    return f"{stage}, its tasks"


@dataclass(frozen=True, kw_only=True)
class BenchmarkSubmission(Submission):
    """`training` is the queued job that trains the stage, if there is one."""

    stage: CompiledStage
    training: QueuedJob | None
    files: ClassVar[tuple[str, ...]] = (REQUEST,)

    @classmethod
    def of(
        cls, request: RunRequest, compiled: Compiled, stage: CompiledStage, training: QueuedJob | None
    ) -> BenchmarkSubmission:
        return cls(
            request=request,
            folder=stage_folder(request.project, compiled, stage).measuring,
            label=label(stage.name),
            after=training.job if training else None,
            stage=stage,
            training=training,
        )

    def serves(self, status: slurm_record.SubmissionStatus) -> bool:
        """False for a job that waits for an earlier training job, which is cancelled."""
        if status.state != slurm_record.QUEUED or self.training is None or not self.training.fresh:
            return True
        slurm.cancel(status.record.job)
        return False

    def write(self, attempt: Attempt) -> None:
        request = self.request
        fs.write_json(
            attempt.path / REQUEST,
            {
                "project": str(request.project.root),
                "curriculum": request.curriculum,
                "size": request.size,
                "machine": request.machine,
                "stage": self.stage.name,
            },
        )

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
    request = RunRequest(
        project=Project(Path(values["project"])),
        curriculum=values["curriculum"],
        size=values["size"],
        machine=values["machine"],
        listener=_Log(),
    )
    compiled = PreparedText.open(request.project, request.curriculum, request.size).compiled
    with stop_on_signals() as stop:
        result = benchmark.catch_up(request, compiled, stop, only=values["stage"])
    if result.stopped:
        return {"outcome": jobs.STOPPED}
    for line in result.unmeasured:
        print(f"not measured: {line}", flush=True)
    if result.unmeasured:
        return {"outcome": jobs.FAILED, "message": "; ".join(result.unmeasured)}
    return {"outcome": jobs.DONE}


if __name__ == "__main__":
    sys.exit(main())
