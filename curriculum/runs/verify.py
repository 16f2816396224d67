"""Reads back every file of a lineage and compares it with the digest that was written with it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from curriculum import fs
from curriculum.artifacts import checkpoints, ledger
from curriculum.artifacts.evaluations import read_evaluation
from curriculum.artifacts.stage_folder import StageFolder, checkpoint_name
from curriculum.compiler import imported_models
from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.project import Project
from curriculum.data.dataset import Dataset
from curriculum.errors import CheckpointError, CurriculumError, DataError
from curriculum.plan.stage import StagePlan
from curriculum.runs import folders


@dataclass(frozen=True, slots=True)
class Findings:
    """What was checked, with a detail of each, and the errors of what was found wrong."""

    checked: list[str] = field(default_factory=list)
    wrong: list[CurriculumError] = field(default_factory=list)

    def check(self, what: str, check: Callable[[], str | None], *, again: str) -> None:
        """Do one check; `again` is the command that recreates what it finds wrong."""
        try:
            detail = check()
        except CurriculumError as error:
            hint = error.hint or ""
            if again not in hint:
                error.hint = f"{hint}{'; ' if hint else ''}then `{again}` makes it again"
            self.wrong.append(error)
        else:
            self.checked.append(what + (f": {detail}" if detail else ""))


def verify(project: Project, compiled: Compiled, texts: PreparedText) -> Findings:
    """Check every file of a lineage that training continues from; nothing is changed.

    Prepared text, an import, and of every started stage its plans, checkpoints, ledger, evaluations, pins, its end
    and whether it continues from the checkpoint that its parent has.
    """
    findings = Findings()
    run = f"curriculum run {compiled.curriculum}{project.options(compiled.size_name)}"
    prepare = f"curriculum prepare {compiled.curriculum}{project.options(compiled.size_name)}"
    for dataset in texts.datasets():
        findings.check(f"text of {dataset}", partial(_text, texts, dataset), again=prepare)
    imported: list[Path] = []
    if compiled.stages[0].plan.parent is not None:
        findings.check("what is imported", lambda: imported.extend(_imported(project, compiled)), again=prepare)
    for path in imported:
        findings.check(f"import {path.name}", partial(checkpoints.verify, path), again=prepare)
    for stage in compiled.stages:
        folder = folders.stage_folder(project, compiled, stage)
        if folder.plan.exists():
            _stage(findings, project, compiled, stage, folder, run)
    return findings


def _text(texts: PreparedText, dataset: str) -> str:
    manifest = texts.manifest(dataset)
    size = 0
    for split in manifest.splits if manifest else ():
        part = Dataset.open(texts.folder(dataset), split=split, sequence_length=texts.sequence_length)
        size += sum(read for _, read in part.verify())
    return f"{size:,} bytes" if manifest else "not prepared"


def _stage(
    findings: Findings, project: Project, compiled: Compiled, stage: CompiledStage, folder: StageFolder, run: str
) -> None:
    name, check, options = stage.name, findings.check, project.options(compiled.size_name)
    plans: list[StagePlan] = []
    for path in (folder.plan, *folder.replaced_plans()):
        check(f"{path.stem.replace('-', ' ')} of {name}", partial(_plan, path, plans), again=run)
    for checkpoint in checkpoints.list_checkpoints(folder):
        check(f"checkpoint {name} {checkpoint.name}", partial(_checkpoint, checkpoint, plans), again=run)
    plan = plans[0] if plans else None
    check(f"ledger of {name}", lambda: _ledger(folder, stage, plan), again=run)
    compare = f"curriculum compare {compiled.curriculum}{options}"
    for path in folder.evaluation_files():
        check(f"evaluation of {name} {path.stem}", partial(_evaluation, path), again=compare)
    for path in sorted(folder.pins.glob("*/*.json")):
        check(f"pin of {name} by {path.stem}", partial(_pin, path), again=f"curriculum run {path.stem}{options}")
    if plan is not None and plan.parent is not None and stage.parent is not None:
        check(f"lineage of {name}", lambda: _continues(project, compiled, stage, plan), again=run)
    if folder.done.exists():
        check(f"end of {name}", lambda: _done(folder, plan), again=run)


def _plan(path: Path, plans: list[StagePlan]) -> None:
    plans.append(StagePlan.load(path))


def _checkpoint(checkpoint: checkpoints.Checkpoint, plans: list[StagePlan]) -> None:
    """Its bytes, and that one of the stage's plans leads to it."""
    checkpoints.verify(checkpoint.path)
    state = checkpoints.state(checkpoint.path)
    histories = set()
    for plan in plans:
        with contextlib.suppress(CurriculumError):  # no step boundary of this plan
            histories.add(plan.history(checkpoint.position))
    if state.get("position") != checkpoint.position or (histories and state.get("history") not in histories):
        raise CheckpointError(
            f"checkpoint `{checkpoint.name}` is not what this stage's plan leads to",
            hint=f"move {checkpoint.path} away",
        )


def _ledger(folder: StageFolder, stage: CompiledStage, plan: StagePlan | None) -> str:
    entries = ledger.read(folder)
    for entry in entries:
        if plan is None:
            break
        planned = {name: count for name, count in plan.windows_read(entry.position).items() if count}
        counted = {name: count for name, count in entry.windows.items() if count}
        if planned != counted:
            raise DataError(
                f"the ledger of {stage.name} counted {counted} windows at {entry.position:,} tokens, "
                f"the plan says {planned}",
                hint="what was trained is not what was planned; branch from an earlier checkpoint",
            )
    kept = {checkpoint.name for checkpoint in checkpoints.list_checkpoints(folder)}
    if missing := sorted(kept - {entry.checkpoint for entry in entries}):
        raise DataError(
            f"the ledger of {stage.name} has no line for checkpoint `{missing[0]}`: `{folder.ledger}` was cut short",
            hint="a resumed run adds the line of the checkpoint it resumes from",
        )
    return f"equal to the plan at {len(entries)} checkpoints"


def _evaluation(path: Path) -> None:
    value = read_evaluation(path)
    if path.stem != checkpoint_name(value["generation"], value["position"]):
        raise DataError(f"`{path}` has another position than its name says", hint=f"move {path} away")


def _pin(path: Path) -> None:
    try:
        value = fs.parse_json(fs.read_bytes(path))
        sound = value["by"] == path.stem and value["position"] == int(path.parent.name)
    except (OSError, ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        raise DataError(f"the pin `{path}` is damaged; the checkpoint is kept all the same", hint=f"move {path} away")


def _continues(project: Project, compiled: Compiled, stage: CompiledStage, plan: StagePlan) -> str:
    """The parent's history at the branch point, by its checkpoint, is the one that this stage continued from."""
    assert stage.parent is not None
    assert plan.parent is not None
    folder = folders.stage_folder(project, compiled, stage.parent)
    checkpoint = folders.checkpoint_at(folder, plan.parent.position)
    if checkpoint is None:
        raise CheckpointError(
            f"`{stage.name}` branched from `{stage.parent.name}` at {plan.parent.position:,} tokens, where no "
            "checkpoint is kept any more",
            hint="this stage continues from its own; bring the parent's back to branch there again",
        )
    if checkpoints.state(checkpoint.path).get("history") != plan.parent.fingerprint:
        raise CheckpointError(
            f"`{stage.name}` branched from another history than checkpoint `{checkpoint.name}` of "
            f"`{stage.parent.name}` now has",
            hint="one of the two was put there from elsewhere; bring back what belongs together",
        )
    return f"branched from {stage.parent.name} at {plan.parent.position:,} tokens"


def _done(folder: StageFolder, plan: StagePlan | None) -> None:
    try:
        value = fs.unseal(fs.parse_json(fs.read_bytes(folder.done)), ("checkpoint", "position", "weights"))
        sound = plan is None or value["position"] == plan.end
    except (OSError, ValueError):
        sound = False
    if not sound:
        raise DataError(f"`{folder.done}` is damaged", hint=f"remove {folder.done}")


def _imported(project: Project, compiled: Compiled) -> list[Path]:
    """The checkpoint of an import: of the directory as it is now, else the one that a run started from."""
    first = compiled.stages[0]
    if first.setting.imported is None:
        return []
    digest = imported_models.digest(project, first.setting.imported)
    plan = folders.stage_folder(project, compiled, first).plan
    if digest is None and plan.exists():
        parent = StagePlan.load(plan).parent
        digest = parent.fingerprint if parent else None
    folders_of_import = [imported_models.checkpoint(project, digest)] if digest else []
    return [folder for folder in folders_of_import if folder.exists()]
