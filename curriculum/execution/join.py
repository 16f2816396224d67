"""The nodes of a torchrun run: the lock of the first, and the others, which join each launch that it announces."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from curriculum import fs
from curriculum.artifacts.job_process import StopFlag
from curriculum.artifacts.stage_folder import Attempt, StageFolder
from curriculum.compiler.compile import Compiled
from curriculum.execution.request import RunRequest
from curriculum.launchers import process
from curriculum.launchers.process import Launcher
from curriculum.runs.folders import is_finished, stage_folder

POLL_SECONDS = 0.2


def leading(request: RunRequest) -> contextlib.AbstractContextManager[object]:
    """Held by the first of several nodes for as long as it leads; Busy when another leads already."""
    if request.machine_entry.nodes == 1 or request.node_rank is None:
        return contextlib.nullcontext()
    fs.make_directory(_lock(request).parent)
    lock = fs.Lock(_lock(request), f"leading {request.curriculum} on several nodes")
    lock.acquire(wait_seconds=2.0)  # another node that looks for the holder takes it for an instant
    return lock


def _lock(request: RunRequest) -> Path:
    return request.project.runs / request.size / request.curriculum / "leading.lock"


def join(request: RunRequest, compiled: Compiled, launcher: Launcher, stop: StopFlag) -> bool:
    """Join every attempt until each stage is done; false when it was stopped (the first node saves).

    The first node decides everything and restarts after a crash; this one follows it.
    """
    folders = [(stage, stage_folder(request.project, compiled, stage)) for stage in compiled.stages]
    joined: set[Attempt] = set()
    request.listener.note("waiting for the first node to start")
    while not all(is_finished(folder, stage) for stage, folder in folders):
        if stop:
            return False
        attempts = (_open_attempt(request, folder) for _, folder in folders)
        attempt = next((path for path in attempts if path is not None and path not in joined), None)
        if attempt is None:
            time.sleep(POLL_SECONDS)
            continue
        joined.add(attempt)
        _join_attempt(attempt, request, launcher, stop)
    return True


def _join_attempt(attempt: Attempt, request: RunRequest, launcher: Launcher, stop: StopFlag) -> None:
    assert request.node_rank is not None
    folder = StageFolder(attempt.path.parents[1])
    log = attempt.node_log(request.node_rank)
    request.listener.note(f"joins attempt {attempt.number} of {folder.stage}; its log: {log}")
    job = launcher.start(attempt, log)
    stopping = False
    try:
        while job.poll() is None:
            if stop and not stopping:
                launcher.stop(job, attempt, urgent=stop.urgent)
                stopping = True
            if not stopping and not attempt.outcome.exists() and _open_attempt(request, folder) != attempt:
                process.kill(job)  # the first node is gone, or has restarted
            time.sleep(POLL_SECONDS)
    except BaseException:
        process.kill(job)
        job.wait()
        raise


def _open_attempt(request: RunRequest, folder: StageFolder) -> Attempt | None:
    """The stage's newest attempt, if the first node leads, has announced it and it has not ended."""
    newest = folder.newest_attempt()
    if newest is None or newest.outcome.exists() or not newest.announcement.exists():
        return None
    return newest if fs.lock_holder(_lock(request)) is not None else None
