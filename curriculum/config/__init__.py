"""The configuration files: YAML with positions, the models that validate it, JSON schemas, and the project.

A file is validated here as far as it alone suffices; what needs a second file is checked by `compiler`. The
descriptions of the fields are the reference documentation. May import data and below.
"""

from __future__ import annotations

from curriculum.config.entry import validate as validate
from curriculum.config.fields import (
    LARGEST_COUNT as LARGEST_COUNT,
    BatchScale as BatchScale,
    Refusal as Refusal,
    is_name as is_name,
)
from curriculum.config.machines import MachineEntry as MachineEntry, MachinesFile as MachinesFile
from curriculum.config.sizes import SizeEntry as SizeEntry, SizesFile as SizesFile
from curriculum.config.sources import (
    HeldOutEntry as HeldOutEntry,
    ReadEntry as ReadEntry,
    SourceEntry as SourceEntry,
    SourcesFile as SourcesFile,
    TokenizerEntry as TokenizerEntry,
)
from curriculum.config.stages import (
    MODELS as MODELS,
    ROOT_KEYS as ROOT_KEYS,
    CurriculumFile as CurriculumFile,
    EveryEntry as EveryEntry,
    LearningRateEntry as LearningRateEntry,
    LeaveOutEntry as LeaveOutEntry,
    MixtureFile as MixtureFile,
    ModelNumbers as ModelNumbers,
    OptimizerEntry as OptimizerEntry,
    SkipEntry as SkipEntry,
    StageEntry as StageEntry,
    heads_fit as heads_fit,
)
