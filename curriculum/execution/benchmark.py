"""Scores of a checkpoint: exported, measured by lm-evaluation-harness, and recorded; and those due by a cadence.

The harness is an extra. Nothing here runs while something is trained, and no failure here stops training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from curriculum import fs
from curriculum.artifacts import benchmarks, jobs
from curriculum.artifacts.job_process import StopFlag
from curriculum.artifacts.stage_folder import checkpoint_name, new_attempt
from curriculum.compiler.compile import Compiled
from curriculum.config.project import Project
from curriculum.errors import NotFound
from curriculum.execution import lm_eval
from curriculum.execution.attempts import run_job
from curriculum.execution.export import ExportSource, export_job, find
from curriculum.execution.fill import FillResult, fill_gaps
from curriculum.execution.request import RunRequest
from curriculum.runs import folders
from curriculum.runs.measurements import Gap, due_benchmarks

TASKS = "tasks"
"""The folder of a project that holds task files of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkRequest:
    """The tasks to measure and how; None leaves it to the task."""

    tasks: tuple[str, ...]
    tasks_from: Path | None = None
    num_fewshot: int | None = None
    limit: int | None = None
    batch_size: int = 8
    confirm_run_unsafe_code: bool = False
    again: bool = False


def measure(request: RunRequest, source: ExportSource, benchmark: BenchmarkRequest, stop: StopFlag) -> bool:
    """Measure what is not measured yet at a checkpoint, or all of it `again`; false when it was stopped.

    The exported directory is removed at the end. RunFailed with the harness's reason when it refuses.
    """
    own_tasks = task_folders(request.project, benchmark.tasks_from)
    stage_folder = folders.stage_folder(request.project, source.compiled, source.compiled.stages[-1])
    name = checkpoint_name(int(source.state["generation"]), source.position)
    records = {
        task: benchmarks.path_of(stage_folder, name, task, benchmark.num_fewshot, benchmark.limit)
        for task in benchmark.tasks
    }
    if not benchmark.again:
        records = {task: path for task, path in records.items() if not path.exists()}
    if not records:
        return True
    lm_eval.check_installed()
    attempt = new_attempt(stage_folder.attempts)
    model = attempt.path / "model"
    # Measured again: written to the attempt first, so that a failure leaves the earlier scores.
    folder = attempt.path / "records" if benchmark.again else stage_folder.benchmarks / name
    targets = {task: folder / path.name for task, path in records.items()}
    export = export_job(request.project, source, model, "source")
    address = str(source.address)
    try:
        if not run_job(request, export, f"the export of {address}", stop):
            return False
        job = jobs.HarnessJob(
            attempt_folder=str(attempt),
            model=str(model),
            outputs={task: str(path) for task, path in targets.items()},
            identity={
                "address": address,
                "size": source.compiled.size_name,
                "generation": int(source.state["generation"]),
                "position": source.position,
                "step": int(source.state["step"]),
                "history": str(source.state["history"]),
                "dtype": export.dtype,
            },
            folders=tuple(map(str, own_tasks)),
            num_fewshot=benchmark.num_fewshot,
            limit=benchmark.limit,
            batch_size=benchmark.batch_size,
            device=request.machine_entry.device,
            confirm_run_unsafe_code=benchmark.confirm_run_unsafe_code,
        )
        done = run_job(request, job, f"{', '.join(records)} at {address}", stop)
        for task, path in records.items():
            if targets[task] != path and targets[task].exists():
                fs.make_directory(path.parent)
                fs.write_bytes(path, targets[task].read_bytes(), replace=True)
        return done
    finally:
        if model.is_dir():
            fs.remove_tree(model)


def task_folders(project: Project, tasks_from: Path | None) -> list[Path]:
    """Folders of task files besides the harness's own: the project's, then the one that the command names."""
    directories = [project.root / TASKS] if (project.root / TASKS).is_dir() else []
    if tasks_from is not None:
        if not tasks_from.is_dir():
            raise NotFound(
                f"`{tasks_from}` is not a directory", hint="`--tasks-from` names a folder of the harness's task files"
            )
        directories.append(tasks_from.resolve())
    return directories


# --- the cadence of `every: {tasks: …}` ---------------------------------------------------------------------


def catch_up(
    request: RunRequest,
    compiled: Compiled,
    stop: StopFlag,
    benchmark: BenchmarkRequest | None = None,
    only: str | None = None,
) -> FillResult:
    """Measure all that is due, or due at the stage `only`, checkpoint by checkpoint."""
    gaps = due_benchmarks(request.project, compiled, only)
    if gaps and not lm_eval.installed():
        tasks = ", ".join(dict.fromkeys(task for gap in gaps for task in gap.names))
        return FillResult(False, 0, (f"{tasks} at {len(gaps)} checkpoints: {lm_eval.NOT_INSTALLED}",))

    def measure_gap(gap: Gap) -> bool:
        source = find(request.project, gap.address, compiled.size_name)
        return measure(request, source, replace(benchmark or BenchmarkRequest(tasks=()), tasks=gap.names), stop)

    return fill_gaps(gaps, measure_gap, separately=True)


def names_of(options: Sequence[str]) -> tuple[str, ...]:
    """Task names of a command line: several options, each with one name or several divided by commas."""
    names = (name.strip() for option in options for name in option.split(","))
    return tuple(dict.fromkeys(filter(None, names)))
