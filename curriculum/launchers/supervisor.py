"""Keeps one job running until it is done: starts it, watches it, restarts it after a crash, stops it when asked.

A restart is a fresh launch that goes on from the last complete checkpoint (torchrun's own restarts do not
recover on gloo). The first comes at once; those that follow soon wait longer each time. They end when two in a row
made no progress.
"""

from __future__ import annotations

import math
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curriculum import fs
from curriculum.artifacts import jobs
from curriculum.artifacts.job_process import StopFlag
from curriculum.artifacts.stage_folder import Attempt
from curriculum.errors import RunFailed

RESTARTS_WITHOUT_PROGRESS = 2
BACKOFF_SECONDS = (0.0, 2.0, 10.0, 30.0, 60.0)
CALM_SECONDS = 600.0  # a launch that lived so long is no sign of a fault that comes back at once
TICK_SECONDS = 0.1
HUNG_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Launch:
    """A started process and the attempt folder in which it says how it ended."""

    process: subprocess.Popen[bytes]
    attempt: Attempt


def silence(machine: jobs.Machine) -> float:
    """Seconds after which a rank that gives no sign hangs: what a start or a save may take, and a little."""
    return machine.hang_limit * jobs.SLOW_TIMES + 5.0


def supervise(
    launch: Callable[[], Launch],
    *,
    stop: StopFlag,
    ask_to_stop: Callable[[subprocess.Popen[bytes]], None],
    kill: Callable[[subprocess.Popen[bytes]], None],
    progress: Callable[[], int],
    tick: Callable[[], None] = lambda: None,
    examine: Callable[[subprocess.Popen[bytes], Attempt], None] = lambda process, attempt: None,
    silence: float = math.inf,
) -> dict[str, Any]:
    """Run the job to its end and return its outcome (`{"outcome": "done"|"stopped", …}`).

    `progress` is a number that grows with saved work. A job hangs when a rank has written its stacks, or has given
    no sign of life for `silence` seconds: `examine` may write down what there is to see before it is ended. Raises
    RunFailed with the end of the log when the job refuses, or crashes `RESTARTS_WITHOUT_PROGRESS` times without
    saving anything new.
    """
    fruitless, soon = 0, 0
    reached = progress()
    while True:
        started = launch()
        began, signs = time.monotonic(), Signs(started.attempt, silence)
        told = False
        try:
            while started.process.poll() is None:
                if stop and not told:
                    ask_to_stop(started.process)
                    told = True
                tick()
                time.sleep(TICK_SECONDS)
                if signs.of_hanging():
                    examine(started.process, started.attempt)
                    time.sleep(HUNG_SECONDS)  # for the other ranks' stacks
                    kill(started.process)
                    started.process.wait()
        except BaseException:
            kill(started.process)
            started.process.wait()
            raise
        tick()
        outcome = _outcome(started)
        if outcome["outcome"] in (jobs.DONE, jobs.STOPPED):
            return outcome
        if outcome["outcome"] == jobs.REFUSED:
            entry = tuple(outcome.get("entry", ()))
            raise RunFailed(str(outcome["message"]), hint=outcome.get("hint"), entry=entry)
        if stop:
            return {"outcome": jobs.STOPPED}
        now = progress()
        fruitless = 0 if now > reached else fruitless + 1
        reached = now
        if fruitless >= RESTARTS_WITHOUT_PROGRESS:
            raise RunFailed(
                f"the job failed {fruitless} times in a row without getting any further; "
                f"its log ends with:\n{_tail(started.attempt.log)}",
                hint=f"the whole log: {started.attempt.log}",
            )
        soon = 0 if time.monotonic() - began > CALM_SECONDS else soon + 1
        if not _waited(BACKOFF_SECONDS[min(max(0, soon - 1), len(BACKOFF_SECONDS) - 1)], stop):
            return {"outcome": jobs.STOPPED}


def _waited(seconds: float, stop: StopFlag) -> bool:
    """Wait; false as soon as a stop is asked for."""
    deadline = time.monotonic() + seconds
    while not stop and time.monotonic() < deadline:
        time.sleep(min(TICK_SECONDS, seconds))
    return not stop


class Signs:
    """What the ranks of one attempt show of themselves: the files of stacks that they touch while they go on.

    Only whether a file was touched counts, not when it says it was: clocks may jump.
    """

    def __init__(self, attempt: Attempt, silence: float) -> None:
        self._attempt = attempt
        self._silence = silence
        self._last: dict[Path, tuple[int, float]] = {}

    def of_hanging(self) -> bool:
        """Whether a rank has written down where it hangs, or has been silent for too long."""
        now = time.monotonic()
        for path in self._attempt.all_stacks():
            found = path.stat()
            if found.st_size:
                return True
            if self._last.get(path, (-1, now))[0] != found.st_mtime_ns:
                self._last[path] = (found.st_mtime_ns, now)
            elif now - self._last[path][1] > self._silence:
                return True
        return False


def _outcome(launch: Launch) -> dict[str, Any]:
    try:
        value: dict[str, Any] = fs.parse_json(fs.read_bytes(launch.attempt.outcome))
    except (OSError, ValueError):
        value = {"outcome": jobs.FAILED, "message": f"exit code {launch.process.returncode}"}
    return value


def _tail(log: Path, lines: int = 12) -> str:
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return "(no log)"
