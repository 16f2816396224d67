"""What a person may write in each file, and the refusal, with its place and hint, of anything else.

A file is checked here as far as that file alone suffices; what needs a second one is the planner's to refuse.
The descriptions of the fields are the reference documentation.
"""

from __future__ import annotations

from curriculum.schema.entry import validate as validate
from curriculum.schema.fields import LARGEST_COUNT as LARGEST_COUNT
from curriculum.schema.fields import BatchScale as BatchScale
from curriculum.schema.fields import Refusal as Refusal
from curriculum.schema.fields import is_name as is_name
from curriculum.schema.machines import MachineEntry as MachineEntry
from curriculum.schema.machines import MachinesFile as MachinesFile
from curriculum.schema.sizes import SizeEntry as SizeEntry
from curriculum.schema.sizes import SizesFile as SizesFile
from curriculum.schema.sources import HeldOutEntry as HeldOutEntry
from curriculum.schema.sources import ReadEntry as ReadEntry
from curriculum.schema.sources import SourceEntry as SourceEntry
from curriculum.schema.sources import SourcesFile as SourcesFile
from curriculum.schema.sources import TokenizerEntry as TokenizerEntry
from curriculum.schema.stages import MODELS as MODELS
from curriculum.schema.stages import ROOT_KEYS as ROOT_KEYS
from curriculum.schema.stages import CurriculumFile as CurriculumFile
from curriculum.schema.stages import EveryEntry as EveryEntry
from curriculum.schema.stages import LearningRateEntry as LearningRateEntry
from curriculum.schema.stages import LeaveOutEntry as LeaveOutEntry
from curriculum.schema.stages import MixtureFile as MixtureFile
from curriculum.schema.stages import ModelNumbers as ModelNumbers
from curriculum.schema.stages import OptimizerEntry as OptimizerEntry
from curriculum.schema.stages import SkipEntry as SkipEntry
from curriculum.schema.stages import StageEntry as StageEntry
from curriculum.schema.stages import heads_fit as heads_fit
