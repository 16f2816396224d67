"""The training job of a stage, and the files that it starts from: its plan and its parent checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from curriculum import fs
from curriculum.artifacts import evaluations, jobs
from curriculum.compiler import imported_models, prepared_text
from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.compiler.kept_positions import kept_positions
from curriculum.compiler.memory import chosen_micro_batch
from curriculum.config.project import Project
from curriculum.data.manifest import HELD_OUT
from curriculum.errors import CheckpointError
from curriculum.execution import trainers
from curriculum.execution.machine import job_machine
from curriculum.execution.request import RunRequest
from curriculum.execution.restore import pin_parent
from curriculum.launchers import slurm_record
from curriculum.runs.folders import branch_point, checkpoint_at, stage_folder


def ready(request: RunRequest, compiled: Compiled, stage: CompiledStage) -> Path | None:
    """Write the stage's plan and pin the checkpoint that it starts from; the path of that checkpoint, saved or not.

    None for a root that starts from random weights.
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
    pin_parent(project, compiled, stage)
    checkpoint = checkpoint_at(parent, stage.parent.stop)
    return checkpoint.path if checkpoint else parent.checkpoint(0, stage.parent.stop)


def member_checkpoints(project: Project, compiled: Compiled, stage: CompiledStage) -> list[Path]:
    """The checkpoints that an average is of, in its order; those of its own lineage, or of a job in Slurm's queue, may
    be still to be saved.

    CheckpointError for another that is not trained yet or was pruned, or of another trainer without
    `layout: hf`; DataError for one whose model is not the plan's.
    """
    paths = []
    own = {(before.name, before.stop) for before in compiled.stages}
    for member in stage.members:
        checkpoint = branch_point(project, member.compiled, member.stage)
        folder = stage_folder(project, member.compiled, member.stage)
        awaited = (member.stage.name, member.stage.stop) in own or slurm_record.live_job(folder.path) is not None
        if checkpoint is None and awaited:
            paths.append(folder.checkpoint(0, member.stage.stop))
            continue
        if checkpoint is None:
            options = project.options(member.compiled.size_name)
            raise CheckpointError(
                f"`{stage.name}` averages `{member.stage.name}` at {member.stage.stop:,} tokens, not trained yet",
                hint=f"train it first: `curriculum run {member.compiled.curriculum}{options}`",
            )
        trainers.require_our_model(checkpoint.path, f"the average `{stage.name}`")
        paths.append(checkpoint.path)
    return paths


def train_job(
    request: RunRequest,
    compiled: Compiled,
    stage: CompiledStage,
    texts: prepared_text.PreparedText,
    parent_checkpoint: Path | None,
) -> jobs.TrainJob:
    """The job that trains `stage` to where this lineage leaves it; each launch adds its attempt and its threads."""
    project = request.project
    folder = stage_folder(project, compiled, stage)
    machine = job_machine(request.machine_entry, None, request.profile)
    entry = request.machine_entry
    micro_batch = None if entry.trainer else chosen_micro_batch(stage.plan, entry, request.processes)
    return jobs.TrainJob(
        plan=str(folder.plan),
        stage_folder=str(folder),
        attempt_folder="",
        data={name: str(texts.folder(source.dataset)) for name, source in stage.plan.sources.items()},
        held_out={
            name: jobs.HeldOut(folder=str(texts.folder(choice.dataset)), windows=stage.held_out_windows)
            for name, choice in compiled.sources.items()
        },
        parent_checkpoint=str(parent_checkpoint) if parent_checkpoint else None,
        averages=tuple(map(str, member_checkpoints(project, compiled, stage))),
        generation=0,
        checkpoint_every=stage.checkpoint_every,
        evaluate_every=stage.evaluate_every,
        keep=kept_positions(project, stage, compiled.scale),
        machine=replace(machine, micro_batch=micro_batch or machine.micro_batch),
        stop_at=stage.stop if stage.stop < stage.plan.end else None,
        accept_environment=request.accept_environment or request.machine_entry.environment == "any",
        trainer=trainers.of(request),
        lineage=tuple(s.name for s in compiled.stages[: compiled.stages.index(stage) + 1]),
    )


def is_ended_arm(request: RunRequest, compiled: Compiled) -> bool:
    """Whether the request is of an arm of a study that ended: nothing of it is trained again, also without weights."""
    return request.arm is not None and stage_folder(request.project, compiled, compiled.stages[-1]).done.exists()


def _evaluated_by(stage: CompiledStage) -> tuple[object, ...]:
    """What decides how the losses of given weights are computed."""
    return stage.plan.sequence_length, stage.plan.mask_documents, stage.plan.model


def carry_losses(
    request: RunRequest, compiled: Compiled, stage: CompiledStage, texts: prepared_text.PreparedText
) -> None:
    """Record, where a stage starts, what its parent measured there: the weights are the same, and are measured once.

    Only what was measured on the windows that this stage measures; the trainer measures the others.
    """
    folder = stage_folder(request.project, compiled, stage)
    parent = stage.parent
    if parent is None or stage.members or folder.evaluation_files() or _evaluated_by(parent) != _evaluated_by(stage):
        return
    measured = evaluations.read_evaluations(stage_folder(request.project, compiled, parent)).get(parent.stop, {})
    carried = {}
    for name, choice in compiled.sources.items():
        manifest, entry = texts.manifest(choice.dataset), measured.get(name)
        if manifest is None or entry is None or entry["digest"] != manifest.digest:
            continue
        length = stage.plan.sequence_length
        if HELD_OUT in manifest.splits:
            windows = min(stage.held_out_windows, manifest.splits[HELD_OUT].windows(length))
            if (entry["windows"], entry["tokens"]) == (windows, windows * length):
                carried[name] = entry
    if carried:
        evaluations.write_sets(folder, 0, stage.plan.start, stage.plan.first_step, carried)
