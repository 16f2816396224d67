"""Other trainers of stages: which one a machine runs, and what is refused because it cannot do it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from curriculum.artifacts import checkpoints, jobs
from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.errors import CheckpointError, PlanError
from curriculum.execution.parent import check_model
from curriculum.execution.request import RunRequest
from curriculum.runs.folders import checkpoint_at, is_reached, stage_folder

OURS = "curriculum's own"


def of(request: RunRequest) -> jobs.Trainer | None:
    """The trainer that the machine of `request` runs; None for our own."""
    entry = request.machine_entry.trainer
    return (
        None
        if entry is None
        else jobs.Trainer(**entry.model_dump(), folder=str(request.trainer_folder or request.project.root))
    )


def started_processes(request: RunRequest) -> int:
    """Processes that are started on each node: one for each rank, or one for a trainer that starts its ranks."""
    trainer = request.machine_entry.trainer
    if trainer is not None and trainer.ranks == "its-own":
        return 1
    return request.processes or request.machine_entry.processes


def check(request: RunRequest, compiled: Compiled) -> None:
    """PlanError when a stage still to be trained needs what the machine's trainer does not do, or that has no program.

    It may keep documents apart or a moving average, have been started by another trainer, or continue from a checkpoint
    of another.
    """
    due = [s for s in compiled.stages if not is_reached(stage_folder(request.project, compiled, s), s)]
    for stage in due:
        _check_documents(request, stage)
        _check_average(request, stage)
        _check_moving_average(request, stage)
        _check_started(request, compiled, stage)
        _check_parent(request, compiled, stage)
    if due:
        _check_command(request)


def _check_command(request: RunRequest) -> None:
    """PlanError where the command of the machine's trainer is not there; what a container holds is not known."""
    trainer = of(request)
    if trainer is None or request.is_rendered:
        return
    folder, (first, *words) = Path(trainer.folder), trainer.run
    if first == "python":
        script = next(iter(words), "-")
        if script.startswith("-") or (folder / script).exists():
            return
        what = f"`{script}`, and there is no such file"
    else:
        is_path = os.sep in first  # from the trainer's folder; another word is looked for in PATH
        if shutil.which(folder / first if is_path else first):
            return
        if not is_path and request.machine_entry.launcher == "slurm":
            return  # that of another machine
        what = f"`{first}`, and there is no such program"
    raise _refused(
        request,
        f"trainer `{trainer.name}` runs {what}",
        "`run` is executed in the project's folder: name a file from there, as in `run: [python, train.py]`",
        "run",
    )


def _check_documents(request: RunRequest, stage: CompiledStage) -> None:
    trainer = request.machine_entry.trainer
    if stage.plan.mask_documents and trainer is not None and "mask-documents" not in trainer.does:
        raise _refused(
            request,
            f"stage `{stage.name}` keeps documents apart (`mask_documents`), and trainer `{trainer.name}` does not",
            "if it reads `batch.cu_seqlens` or `batch.position_ids`, say `does: [train, mask-documents]`",
        )


def _check_average(request: RunRequest, stage: CompiledStage) -> None:
    trainer = request.machine_entry.trainer
    if stage.members and trainer is not None:
        raise _refused(
            request,
            f"stage `{stage.name}` averages checkpoints, which trainer `{trainer.name}` does not",
            "run it on a machine without `trainer`: our own trainer averages, also what others saved with `layout: hf`",
        )


def _check_moving_average(request: RunRequest, stage: CompiledStage) -> None:
    trainer = request.machine_entry.trainer
    if stage.plan.optimizer.get("ema") is not None and trainer is not None:
        raise _refused(
            request,
            f"stage `{stage.name}` keeps a moving average of its weights (`ema`), and trainer `{trainer.name}` none",
            "leave `ema` out of its `optimizer`, or run it on a machine without `trainer`",
        )


def _check_started(request: RunRequest, compiled: Compiled, stage: CompiledStage) -> None:
    newest = checkpoints.latest(stage_folder(request.project, compiled, stage))
    if newest is None:
        return
    starter, here = _name(checkpoints.trainer_of(newest.path)), _trainer_name(request)
    if starter != here:
        raise _refused(
            request,
            f"stage `{stage.name}` was started by trainer `{starter}`, and machine `{request.machine}` runs `{here}`",
            "a stage keeps its trainer: take a machine that runs it, or branch under a new name",
        )


def _check_parent(request: RunRequest, compiled: Compiled, stage: CompiledStage) -> None:
    trainer, here = of(request), _trainer_name(request)
    if stage.parent is None:
        if stage.plan.parent is not None and trainer is not None and trainer.layout != "hf":
            raise _refused(
                request,
                f"stage `{stage.name}` starts from an import, which trainer `{here}` cannot read",
                "train it on a machine without `trainer`, or by a trainer with `layout: hf`",
            )
        return
    folder = stage_folder(request.project, compiled, stage)
    parent = checkpoint_at(stage_folder(request.project, compiled, stage.parent), stage.parent.stop)
    if parent is None or checkpoints.latest(folder) is not None:
        return
    saved = checkpoints.trainer_of(parent.path)
    if _name(saved) == here:
        return
    layouts = {saved[1] if saved else "hf", trainer.layout if trainer else "hf"}
    if layouts != {"hf"}:
        raise _refused(
            request,
            f"stage `{stage.name}` continues from a checkpoint of trainer `{_name(saved)}`, which `{here}` cannot read",
            f"train it on a machine that runs `{_name(saved)}`; weights go from one trainer to another by "
            "`layout: hf` alone",
        )
    if not stage.plan.reset_optimizer:
        raise PlanError(
            f"stage `{stage.name}` continues from a checkpoint of trainer `{_name(saved)}`, and `{here}` can take its "
            "weights alone, not the optimizer's state",
            place=stage.setting.place("name"),
            hint=f"say `optimizer: reset` at the stage, or train it on a machine that runs `{_name(saved)}`",
        )
    if trainer is None:
        check_model(parent.path)


def evaluator(request: RunRequest, checkpoint: checkpoints.Checkpoint) -> jobs.Trainer | None:
    """Who measures the held-out loss of a checkpoint: the trainer that saved it, None for our own.

    Our own model reads what another trainer saved with `layout: hf`, where the machine does not run that trainer or it
    does not evaluate. CheckpointError for another layout then, DataError for a model that is not ours.
    """
    saved, trainer = checkpoints.trainer_of(checkpoint.path), of(request)
    if saved is None:
        return None
    is_run = trainer is not None and trainer.name == saved[0]
    if is_run and trainer is not None and "evaluate" in trainer.does:
        _check_command(request)
        return trainer
    if saved[1] == "hf":
        check_model(checkpoint.path)
        return None
    if not is_run:
        raise CheckpointError(
            f"trainer `{saved[0]}` saved the checkpoint, and machine `{request.machine}` does not run it"
        )
    raise CheckpointError(f"trainer `{saved[0]}` does not say `does: [train, evaluate]` in machines.yaml")


def require_weights(checkpoint: Path, what: str) -> None:
    """CheckpointError for a checkpoint of another trainer, without `layout: hf`; `what` needs its weights."""
    saved = checkpoints.trainer_of(checkpoint)
    if saved is not None and saved[1] != "hf":
        raise CheckpointError(
            f"{what} needs weights: `{checkpoint.name}` is of trainer `{saved[0]}` with `layout: {saved[1]}`",
            hint="only that trainer opens the files of its checkpoints; lineage, order, losses and branches need none",
        )


def require_our_model(checkpoint: Path, what: str) -> None:
    """The same, where `what` reads the weights by our model: DataError where another trainer's is not the plan's."""
    require_weights(checkpoint, what)
    if checkpoints.trainer_of(checkpoint) is not None:
        check_model(checkpoint)


def _trainer_name(request: RunRequest) -> str:
    trainer = request.machine_entry.trainer
    return OURS if trainer is None else trainer.name


def _name(trainer: tuple[str, str] | None) -> str:
    return OURS if trainer is None else trainer[0]


def _refused(request: RunRequest, what: str, hint: str, *key: str) -> PlanError:
    """At the machine's trainer, or its `key`."""
    document = request.project.machines_document
    keys = (request.machine, "trainer", *key) if request.machine_entry.trainer is not None else (request.machine,)
    return PlanError(what, place=document.place(keys), hint=hint)
