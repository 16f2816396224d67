"""The YAML files of the shipped project, each with the model that reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from curriculum.config import CurriculumFile, MachinesFile, MixtureFile, SizesFile, SourcesFile, StudyFile, validate
from curriculum.config.yaml import load_yaml

ROOT = Path(__file__).resolve().parents[2]

FILES: dict[str, type[BaseModel]] = {
    **{path.relative_to(ROOT).as_posix(): CurriculumFile for path in sorted(ROOT.glob("stages/**/*.yaml"))},
    **{path.relative_to(ROOT).as_posix(): MixtureFile for path in sorted(ROOT.glob("mixtures/**/*.yaml"))},
    **{path.relative_to(ROOT).as_posix(): StudyFile for path in sorted(ROOT.glob("studies/*.yaml"))},
    "sources.yaml": SourcesFile,
    "sizes.yaml": SizesFile,
    "machines.yaml": MachinesFile,
}


def shipped(name: str) -> Any:
    return validate(FILES[name], load_yaml(ROOT / name, root=ROOT))
