"""The restart policy of a job: launch, watch, restart after a crash with backoff, stop on request.

A restart is a fresh launch that continues from the last complete checkpoint (torchrun's own restarts do not
recover on gloo). The first follows at once, the next ones after growing waits. Two in a row without progress are
the last.
"""

from __future__ import annotations

import math
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from curriculum import fs
from curriculum.artifacts import jobs
from curriculum.artifacts.job_process import StopFlag
from curriculum.artifacts.stage_folder import Attempt
from curriculum.errors import RunFailed
from curriculum.launchers.process import Launcher, ProcessLauncher, end_of, examine

RESTARTS_WITHOUT_PROGRESS = 2
BACKOFF_SECONDS = (0.0, 2.0, 10.0, 30.0, 60.0)
CALM_SECONDS = 600.0  # a launch that ran so long resets the backoff
TICK_SECONDS = 0.1
HUNG_SECONDS = 0.5


def silence(machine: jobs.Machine) -> float:
    """Seconds without a sign of life after which a rank hangs: what a start or a save may take, and five."""
    return machine.slow_limit + 5.0


def supervise(
    launcher: Launcher,
    next_attempt: Callable[[], Attempt],
    *,
    stop: StopFlag,
    progress: Callable[[], int] = lambda: 0,
    tick: Callable[[], None] = lambda: None,
    silence: float = math.inf,
    patience: float = math.inf,
    unsaid: Callable[[int], dict[str, Any]] = lambda code: {"outcome": jobs.FAILED},
) -> dict[str, Any]:
    """Run the job to its end and return its outcome (`{"outcome": "done"|"stopped", …}`).

    Every launch runs the job of an attempt made by `next_attempt`. `progress` is a number that grows with saved work.
    A job hangs when a rank has written its stacks, or has given no sign of life for `silence` seconds: its processes
    are recorded and killed. One that has not ended `patience` seconds after a stop is killed. `unsaid` says by its exit
    code how one ended that wrote no outcome. Raises RunFailed with the end of the log when the job refuses, or crashes
    `RESTARTS_WITHOUT_PROGRESS` times without saving anything new.
    """
    fruitless, restarts = 0, 0
    saved = progress()
    while True:
        attempt, started = next_attempt(), time.monotonic()
        launcher.announce(attempt)
        process = launcher.start(attempt)
        hung = _watch(launcher, process, [attempt], started, stop=stop, tick=tick, silence=silence, patience=patience)
        outcome = attempt.read_outcome() or unsaid(process.returncode)
        if outcome["outcome"] in (jobs.DONE, jobs.STOPPED):
            return outcome
        if outcome["outcome"] == jobs.REFUSED:
            entry = tuple(outcome.get("entry", ()))
            raise RunFailed(str(outcome["message"]), hint=outcome.get("hint"), entry=entry)
        if stop:
            return {"outcome": jobs.STOPPED}
        before, saved = saved, progress()
        fruitless = 0 if saved > before else fruitless + (outcome["outcome"] != jobs.TAKEN)
        if fruitless >= RESTARTS_WITHOUT_PROGRESS:
            raise _failure(attempt, fruitless, None if hung else process.returncode)
        restarts = 0 if time.monotonic() - started > CALM_SECONDS else restarts + 1
        if not _waited(BACKOFF_SECONDS[min(max(0, restarts - 1), len(BACKOFF_SECONDS) - 1)], stop):
            return {"outcome": jobs.STOPPED}


def supervise_each(
    launcher: ProcessLauncher, attempts: Sequence[Attempt], *, stop: StopFlag, tick: Callable[[], None], silence: float
) -> None:
    """Run the jobs of several attempts one after the other in one process, once: each attempt has its own outcome.

    Those without one did not start, or ended with the process.
    """
    listed = attempts[0].path / "each.txt"
    fs.write_bytes(listed, "".join(f"{attempt.job}\n" for attempt in attempts).encode())
    process = launcher.start_each(listed, attempts[0].path / "each.log")
    _watch(launcher, process, attempts, time.monotonic(), stop=stop, tick=tick, silence=silence, patience=math.inf)


def _watch(
    launcher: Launcher,
    process: subprocess.Popen[bytes],
    attempts: Sequence[Attempt],
    started: float,
    *,
    stop: StopFlag,
    tick: Callable[[], None],
    silence: float,
    patience: float,
) -> bool:
    """Return once the process has ended by itself, after a stop, or killed because it hangs: then true."""
    heartbeat, stopped_at, hung = Heartbeat(attempts, silence), math.inf, False
    try:
        with end_of(process) as wait_for_end:
            while process.poll() is None:
                if stop and stopped_at == math.inf:
                    launcher.stop(process, heartbeat.attempt, urgent=stop.urgent)
                    stopped_at = time.monotonic()
                if time.monotonic() - stopped_at > patience:
                    launcher.kill(process)
                tick()
                launcher.check(heartbeat.attempt, time.monotonic() - started)
                wait_for_end(TICK_SECONDS)
                if heartbeat.lost():
                    hung = True
                    examine(process, heartbeat.attempt)
                    time.sleep(HUNG_SECONDS)  # for the other ranks' stacks
                    launcher.kill(process)
                    process.wait()
    except BaseException:
        launcher.kill(process)
        process.wait()
        raise
    tick()
    return hung


def _failure(attempt: Attempt, times: int, code: int | None) -> RunFailed:
    """The error of a job that failed so many times; `code` is its last exit code, None where it was killed here."""
    what, hint = f"the job failed {times} times in a row without saving anything new", f"the whole log: {attempt.log}"
    if code is not None and code < 0:
        what += f", the last time ended by {_signal(-code)}"
    if code == -signal.SIGKILL:
        hint = f"memory that runs out is the usual reason: the kernel's log (`dmesg`) would say so; {hint}"
    tail = _tail(attempt.log)
    return RunFailed(f"{what}; its log ends with:\n{tail}" if tail else f"{what}; its log is empty", hint=hint)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _waited(seconds: float, stop: StopFlag) -> bool:
    """Wait; false as soon as a stop is requested."""
    deadline = time.monotonic() + seconds
    while not stop and time.monotonic() < deadline:
        time.sleep(min(TICK_SECONDS, seconds))
    return not stop


class Heartbeat:
    """The signs of life of an attempt's ranks: the files for stacks, which each rank touches every second.

    Of several attempts of one process the first counts that has no outcome.

    Only a change of the file's time counts, not the time itself: clocks may jump.
    """

    def __init__(self, attempts: Sequence[Attempt], silence: float) -> None:
        self._attempts = attempts
        self._silence = silence
        self._last: dict[Path, tuple[int, float]] = {}

    @property
    def attempt(self) -> Attempt:
        """The attempt whose job is under way."""
        if len(self._attempts) == 1:
            return self._attempts[0]
        return next((attempt for attempt in self._attempts if not attempt.outcome.exists()), self._attempts[-1])

    def lost(self) -> bool:
        """Whether a rank has written its stacks, or has been silent for too long."""
        now = time.monotonic()
        for path in self.attempt.all_stacks():
            status = path.stat()
            if status.st_size:
                return True
            if self._last.get(path, (-1, now))[0] != status.st_mtime_ns:
                self._last[path] = (status.st_mtime_ns, now)
            elif now - self._last[path][1] > self._silence:
                return True
        return False


def _tail(log: Path, lines: int = 12) -> str:
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""  # it ended before it wrote any
