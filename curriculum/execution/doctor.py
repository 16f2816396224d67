"""Examines this machine by a runner job: what it is, and whether an entry of machines.yaml can be served on it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from curriculum import fs
from curriculum.artifacts import jobs
from curriculum.artifacts.job_process import StopFlag
from curriculum.artifacts.stage_folder import Attempt
from curriculum.config.project import Project
from curriculum.errors import RunFailed
from curriculum.execution.machine import job_machine
from curriculum.launchers.process import ProcessLauncher, default_threads
from curriculum.launchers.supervisor import supervise


def examine(project: Project, name: str) -> dict[str, Any]:
    """The runner's report on this machine and the requirements of the entry `name`; `served` when it meets them.

    As many processes are started as a job has on one node, so that their rendezvous is tried as well.
    """
    entry = project.machine(name)
    processes = entry.processes if entry.launcher in ("torchrun", "kubernetes") else 1
    launcher = ProcessLauncher(processes, default_threads(entry.threads, processes))
    with tempfile.TemporaryDirectory() as folder:
        attempt = Attempt(Path(folder))
        job = jobs.DoctorJob(attempt_folder=folder, machine=job_machine(entry, launcher.threads))
        jobs.save(job, attempt.job)
        try:
            supervise(launcher, lambda: attempt, stop=StopFlag())
            report: dict[str, Any] = fs.parse_json(fs.read_bytes(attempt.doctor_report))
        except RunFailed as error:
            report = {"problems": [{"what": error.what, "hint": error.hint or ""}]}
    notes = []
    if entry.launcher == "slurm":
        notes.append(f"asked for {entry.nodes} nodes; what is shown is the node this command runs on")
        if shutil.which("sbatch") is None:
            problem = "`launcher: slurm`, and the command `sbatch` is not on the PATH"
            report["problems"].append({"what": problem, "hint": "run it where jobs are submitted"})
    return {
        "machine": name,
        "served": not report["problems"],
        "asks": {key: value for key, value in entry.model_dump(mode="json").items() if value is not None},
        "launcher": {"kind": entry.launcher, "nodes": entry.nodes, "processes": entry.processes, "notes": notes},
        **report,
    }
