"""Asks the runner what this machine is and whether an entry of machines.yaml can be served on it."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from curriculum.artifacts import jobs
from curriculum.artifacts.job_process import StopFlag
from curriculum.artifacts.stage_folder import Attempt
from curriculum.config.project import Project
from curriculum.errors import RunFailed
from curriculum.execution.request import job_machine
from curriculum.launchers import process as subprocess_launcher
from curriculum.launchers.supervisor import Launch, supervise


def examine(project: Project, name: str) -> dict[str, Any]:
    """The runner's report on this machine, with what `name` asks; `served` is false when it cannot be had.

    As many processes are started as a job would have on one node, so that their meeting is tried as well.
    """
    entry = project.machine(name)
    processes = entry.processes if entry.launcher == "torchrun" else 1
    threads = subprocess_launcher.default_threads(entry.model_dump(), processes)
    with tempfile.TemporaryDirectory() as folder:
        attempt = Attempt(Path(folder))
        jobs.save(jobs.DoctorJob(attempt_folder=folder, machine=job_machine(entry, threads)), attempt.job)

        def launch() -> Launch:
            log = attempt.log
            return Launch(
                subprocess_launcher.start(attempt.job, processes=processes, threads=threads, log=log),
                attempt,
            )

        try:
            supervise(
                launch,
                stop=StopFlag(),
                ask_to_stop=subprocess_launcher.stop,
                kill=subprocess_launcher.kill,
                progress=lambda: 0,
            )
            report: dict[str, Any] = json.loads(attempt.doctor_report.read_bytes())
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
        "launcher": {
            "kind": entry.launcher,
            "nodes": entry.nodes,
            "processes": entry.processes,
            "notes": notes,
        },
        **report,
    }
