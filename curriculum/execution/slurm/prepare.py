"""The Slurm jobs that prepare a text: an array of helpers, and the job after them that merges their shards.

A helper does tasks that no other process does until none is left; finished tasks are never done again. So a helper
that is killed costs its one task, and submitting again is harmless.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from curriculum import fs
from curriculum.artifacts import jobs
from curriculum.artifacts.stage_folder import Attempt
from curriculum.data.requests import PrepareRequest
from curriculum.execution.request import RunRequest
from curriculum.execution.slurm.submission import QueuedJob, Submission
from curriculum.launchers import slurm
from curriculum.launchers.process import runner_command


def submit(request: RunRequest, text: PrepareRequest) -> QueuedJob:
    """Queue the preparation of `text`, unless it is queued or running already."""
    partial = Path(f"{text.output}.partial")
    submission = PrepareSubmission(
        request=request, folder=partial, label=text.dataset, lock=partial / "lock", text=text
    )
    return submission.submit()


@dataclass(frozen=True, kw_only=True)
class PrepareSubmission(Submission):
    text: PrepareRequest

    @property
    def threads(self) -> int:
        return self.request.machine_entry.threads or 1

    @property
    def helpers(self) -> int:
        """Processes that share the tasks before the last job; 0 when that job does all of them."""
        entry = self.request.machine_entry
        helpers = min(self.text.tasks, entry.nodes * entry.processes)
        return helpers if helpers > 1 and "tokenised" not in self.text.read else 0

    def dependency(self, job: str) -> str:
        return f"{self.helpers} helpers (job {job})"

    def write(self, attempt: Attempt) -> None:
        text = replace(self.text, workers=self.threads)
        for name in ("help", "end") if self.helpers else ("end",):
            share = Attempt(attempt.path / name)
            fs.make_directory(share.path)
            job = jobs.PrepareJob(attempt_folder=str(share), request=text, help=name == "help")
            jobs.save(job, share.job)

    def batch_jobs(self, attempt: Attempt) -> Mapping[str, slurm.BatchJob]:
        end = self._batch_job(Attempt(attempt.path / "end"), "%j.log")
        if not self.helpers:
            return {"end.sh": end}
        helpers = replace(
            self._batch_job(Attempt(attempt.path / "help"), "%A-%a.log"), array=f"0-{self.helpers - 1}"
        )
        return {"help.sh": helpers, "end.sh": end}

    def _batch_job(self, attempt: Attempt, log: str) -> slurm.BatchJob:
        return slurm.BatchJob(
            name=f"curriculum:{self.text.dataset}",
            command=("env", "PYTHONSAFEPATH=1", *runner_command(), str(attempt.job)),
            log=attempt.path / log,
            threads=self.threads,
        )
