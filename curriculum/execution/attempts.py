"""One launch of one job: a numbered folder for it, a process, and whoever watches."""

from __future__ import annotations

from pathlib import Path

from curriculum import fs
from curriculum.artifacts import jobs
from curriculum.artifacts.job_process import StopFlag
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
    attempt = Path(job.attempt_folder)
    jobs.save(job, attempt / "job.json")
    request.listener.preparing(what, progress)
    cores = subprocess_launcher.default_threads({}, processes)

    def launch() -> Launch:
        process = subprocess_launcher.start(
            attempt / "job.json", processes=processes, threads=cores, log=attempt / "rank0.log"
        )
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


def next_attempt(folder: Path) -> Path:
    """The folder that the next attempt below `folder` would get."""
    taken = folder.iterdir() if folder.is_dir() else ()
    return folder / f"{max((int(p.name) for p in taken if p.name.isdigit()), default=0) + 1:04d}"


def fresh_attempt(folder: Path) -> Path:
    """A fresh numbered attempt folder; two processes never get the same one."""
    fs.make_directory(folder)
    number = int(next_attempt(folder).name)
    while True:
        path = folder / f"{number:04d}"
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
            continue
        fs.fsync(folder)
        return path
