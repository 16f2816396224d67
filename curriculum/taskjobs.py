"""Runs `curriculum.execution.slurm.benchmark` under its name of 0.1.0, for batch scripts that were queued by it.

Goes with the next release.
"""

from __future__ import annotations

import sys

from curriculum.execution.slurm.benchmark import main

if __name__ == "__main__":
    sys.exit(main())
