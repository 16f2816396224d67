"""Runs `curriculum.execution.slurm.batch_main` under its name of 0.1.0, for batch scripts that were queued by it.

Goes with the next release.
"""

from __future__ import annotations

import sys

from curriculum.execution.slurm.batch_main import main

if __name__ == "__main__":
    sys.exit(main())
