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
from curriculum.errors import CurriculumError, NotFound
from curriculum.execution import export as execution_export
from curriculum.execution import lm_eval
from curriculum.execution.attempts import run_job
from curriculum.execution.request import RunRequest
from curriculum.runs import folders as runs_folders
from curriculum.runs.benchmarks_due import address_of, due

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


@dataclass(frozen=True, slots=True)
class CatchUpResult:
    """How the catching up ended; `left` says, a line each, what stays unmeasured and why."""

    stopped: bool
    measured: int
    left: tuple[str, ...]


def catch_up(
    request: RunRequest,
    compiled: Compiled,
    stop: StopFlag,
    asked: BenchmarkRequest | None = None,
    only: str | None = None,
) -> CatchUpResult:
    """Measure all that is due, checkpoint by checkpoint. What fails is told and left for the next time."""
    waiting = due(request.project, compiled, only)
    if waiting and not lm_eval.installed():
        tasks = ", ".join(dict.fromkeys(task for one in waiting for task in one.tasks))
        return CatchUpResult(False, 0, (f"{tasks} at {len(waiting)} checkpoints: {lm_eval.NOT_INSTALLED}",))
    left: list[str] = []
    measured = 0
    failed: set[str] = set()
    for one in waiting:
        together = tuple(task for task in one.tasks if task not in failed)
        groups = [together]
        while groups:
            wanted = groups.pop(0)
            if not wanted:
                continue
            try:
                found = execution_export.find(request.project, address_of(compiled, one), compiled.size_name)
                if not measure(
                    request, found, replace(asked or BenchmarkRequest(tasks=()), tasks=wanted), stop
                ):
                    return CatchUpResult(True, measured, tuple(left))
                measured += len(wanted)
            except CurriculumError as error:
                if len(wanted) > 1:  # each alone, so that one takes no other with it
                    groups += [(task,) for task in wanted]
                    continue
                failed.update(wanted)  # not tried at every checkpoint again
                why = error.what + (f"; {error.hint}" if error.hint else "")
                left.append(f"{wanted[0]}, from {one.position:,} tokens on: {why}")
    return CatchUpResult(False, measured, tuple(left))


def names_of(words: Sequence[str]) -> tuple[str, ...]:
    """Task names as given on a command line: several options, each with one or several divided by commas."""
    return tuple(dict.fromkeys(name for word in words for part in word.split(",") if (name := part.strip())))
