"""The configuration files: YAML with positions, the models that validate it, JSON schemas, and the project.

A file is validated here as far as it alone suffices; what needs a second file is checked by `compiler`. The
descriptions of the fields are the reference documentation. May import data and below.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curriculum.config.averages import AverageEntry as AverageEntry, LastEntry as LastEntry
    from curriculum.config.batch import BatchEntry as BatchEntry
    from curriculum.config.fields import (
        LARGEST_COUNT as LARGEST_COUNT,
        BatchScale as BatchScale,
        Refusal as Refusal,
        is_name as is_name,
    )
    from curriculum.config.learning_rate import LearningRateEntry as LearningRateEntry, PointEntry as PointEntry
    from curriculum.config.machines import MachineEntry as MachineEntry, MachinesFile as MachinesFile
    from curriculum.config.mixtures import MixtureFile as MixtureFile
    from curriculum.config.optimizer import OptimizerEntry as OptimizerEntry
    from curriculum.config.sizes import SizeEntry as SizeEntry, SizesFile as SizesFile
    from curriculum.config.sources import SourcesFile as SourcesFile, TokenizerEntry as TokenizerEntry
    from curriculum.config.stages import (
        MODELS as MODELS,
        ROOT_KEYS as ROOT_KEYS,
        AnyScaling as AnyScaling,
        CurriculumFile as CurriculumFile,
        EveryEntry as EveryEntry,
        LeaveOutEntry as LeaveOutEntry,
        ModelNumbers as ModelNumbers,
        SkipEntry as SkipEntry,
        StageEntry as StageEntry,
    )
    from curriculum.config.studies import StudyFile as StudyFile
    from curriculum.config.validation import validate as validate

_EXPORTS = {
    "averages": ("AverageEntry", "LastEntry"),
    "batch": ("BatchEntry",),
    "fields": ("LARGEST_COUNT", "BatchScale", "Refusal", "is_name"),
    "learning_rate": ("LearningRateEntry", "PointEntry"),
    "machines": ("MachineEntry", "MachinesFile"),
    "mixtures": ("MixtureFile",),
    "optimizer": ("OptimizerEntry",),
    "sizes": ("SizeEntry", "SizesFile"),
    "sources": ("SourcesFile", "TokenizerEntry"),
    "stages": (
        *("MODELS", "ROOT_KEYS", "AnyScaling", "CurriculumFile", "EveryEntry", "LeaveOutEntry"),
        *("ModelNumbers", "SkipEntry", "StageEntry"),
    ),
    "studies": ("StudyFile",),
    "validation": ("validate",),
}
_HOME = {name: f"{__name__}.{module}" for module, names in _EXPORTS.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import an export when it is used: shell completion reads file names and must not load pydantic."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
