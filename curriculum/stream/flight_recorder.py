"""The flight recorders of this process: the last collective operations of its process groups, as torch keeps them.

torch keeps those of NCCL, in builds that have it, apart from those of other backends (gloo). Of all ranks' NCCL
operations `torchfrtrace --prefix flight-nccl-rank ATTEMPT_FOLDER` finds the one that some of them did not begin.
"""

from __future__ import annotations

import os
import sys

from curriculum import fs
from curriculum.artifacts.stage_folder import Attempt

OPERATIONS = 2000
"""Kept of each recorder: some dozens of steps."""


def configure(attempt: Attempt) -> None:
    """Before the process groups are made: what is kept, and where NCCL's own watchdog writes it to after a timeout."""
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", str(OPERATIONS))
    os.environ.setdefault("TORCH_NCCL_DUMP_ON_TIMEOUT", "1")
    # torch appends the rank; a process that trains several stages in turn writes to the attempt of each
    os.environ["TORCH_FR_DUMP_TEMP_FILE"] = str(attempt.nccl_operations(""))


def dump(attempt: Attempt, rank: int) -> None:
    """Write what this process's recorders hold to the attempt; nothing before torch.distributed is loaded."""
    distributed = sys.modules.get("torch._C._distributed_c10d")
    if distributed is None:
        return
    if hasattr(distributed, "_dump_nccl_trace"):
        # without the stacks of each operation, for whose names torch would load its compiler first: seconds
        operations = distributed._dump_nccl_trace(includeStackTraces=False)
        fs.write_bytes(attempt.nccl_operations(rank), operations, replace=True)
    else:
        print("flight recorder: this build of torch has no NCCL", file=sys.stderr)
    if hasattr(distributed, "_dump_fr_trace_json"):
        fs.write_bytes(attempt.gloo_operations(rank), distributed._dump_fr_trace_json(), replace=True)
