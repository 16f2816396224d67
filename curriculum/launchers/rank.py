"""Runs `curriculum.launchers.srun_rank` under its name of 0.1.0, for batch scripts that were queued by it.

Goes with the next release.
"""

from __future__ import annotations

from curriculum.launchers.srun_rank import main

if __name__ == "__main__":
    main()
