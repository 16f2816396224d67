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
from curriculum.execution.slurm.submission import Submission
from curriculum.launchers import slurm
from curriculum.launchers.process import runner_command


@dataclass(frozen=True, kw_only=True)
class PrepareSubmission(Submission):
    """The preparation of a dataset as a job, with an array of helpers before it where tasks can be shared."""

    text: PrepareRequest

    @property
    def label(self) -> str:
        return self.text.dataset

    @property
    def folder(self) -> Path:
        return Path(f"{self.text.output}.partial")

    @property
    def lock(self) -> Path:
        return self.folder / "lock"

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

    def shares(self, attempt: Attempt) -> dict[str, Attempt]:
        """The folders of the helpers' job and of the last job."""
        return {name: Attempt(attempt.path / name) for name in (("help", "end") if self.helpers else ("end",))}

    def files(self, attempt: Attempt) -> list[Path]:
        return [share.job for share in self.shares(attempt).values()]

    def write(self, attempt: Attempt) -> None:
        text = replace(self.text, workers=self.threads)
        for name, share in self.shares(attempt).items():
            fs.make_directory(share.path)
            job = jobs.PrepareJob(attempt_folder=str(share), request=text, help=name == "help")
            jobs.save(job, share.job)

    def batch_jobs(self, attempt: Attempt) -> Mapping[str, slurm.BatchJob]:
        return {f"{name}.sh": self._batch_job(name, share) for name, share in self.shares(attempt).items()}

    def _batch_job(self, name: str, share: Attempt) -> slurm.BatchJob:
        array = f"0-{self.helpers - 1}" if name == "help" else None
        python, *module = runner_command()
        return slurm.BatchJob(
            name=f"curriculum:{self.text.dataset}",
            command=(python, "-P", *module, str(share.job)),
            log=share.path / ("%A-%a.log" if array else "%j.log"),
            threads=self.threads,
            array=array,
        )
