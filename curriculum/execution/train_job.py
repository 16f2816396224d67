"""What a launch needs of a stage that is to be trained: its plan and its parent on disk, and the job's words."""

from __future__ import annotations

from pathlib import Path

from curriculum import fs
from curriculum.artifacts import checkpoints, jobs
from curriculum.artifacts.stage_folder import Attempt
from curriculum.compiler import imported_models, prepared_text
from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.compiler.kept_positions import kept_positions
from curriculum.execution.request import RunRequest, job_machine
from curriculum.runs.folders import checkpoint_at, stage_folder


def ready(request: RunRequest, compiled: Compiled, stage: CompiledStage) -> Path | None:
    """Write the stage's plan, keep the checkpoint it leaves its parent at; where that checkpoint lies or will lie.

    None for a root that begins with drawn weights.
    """
    project = request.project
    folder = stage_folder(project, compiled, stage)
    fs.make_directory(folder.path)
    if folder.plan.exists():
        fs.make_durable(folder.plan)
    else:
        stage.plan.save(folder.plan)
    if stage.parent is None:
        if stage.plan.parent is None:
            return None
        return imported_models.checkpoint(project, stage.plan.parent.fingerprint)
    parent = stage_folder(project, compiled, stage.parent)
    if stage.parent.stop < stage.parent.plan.end:
        fs.make_directory(parent.path)
        with checkpoints.pinning(parent):  # `folder` is there: who would release the pin sees that
            checkpoints.pin(parent, stage.parent.stop, stage.setting.curriculum)
    there = checkpoint_at(parent, stage.parent.stop)
    return there.path if there else parent.checkpoint(0, stage.parent.stop)


def train_job(
    request: RunRequest,
    compiled: Compiled,
    stage: CompiledStage,
    texts: prepared_text.PreparedText,
    *,
    attempt: Attempt,
    parent_checkpoint: Path | None,
    threads: int | None,
) -> jobs.TrainJob:
    """The job that trains `stage` as far as this lineage goes through it."""
    project = request.project
    folder = stage_folder(project, compiled, stage)
    return jobs.TrainJob(
        plan=str(folder.plan),
        stage_folder=str(folder),
        attempt_folder=str(attempt),
        data={name: str(texts.folder(source.dataset)) for name, source in stage.plan.sources.items()},
        held_out={
            name: jobs.HeldOut(folder=str(texts.folder(choice.dataset)), windows=texts.held_out_windows)
            for name, choice in compiled.sources.items()
        },
        parent_checkpoint=str(parent_checkpoint) if parent_checkpoint else None,
        generation=0,
        checkpoint_every=stage.checkpoint_every,
        evaluate_every=stage.evaluate_every,
        keep=kept_positions(project, stage, compiled.scale),
        machine=job_machine(request.machine_entry, threads, request.profile),
        stop_at=stage.stop if stage.stop < stage.plan.end else None,
        accept_environment=request.accept_environment or request.machine_entry.environment == "any",
        lineage=tuple(s.name for s in compiled.stages[: compiled.stages.index(stage) + 1]),
    )
