"""The stage contract: what a process does that trains a stage. `curriculum.stage.join()` is the way in.

Imports no torch. May import what lies below `compiler`.
"""

from curriculum.stage.saves import PendingCheckpoint as PendingCheckpoint
from curriculum.stage.stage import Stage as Stage, join as join
