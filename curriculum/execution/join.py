"""A node that is not the first of several: it joins every launch that the first node announces, until all is done."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from curriculum import fs
from curriculum.artifacts.job_process import StopFlag
from curriculum.artifacts.stage_folder import Attempt, StageFolder
from curriculum.compiler.compile import Compiled
from curriculum.execution.request import RunRequest
from curriculum.launchers import process as subprocess_launcher
from curriculum.launchers.base import Launcher
from curriculum.runs.folders import is_finished, stage_folder

LOOK_SECONDS = 0.2


def leading(request: RunRequest) -> contextlib.AbstractContextManager[object]:
    """Held by the first of several nodes for as long as it leads; Busy when another leads already."""
    if request.machine_entry.nodes == 1 or request.node_rank is None:
        return contextlib.nullcontext()
    fs.make_directory(_lock(request).parent)
    lock = fs.Lock(_lock(request), f"leading {request.curriculum} on several nodes")
    lock.acquire(wait_seconds=2.0)  # whoever looks holds it for an instant
    return lock


def _lock(request: RunRequest) -> Path:
    return request.project.runs / request.size / request.curriculum / "leading.lock"


def join(request: RunRequest, compiled: Compiled, launcher: Launcher, stop: StopFlag) -> bool:
    """Take part until every stage is done; false when it was asked to stop, for which the first node saves.

    The first node decides everything and begins anew after a crash; this one follows it.
    """
    folders = [(stage, stage_folder(request.project, compiled, stage)) for stage in compiled.stages]
    joined: set[Attempt] = set()
    request.listener.noted("waiting for the first node to begin")
    while not all(is_finished(folder, stage) for stage, folder in folders):
        if stop:
            return False
        open_now = (_open(request, folder) for _, folder in folders)
        attempt = next((each for each in open_now if each is not None and each not in joined), None)
        if attempt is None:
            time.sleep(LOOK_SECONDS)
            continue
        joined.add(attempt)
        _take_part(attempt, request, launcher, stop)
    return True


def _take_part(attempt: Attempt, request: RunRequest, launcher: Launcher, stop: StopFlag) -> None:
    assert request.node_rank is not None
    folder = StageFolder(attempt.path.parents[1])
    log = attempt.node_log(request.node_rank)
    request.listener.noted(f"joins attempt {attempt.number} of {folder.stage}; its log: {log}")
    process = subprocess_launcher.begin(launcher.command(attempt.job), threads=launcher.threads, log=log)
    told = False
    try:
        while process.poll() is None:
            if stop and not told:
                subprocess_launcher.stop(process)
                told = True
            if not told and not attempt.outcome.exists() and _open(request, folder) != attempt:
                subprocess_launcher.kill(process)  # the first node is gone, or has begun anew
            time.sleep(LOOK_SECONDS)
    except BaseException:
        subprocess_launcher.kill(process)
        process.wait()
        raise


def _open(request: RunRequest, folder: StageFolder) -> Attempt | None:
    """The stage's newest attempt, if the first node is there, announced it and it has not ended."""
    newest = folder.newest_attempt()
    if newest is None or newest.outcome.exists() or not newest.announcement.exists():
        return None
    return newest if fs.lock_holder(_lock(request)) is not None else None
