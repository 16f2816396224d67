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


def run_killed(project: Path, folder: StageFolder, *words: str, kills: int, fresh: bool = True) -> None:
    """`curriculum run WORDS` until the stage of `folder` is done, killed `kills` times inside it.

    With `fresh` the first is started as a person does, the others are forked.
    """
    for number in range(kills + 1):
        before = checkpoints.latest(folder)
        with (project / "log").open("a") as log:
            running = commands.start(
                *("run", *words),
                folder=project,
                environment={**os.environ, "OMP_NUM_THREADS": "1"},
                out=log.fileno(),
                err=log.fileno(),
                fresh=fresh and number == 0,
            )
        deadline = time.monotonic() + 120
        while number < kills:
            now = checkpoints.latest(folder)
            if now is not None and now != before and (pid := json.loads(folder.lock.read_text() or "{}").get("pid")):
                running.kill()
                os.kill(int(pid), signal.SIGKILL)
                break
            assert time.monotonic() < deadline, (project / "log").read_text()
            time.sleep(0.005)
        running.wait(300)
        assert folder.done.exists() == (number == kills), (project / "log").read_text()
