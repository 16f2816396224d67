"""One launch of one job: a numbered folder for it, a process, and whoever watches."""

from __future__ import annotations

from pathlib import Path

from curriculum.artifacts import jobs
from curriculum.artifacts.job_process import StopFlag
from curriculum.artifacts.stage_folder import Attempt
from curriculum.execution.request import RunRequest
from curriculum.launchers import process as subprocess_launcher
from curriculum.launchers.supervisor import Launch, supervise


def run_job(
    request: RunRequest,
    job: jobs.Job,
    what: str,
    progress: Path | None,
    stop: StopFlag,
    processes: int = 1,
) -> bool:
    """Run `job` in a process of its own, or in several, shown as `what`; false when it was asked to stop."""
    attempt = Attempt(Path(job.attempt_folder))
    jobs.save(job, attempt.job)
    request.listener.preparing(what, progress)
    cores = subprocess_launcher.default_threads({}, processes)

    def launch() -> Launch:
        process = subprocess_launcher.start(attempt.job, processes=processes, threads=cores, log=attempt.log)
        return Launch(process, attempt)

    outcome = supervise(
        launch,
        stop=stop,
        ask_to_stop=subprocess_launcher.stop,
        kill=subprocess_launcher.kill,
        progress=lambda: 0,
        tick=request.listener.tick,
    )
    if outcome["outcome"] == jobs.DONE:
        request.listener.prepared(what)
        return True
    return False
