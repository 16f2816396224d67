"""Reads back what lies on disk and compares it with the digests that were written last."""

from __future__ import annotations

from dataclasses import dataclass

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
    directory = compiled.stages[0].setting.imported
    if directory is not None and imports.is_there(project, directory):
        try:
            checkpoints.verify(imports.checkpoint(project, imports.digest(project, directory) or ""))
            checked.append(f"import of {directory.folder}")
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
