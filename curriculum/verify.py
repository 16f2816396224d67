"""Reads back what lies on disk and compares it with the digests that were written last."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from curriculum import checkpoints, imports, ledger
from curriculum.corpora import Texts
from curriculum.errors import CurriculumError, DataError
from curriculum.plan import StagePlan
from curriculum.planner import Compiled
from curriculum.project import Project
from curriculum.shards.reader import Dataset


@dataclass(frozen=True, slots=True)
class Findings:
    checked: tuple[str, ...]
    wrong: tuple[CurriculumError, ...]


def verify(project: Project, compiled: Compiled, texts: Texts) -> Findings:
    """Check every checkpoint, ledger line and prepared dataset of a lineage; nothing is changed."""
    checked: list[str] = []
    wrong: list[CurriculumError] = []
    for dataset in texts.datasets():
        try:
            manifest = texts.manifest(dataset)
            if manifest is None:
                continue
            size = 0
            for split in manifest.splits:
                opened = Dataset.open(
                    texts.folder(dataset), split=split, sequence_length=texts.sequence_length
                )
                for _, read in opened.verify():
                    size += read
            checked.append(f"text of {dataset}: {size:,} bytes")
        except CurriculumError as error:
            wrong.append(error)
    try:
        imported = _imported(project, compiled)
        if imported is not None:
            checkpoints.verify(imported)
            checked.append(f"import {imported.name}")
    except CurriculumError as error:
        wrong.append(error)
    for stage in compiled.stages:
        folder = project.stage_folder(compiled.size_name, stage.setting.curriculum, stage.setting.stage)
        if not (folder / "plan.json").exists():
            continue
        try:
            plan = StagePlan.load(folder / "plan.json")
        except CurriculumError as error:
            wrong.append(error)
            continue
        checked.append(f"plan of {stage.name}")
        for checkpoint in checkpoints.found(folder / "checkpoints"):
            try:
                checkpoints.verify(checkpoint.path)
                checked.append(f"checkpoint {stage.name} {checkpoint.name}")
            except CurriculumError as error:
                wrong.append(error)
        for entry in ledger.read(folder):
            planned = {name: count for name, count in plan.windows_read(entry.position).items() if count}
            counted = {name: count for name, count in entry.windows.items() if count}
            if planned != counted:
                wrong.append(
                    DataError(
                        f"the ledger of {stage.name} counted {counted} windows at {entry.position:,} tokens, "
                        f"the plan says {planned}",
                        hint="what was trained is not what was planned; branch from an earlier checkpoint",
                    )
                )
        if ledger.read(folder):
            checked.append(
                f"ledger of {stage.name}: equal to the plan at {len(ledger.read(folder))} checkpoints"
            )
    return Findings(tuple(checked), tuple(wrong))


def _imported(project: Project, compiled: Compiled) -> Path | None:
    """The checkpoint that an import became: that of the directory as it is now, else the one that a run began with."""
    first = compiled.stages[0]
    if first.setting.imported is None:
        return None
    digest = imports.digest(project, first.setting.imported)
    plan = (
        project.stage_folder(compiled.size_name, first.setting.curriculum, first.setting.stage) / "plan.json"
    )
    if digest is None and plan.exists():
        begun = StagePlan.load(plan).parent
        digest = begun.fingerprint if begun else None
    folder = imports.checkpoint(project, digest) if digest else None
    return folder if folder is not None and folder.exists() else None
