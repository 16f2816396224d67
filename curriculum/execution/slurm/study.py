"""The Slurm job behind the arms of a study: once they have ended, it submits what follows, a proposal's runs.

It trains nothing and needs no GPU. Where an arm did not end it submits nothing and fails, so that `run STUDY` is said
again by a person who has looked at that arm.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from curriculum import fs
from curriculum.artifacts.stage_folder import Attempt
from curriculum.config.project import Project
from curriculum.execution.request import RunRequest
from curriculum.execution.slurm.submission import SCRIPT, QueuedJob, Submission
from curriculum.launchers import slurm, slurm_record

REQUEST = "study.json"


def folder_of(project: Project, study: str, size: str) -> Path:
    """The folder whose newest submission is the job behind the arms."""
    return project.runs / size / study


@dataclass(frozen=True, kw_only=True)
class StudySubmission(Submission):
    """The job that submits what follows once the jobs `arms` have ended, however they did."""

    study: str
    arms: Sequence[str]

    @property
    def label(self) -> str:
        return f"what follows in {self.study}"

    @property
    def folder(self) -> Path:
        return folder_of(self.request.project, self.study, self.request.size)

    def submit(self) -> QueuedJob:
        """Submit the job; one that waits behind other arms gives way."""
        status = slurm_record.live_job(self.folder)
        if status is not None and status.state == slurm_record.QUEUED:
            slurm_record.stop(self.folder)
        job = super().submit()
        return replace(job, message=f"{job.message}, once job {', '.join(self.arms)} has ended") if job.fresh else job

    def files(self, attempt: Attempt) -> list[Path]:
        return [attempt.path / REQUEST]

    def write(self, attempt: Attempt) -> None:
        request = self.request
        options = {
            "project": str(request.project.root),
            "study": self.study,
            "size": request.size,
            "machine": request.machine,
            "processes": request.processes,
            "accept_change": request.accept_change,
            "accept_environment": request.accept_environment,
        }
        fs.write_json(attempt.path / REQUEST, options)

    def batch_jobs(self, attempt: Attempt) -> Mapping[str, slurm.BatchJob]:
        batch_job = slurm.BatchJob(
            name=f"curriculum:{self.study}",
            command=(sys.executable, "-m", "curriculum.execution.study_main", str(attempt)),
            log=attempt.path / "%j.log",
            threads=1,
            after_ends=self.arms,
        )
        return {SCRIPT: batch_job}


def request_of(submission: Attempt) -> tuple[RunRequest, str]:
    """The request that was submitted in this folder, and its study."""
    options: dict[str, Any] = fs.parse_json(fs.read_bytes(submission.path / REQUEST))
    project, study = Project(Path(options.pop("project"))), str(options.pop("study"))
    return RunRequest(project=project, curriculum=study, **options), study
