"""The configuration files: YAML with positions, the models that validate it, JSON schemas, and the project.

A file is validated here as far as it alone suffices; what needs a second file is checked by `compiler`. The
descriptions of the fields are the reference documentation. May import data and below.
"""

from __future__ import annotations

from curriculum.config.entry import validate as validate
from curriculum.config.fields import LARGEST_COUNT as LARGEST_COUNT
from curriculum.config.fields import BatchScale as BatchScale
from curriculum.config.fields import Refusal as Refusal
from curriculum.config.fields import is_name as is_name
from curriculum.config.machines import MachineEntry as MachineEntry
from curriculum.config.machines import MachinesFile as MachinesFile
from curriculum.config.sizes import SizeEntry as SizeEntry
from curriculum.config.sizes import SizesFile as SizesFile
from curriculum.config.sources import HeldOutEntry as HeldOutEntry
from curriculum.config.sources import ReadEntry as ReadEntry
from curriculum.config.sources import SourceEntry as SourceEntry
from curriculum.config.sources import SourcesFile as SourcesFile
from curriculum.config.sources import TokenizerEntry as TokenizerEntry
from curriculum.config.stages import MODELS as MODELS
from curriculum.config.stages import ROOT_KEYS as ROOT_KEYS
from curriculum.config.stages import CurriculumFile as CurriculumFile
from curriculum.config.stages import EveryEntry as EveryEntry
from curriculum.config.stages import LearningRateEntry as LearningRateEntry
from curriculum.config.stages import LeaveOutEntry as LeaveOutEntry
from curriculum.config.stages import MixtureFile as MixtureFile
from curriculum.config.stages import ModelNumbers as ModelNumbers
from curriculum.config.stages import OptimizerEntry as OptimizerEntry
from curriculum.config.stages import SkipEntry as SkipEntry
from curriculum.config.stages import StageEntry as StageEntry
from curriculum.config.stages import heads_fit as heads_fit
