"""A stage of which nothing that waits for a save ends within gloo's timeout or `hang_limit`: one rank, as a script.

python slow_publish.py FOLDER      under torchrun's environment variables; FOLDER/job.json is the job

It trains to the job's position `stop_at`, then in a second job, whose saves copy nothing, on to the stage's end.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from curriculum import fs
from curriculum.artifacts import checkpoints, jobs
from curriculum.artifacts.job_process import StopFlag
from curriculum.stream.resume import with_resume
from runner.parallel import ranks as runner_ranks
from runner.train.loop import train

TIMEOUT, LIMIT, SLOW = 1.5, 2.0, 2.5  # seconds: gloo's, `hang_limit`, and whatever a save is waited for


def slowed(call: Callable[..., Any]) -> Callable[..., Any]:
    def slow(*arguments: Any, **options: Any) -> Any:
        time.sleep(SLOW)
        return call(*arguments, **options)

    return slow


def main(folder: Path) -> None:
    runner_ranks.TIMEOUT = timedelta(seconds=TIMEOUT)
    fs.publish = slowed(fs.publish)
    for name in ("verify", "tensors_digest"):
        setattr(checkpoints, name, slowed(getattr(checkpoints, name)))
    job = jobs.load(folder / "job.json")
    assert isinstance(job, jobs.TrainJob)
    job = replace(job, machine=replace(job.machine, hang_limit=LIMIT))
    ranks = runner_ranks.join_ranks("cpu", threads=1)
    further = replace(job, stop_at=None, attempt_folder=str(folder / "second"))
    further = replace(further, machine=replace(job.machine, host_memory=1 << 20))
    outcomes = [train(with_resume(each), ranks, StopFlag()) for each in (job, further)]
    if ranks.first:
        (folder / "report.json").write_text(json.dumps(outcomes))
    runner_ranks.leave_ranks(ranks)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
