"""Runs that are ended by SIGKILL, command and trainer, after they have saved something."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import commands

from curriculum.artifacts import checkpoints
from curriculum.artifacts.stage_folder import StageFolder


def run_killed(project: Path, folder: StageFolder, *words: str, kills: int) -> None:
    """`curriculum run WORDS` until the stage of `folder` is done, killed `kills` times inside it."""
    killed = 0
    while not folder.done.exists():
        before = checkpoints.latest(folder)
        with (project / "log").open("a") as log:
            running = commands.start(
                *("run", *words),
                folder=project,
                environment={**os.environ, "OMP_NUM_THREADS": "1"},
                out=log.fileno(),
                err=log.fileno(),
                fresh=not killed,  # the first as a person starts it, the others forked
            )
        deadline = time.monotonic() + 300
        while killed < kills and running.poll() is None and time.monotonic() < deadline:
            now = checkpoints.latest(folder)
            if now is not None and now != before and not folder.done.exists():
                pid = json.loads(folder.lock.read_text() or "{}").get("pid")
                if pid is not None:
                    running.kill()
                    os.kill(int(pid), signal.SIGKILL)
                    killed += 1
                    break
            time.sleep(0.005)
        running.wait(300)
    assert killed == kills, (project / "log").read_text()
