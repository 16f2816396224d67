"""`python -m curriculum.execution.slurm.batch FOLDER`: what a Slurm job runs on its first node, to train one stage.

It supervises the processes as `curriculum run` does, started by `srun`: a crash, or a node's processes lost, is
a fresh launch from the last checkpoint. When Slurm takes the job's time or nodes away it saves and queues again.
It ends with 0 only when the stage is done, since the jobs behind it wait for that.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from curriculum import fs
from curriculum.artifacts import jobs
from curriculum.artifacts.job_process import stop_on_signals
from curriculum.artifacts.stage_folder import Attempt, StageFolder, new_attempt
from curriculum.errors import CurriculumError, RunFailed
from curriculum.execution.notices import AttemptNotices
from curriculum.launchers import process as subprocess_launcher
from curriculum.launchers import slurm, slurm_record
from curriculum.launchers.supervisor import Launch, silence, supervise

ALLOCATION = "allocation.json"
NOT_DONE = 3
STEP_ENDS_SECONDS = 60.0


def main() -> int:
    """The exit code: 0 done, 3 saved before the end, 1 or 2 failed or refused."""
    submission = Attempt(Path(sys.argv[1]))
    number = os.environ["SLURM_JOB_ID"]
    job = jobs.load(submission.job)
    assert isinstance(job, jobs.TrainJob)
    try:
        outcome = _train(job, json.loads((submission.path / ALLOCATION).read_bytes()))
    except CurriculumError as error:
        print(error.render(), file=sys.stderr, flush=True)
        kind = jobs.FAILED if isinstance(error, RunFailed) else jobs.REFUSED
        write_outcome(submission, {"outcome": kind, "message": error.what, "hint": error.hint})
        return error.exit_code
    if outcome["outcome"] == jobs.DONE:
        write_outcome(submission, outcome)
        return 0
    submitted = slurm_record.read(Path(job.stage_folder))
    if submitted is not None and submitted.stopping:
        print("saved, and ended as asked", flush=True)
        write_outcome(submission, outcome)
        return NOT_DONE
    queue_again(number)
    return NOT_DONE


def _train(job: jobs.TrainJob, asked: dict[str, Any]) -> dict[str, Any]:
    folder = StageFolder(Path(job.stage_folder))
    threads = int(asked["threads"] or _share_of_cores(asked["processes"]))
    steps = slurm.SrunLauncher(
        nodes=asked["nodes"], processes=asked["processes"], threads=threads, address=asked["address"]
    )

    teller = AttemptNotices(folder.name, folder, job.machine.grace, lambda line: print(line, flush=True))

    def launch() -> Launch:
        attempt = new_attempt(folder.attempts)
        command = steps.command(attempt.job)
        jobs.save(
            replace(job, attempt_folder=str(attempt), machine=replace(job.machine, threads=threads)),
            attempt.job,
        )
        print(f"attempt {attempt.name}: {' '.join(command)}", flush=True)
        teller.begins(attempt)
        return Launch(
            subprocess_launcher.begin(command, threads=threads, log=attempt.log),
            attempt,
        )

    with fs.Lock(folder.supervised, f"`{folder.name}`"), stop_on_signals() as stop:
        return supervise(
            launch,
            stop=stop,
            ask_to_stop=_ask_ranks,
            kill=_end_step,
            progress=lambda: slurm_record.reached(folder, 0),
            examine=subprocess_launcher.examine,
            silence=silence(job.machine),
            tick=teller.look,
        )


def _ask_ranks(process: subprocess.Popen[bytes]) -> None:
    """srun hands SIGUSR1 on to every rank; SIGTERM would end srun itself before they have saved."""
    if process.poll() is None:
        process.send_signal(signal.SIGUSR1)


def _end_step(process: subprocess.Popen[bytes]) -> None:
    """End the ranks at once. On SIGTERM srun ends its step on every node; killed itself, it would leave them there."""
    process.terminate()
    try:
        process.wait(STEP_ENDS_SECONDS)
    except subprocess.TimeoutExpired:
        subprocess_launcher.kill(process)


def queue_again(number: str) -> None:
    """Put this job back into the queue, unless whoever ended it wants it gone or queues it again himself."""
    try:
        found = slurm.query(number)
        if found is None or found.state != "RUNNING":
            print("saved; Slurm takes this job away", flush=True)
            return
        print(
            "saved; asks to be queued again", flush=True
        )  # now: Slurm may end this process while it answers
        said = slurm.requeue(number)
    except slurm.Unreachable as error:
        said = error.what
    if said:
        print(f"not queued again: {said}", flush=True)


def _share_of_cores(processes: int) -> int:
    stated = os.environ.get("SLURM_CPUS_ON_NODE")
    return max(1, int(stated) // processes) if stated else subprocess_launcher.default_threads({}, processes)


def write_outcome(submission: Attempt, outcome: dict[str, Any]) -> None:
    """Say in the submission's folder how it ended."""
    fs.write_json(submission.outcome, outcome, replace=True)


if __name__ == "__main__":
    sys.exit(main())
