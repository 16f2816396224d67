"""Writes again what the checkpoints of a trained stage still say: its plan, its ledger, the pin of its parent."""

from __future__ import annotations

from curriculum import fs
from curriculum.artifacts import checkpoints, ledger
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.config.project import Project
from curriculum.errors import Drift, PlanError
from curriculum.plan.stage import StagePlan
from curriculum.runs.folders import stage_folder


def restore_records(project: Project, compiled: Compiled, stage: CompiledStage) -> None:
    """Write what is missing beside the kept checkpoints of `stage`; nothing where it has none.

    Drift when its plan is missing and the files now describe another than its newest checkpoint was trained by.
    """
    folder = stage_folder(project, compiled, stage)
    newest = checkpoints.latest(folder)
    if newest is None:
        return
    if not folder.plan.exists():
        _restore_plan(folder, stage, newest)
    _restore_ledger(folder)
    pin_parent(project, compiled, stage)


def pin_parent(project: Project, compiled: Compiled, stage: CompiledStage) -> None:
    """Pin the checkpoint that `stage` continues from, or those that it averages, where they are inside a stage."""
    members = [(member.compiled, member.stage) for member in stage.members]
    for lineage, point in members or ([(compiled, stage.parent)] if stage.parent is not None else []):
        if point.stop == point.plan.end:
            continue
        parent = stage_folder(project, lineage, point)
        fs.make_directory(parent.path)
        with checkpoints.pinning(parent):  # the stage's folder exists by now, which keeps the pin from being released
            checkpoints.pin(parent, point.stop, stage.setting.curriculum)


def _restore_plan(folder: StageFolder, stage: CompiledStage, newest: checkpoints.Checkpoint) -> None:
    if not _describes(stage.plan, newest):
        raise Drift(
            f"the plan of `{stage.name}` is missing, and the files describe another one than checkpoint "
            f"`{newest.name}` was trained by",
            place=stage.setting.place("name"),
            hint=f"put `{folder.plan}` back from a copy, or the files as they were",
        )
    stage.plan.save(folder.plan)


def _describes(plan: StagePlan, checkpoint: checkpoints.Checkpoint) -> bool:
    try:
        return bool(checkpoints.state(checkpoint.path)["history"] == plan.history(checkpoint.position))
    except PlanError:  # no step boundary of this plan
        return False


def _restore_ledger(folder: StageFolder) -> None:
    """Add the lines of kept checkpoints that the ledger lacks, from the state that was saved with each."""
    entries = {entry.checkpoint: entry for entry in ledger.read(folder)}
    lacking = [kept for kept in checkpoints.list_checkpoints(folder) if kept.name not in entries]
    for checkpoint in lacking:
        state = checkpoints.state(checkpoint.path)
        entries[checkpoint.name] = ledger.Entry(
            generation=state["generation"],
            position=state["position"],
            step=state["step"],
            checkpoint=checkpoint.name,
            fingerprint=state["fingerprint"],
            windows={name: count for name, count in state["windows"].items() if count},
        )
    if lacking:
        ledger.write(folder, sorted(entries.values(), key=lambda entry: (entry.generation, entry.position)))
