"""`python -m curriculum.execution.slurm.array_main JOBS`: the main of an element of an array, which trains a lineage.

SLURM_ARRAY_TASK_ID says which line of the file JOBS it does: the submissions of some stages, one after the other. What
is done is skipped, so that an element that was queued again goes on where it was. Each stage has the log `job.log` in
its submission's folder.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

from curriculum.artifacts import jobs
from curriculum.artifacts.stage_folder import Attempt
from curriculum.execution.slurm.array import folders_of_element
from curriculum.execution.slurm.batch_main import train
from curriculum.execution.slurm.submission import finish
from curriculum.fs import standard_streams


def main() -> int:
    """The exit code of the first stage that was not done, or 0: see `finish`."""
    index = os.environ["SLURM_ARRAY_TASK_ID"]
    # SLURM_JOB_ID is no name of an element: that of one of them is the number of the whole array
    job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{index}"
    submissions = folders_of_element(Path(sys.argv[1]), int(index))
    for submission in submissions:
        outcome = submission.read_outcome()
        if outcome is not None and outcome["outcome"] == jobs.DONE:
            continue
        print(f"{submission.path.parents[2].name}/{submission.path.parents[1].name}: {submission}", flush=True)
        _log_into(submission)
        code = finish(submission, partial(train, submission), job=job, beside=submissions)
        if code:
            return code
    return 0


def _log_into(submission: Attempt) -> None:
    with (submission.path / "job.log").open("ab") as log:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(log.fileno(), stream.fileno())


if __name__ == "__main__":
    standard_streams.protect()
    sys.exit(main())
