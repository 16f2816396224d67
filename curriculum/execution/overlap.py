"""The items of a benchmark task, for a comparison with the text that is trained on; a job of its own reads them."""

from __future__ import annotations

from pathlib import Path

from curriculum import fs
from curriculum.artifacts import jobs
from curriculum.artifacts.job_process import StopFlag
from curriculum.artifacts.stage_folder import new_attempt
from curriculum.execution import lm_eval
from curriculum.execution.attempts import run_job
from curriculum.execution.benchmark import task_folders
from curriculum.execution.request import RunRequest


def task_items(request: RunRequest, task: str, tasks_from: Path | None, stop: StopFlag) -> Path | None:
    """A file with the items of `task`, a task or group of lm-evaluation-harness or of the project's own files.

    Each line is `{"id", "texts"}`, as an evaluation reads them. None when it was stopped; RunFailed with the harness's
    reason where there is no such task or its data is not available.
    """
    lm_eval.check_installed()
    folders = task_folders(request.project, tasks_from)
    path = request.project.data / "ngrams" / "items" / f"{fs.digest(task)[:24]}.jsonl"
    job = jobs.TaskItemsJob(
        attempt_folder=str(new_attempt(request.project.data / "attempts")),
        task=task,
        output=str(path),
        folders=tuple(map(str, folders)),
    )
    return path if run_job(request, job, f"the items of {task}", stop) else None
