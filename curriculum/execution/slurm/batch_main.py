"""`python -m curriculum.execution.slurm.batch_main FOLDER`: the main of a batch job that trains one stage.

It runs on the job's first node and supervises the processes as `curriculum run` does, started by `srun`: after a crash,
or the loss of a node's processes, they are launched again from the last checkpoint. When Slurm takes the job's time
or nodes away it saves and queues again. It exits with 0 only when the stage is done, which dependent jobs wait for.
"""

from __future__ import annotations

import os
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any

from curriculum import fs
from curriculum.artifacts import jobs
from curriculum.artifacts.job_process import stop_on_signals
from curriculum.artifacts.stage_folder import Attempt, StageFolder
from curriculum.execution.attempts import run_training
from curriculum.execution.slurm.submission import finish
from curriculum.fs import standard_streams
from curriculum.launchers.process import default_threads
from curriculum.launchers.slurm import SrunLauncher

ALLOCATION = "allocation.json"
"""How the ranks are spread over the nodes, which is no part of the job."""


def main() -> int:
    """The exit code: see `finish`."""
    submission = Attempt(Path(sys.argv[1]))
    return finish(submission, lambda: train(submission))


def train(submission: Attempt) -> dict[str, Any]:
    """Train the stage that was submitted in the folder `submission`, inside its allocation; the outcome."""
    job = jobs.load(submission.job)
    assert isinstance(job, jobs.TrainJob)
    allocation = fs.parse_json(fs.read_bytes(submission.path / ALLOCATION))
    threads = allocation["threads"] or _threads(allocation["processes"])
    launcher = SrunLauncher(**{**allocation, "threads": threads}, trainer=job.trainer)
    say = partial(print, flush=True)

    def launched(attempt: Attempt) -> None:
        say(f"attempt {attempt.name}: {shlex.join(launcher.command(attempt.job))}")

    folder = StageFolder(Path(job.stage_folder))
    supervised = fs.Lock(folder.supervised, f"`{folder.name}`")
    with supervised, stop_on_signals() as stop:
        return run_training(job, launcher, stop, note=say, launched=launched)


def _threads(processes: int) -> int:
    """An even share of the processors that Slurm gives this job on its node."""
    processors = os.environ.get("SLURM_CPUS_ON_NODE")
    return max(1, int(processors) // processes) if processors else default_threads(None, processes)


if __name__ == "__main__":
    standard_streams.protect()
    sys.exit(main())
