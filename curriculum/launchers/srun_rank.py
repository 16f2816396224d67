"""`python -m curriculum.launchers.srun_rank HOST PORT PROCESSES JOB`: one task of `srun` becomes one rank of a job.

It translates the task's Slurm variables to torchrun's and then executes the runner.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from curriculum.artifacts import jobs
from curriculum.launchers.process import trainer_command


def as_torchrun(host: str, port: str, processes: str, task: Mapping[str, str]) -> dict[str, str]:
    """The environment of this rank, from that of its task."""
    return {
        "MASTER_ADDR": host,
        "MASTER_PORT": port,
        "WORLD_SIZE": task["SLURM_NTASKS"],
        "RANK": task["SLURM_PROCID"],
        "LOCAL_RANK": task["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": processes,
    }


def main() -> None:
    host, port, processes, job = sys.argv[1:]
    loaded = jobs.load(Path(job))
    command = trainer_command(loaded.trainer if isinstance(loaded, jobs.TrainJob) else None, Path(job))
    os.execvpe(command[0], command, {**os.environ, **as_torchrun(host, port, processes, os.environ)})  # noqa: S606


if __name__ == "__main__":
    main()
