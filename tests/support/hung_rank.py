"""One of two gloo ranks under a watchdog: both add once, then rank 0 adds again and rank 1 does not.

python hung_rank.py ATTEMPT LIMIT      under torchrun's environment variables
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from curriculum.artifacts.stage_folder import Attempt
from curriculum.stream.watchdog import Watchdog
from runner.parallel.ranks import join_ranks

attempt, limit = Attempt(Path(sys.argv[1])), float(sys.argv[2])
ranks = join_ranks("cpu", 1)
with Watchdog(attempt, ranks.rank, limit) as watchdog:
    ranks.add(torch.ones(3))
    watchdog.arm()
    if ranks.first:
        ranks.add(torch.ones(7))
    time.sleep(60)
