"""From a checkpoint to its scores: exports it, has lm-evaluation-harness measure it, and keeps what it found.

The harness is an extra. Nothing here runs while something is trained, and what fails here stops no training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from curriculum import fs
from curriculum.artifacts import benchmarks, jobs
from curriculum.artifacts.job_process import StopFlag
from curriculum.artifacts.stage_folder import StageFolder, checkpoint_name, new_attempt
from curriculum.compiler.compile import Compiled
from curriculum.config.project import Project
from curriculum.errors import NotFound
from curriculum.execution import export as execution_export
from curriculum.execution import lm_eval
from curriculum.execution.attempts import run_job
from curriculum.execution.fill import FillResult, fill_gaps
from curriculum.execution.request import RunRequest
from curriculum.runs import folders as runs_folders
from curriculum.runs.measurements import Gap, due_benchmarks

TASKS = "tasks"
"""The folder of a project that holds task files of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkRequest:
    """What is to be measured and how; None leaves it to the task."""

    tasks: tuple[str, ...]
    tasks_from: Path | None = None
    num_fewshot: int | None = None
    limit: int | None = None
    batch_size: int = 8
    confirm_run_unsafe_code: bool = False
    again: bool = False


def outputs(
    folder: StageFolder, found: execution_export.ExportSource, asked: BenchmarkRequest
) -> dict[str, Path]:
    """Each task's record at a checkpoint, whether it is there or not."""
    name = checkpoint_name(int(found.state["generation"]), found.position)
    return {
        task: benchmarks.path_of(folder, name, task, asked.num_fewshot, asked.limit) for task in asked.tasks
    }


def measure(
    request: RunRequest, found: execution_export.ExportSource, asked: BenchmarkRequest, stop: StopFlag
) -> bool:
    """Measure what is not measured yet at a checkpoint, or all of it `again`; false when it was asked to stop.

    The exported directory lives as long as the measuring. RunFailed with the harness's reason when it refuses.
    """
    folders = _folders(request.project, asked)
    stage_folder = runs_folders.stage_folder(request.project, found.compiled, found.compiled.stages[-1])
    wanted = outputs(stage_folder, found, asked)
    if not asked.again:
        wanted = {task: path for task, path in wanted.items() if not path.exists()}
    if not wanted:
        return True
    lm_eval.check_installed()
    attempt = new_attempt(stage_folder.attempts)
    model = attempt.path / "model"
    fresh = {task: attempt.path / "records" / path.name for task, path in wanted.items()}
    export = execution_export.export_job(request.project, found, model, "source")
    where = str(found.address)
    try:
        if not run_job(request, export, f"the export of {where}", None, stop):
            return False
        job = jobs.HarnessJob(
            attempt_folder=str(attempt),
            model=str(model),
            # Again: written aside, so that a failure leaves what was known.
            outputs={task: str(fresh[task] if asked.again else path) for task, path in wanted.items()},
            identity={
                "address": where,
                "size": found.compiled.size_name,
                "generation": int(found.state["generation"]),
                "position": found.position,
                "step": int(found.state["step"]),
                "history": str(found.state["history"]),
                "dtype": export.dtype,
            },
            folders=tuple(map(str, folders)),
            num_fewshot=asked.num_fewshot,
            limit=asked.limit,
            batch_size=asked.batch_size,
            device=request.machine_entry.device,
            confirm_run_unsafe_code=asked.confirm_run_unsafe_code,
        )
        done = run_job(request, job, f"{', '.join(wanted)} at {where}", None, stop)
        if asked.again:
            for task, path in wanted.items():
                if fresh[task].exists():
                    fs.make_directory(path.parent)
                    fs.write_bytes(path, fresh[task].read_bytes(), replace=True)
        return done
    finally:
        if model.is_dir():
            fs.remove_tree(model)


def _folders(project: Project, asked: BenchmarkRequest) -> list[Path]:
    folders = [project.root / TASKS] if (project.root / TASKS).is_dir() else []
    if asked.tasks_from is not None:
        if not asked.tasks_from.is_dir():
            raise NotFound(
                f"`{asked.tasks_from}` is not a directory",
                hint="`--tasks-from` names a folder of the harness's task files",
            )
        folders.append(asked.tasks_from.resolve())
    return folders


# --- the cadence of `every: {tasks: …}` ---------------------------------------------------------------------


def catch_up(
    request: RunRequest,
    compiled: Compiled,
    stop: StopFlag,
    asked: BenchmarkRequest | None = None,
    only: str | None = None,
) -> FillResult:
    """Measure all that is due, checkpoint by checkpoint."""
    gaps = due_benchmarks(request.project, compiled, only)
    if gaps and not lm_eval.installed():
        tasks = ", ".join(dict.fromkeys(task for gap in gaps for task in gap.names))
        return FillResult(False, 0, (f"{tasks} at {len(gaps)} checkpoints: {lm_eval.NOT_INSTALLED}",))

    def measure_gap(gap: Gap) -> bool:
        source = execution_export.find(request.project, gap.address, compiled.size_name)
        return measure(request, source, replace(asked or BenchmarkRequest(tasks=()), tasks=gap.names), stop)

    return fill_gaps(gaps, measure_gap, separately=True)


def names_of(words: Sequence[str]) -> tuple[str, ...]:
    """Task names as given on a command line: several options, each with one or several divided by commas."""
    return tuple(dict.fromkeys(name for word in words for part in word.split(",") if (name := part.strip())))
