"""What torchrun hides or cannot do, the supervisor knows from files and does itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from curriculum.artifacts.job_process import StopFlag
from curriculum.artifacts.stage_folder import Attempt
from curriculum.errors import RunFailed
from curriculum.launchers import process as subprocess_launcher, supervisor
from curriculum.launchers.process import ProcessLauncher
from curriculum.launchers.supervisor import supervise

pytestmark = pytest.mark.processes


def launches(folder: Path, *outcomes: str | None) -> list[Attempt]:
    """Attempt folders of processes that all end with code 1, as torchrun does after a signal."""
    attempts: list[Attempt] = []
    for number, outcome in enumerate(outcomes):
        attempt = folder / f"{number:04d}"
        attempt.mkdir()
        if outcome is not None:
            (attempt / "outcome.json").write_text(json.dumps({"outcome": outcome, "position": number}))
        attempts.append(Attempt(attempt))
    return attempts


@dataclass(frozen=True, kw_only=True)
class Script(ProcessLauncher):
    """Starts the `code` of an attempt, with its folder as the argument."""

    code: Callable[[Attempt], str]

    def start(self, attempt: Attempt) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", self.code(attempt), str(attempt)], start_new_session=True)


def watched(attempts: list[Attempt], reached: list[int]) -> tuple[dict[str, object], int]:
    waiting = iter(attempts)
    started: list[Attempt] = []

    def next_attempt() -> Attempt:
        started.append(next(waiting))
        return started[-1]

    outcome = supervise(
        Script(1, 1, code=lambda attempt: "raise SystemExit(1)"),
        next_attempt,
        stop=StopFlag(),
        progress=lambda: reached[min(len(started), len(reached) - 1)],
    )
    return outcome, len(started)


def test_a_job_that_saved_and_stopped_is_known_by_its_file_though_torchrun_ends_with_code_1(tmp_path: Path) -> None:
    outcome, started = watched(launches(tmp_path, "stopped"), [0])
    assert (outcome["outcome"], started) == ("stopped", 1)


def test_a_crash_is_followed_by_a_fresh_launch_in_a_fresh_folder(tmp_path: Path) -> None:
    outcome, started = watched(launches(tmp_path, None, "done"), [0, 10, 20])
    assert (outcome["outcome"], started) == ("done", 2)


@pytest.mark.parametrize(
    ("code", "what", "hint"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended by SIGKILL; its log is empty", "memory"),
        ("import os; os.kill(os.getpid(), 40)", "the last time ended by signal 40; its log is empty", "the whole log"),
        ("raise SystemExit(3)", "without saving anything new; its log is empty", "the whole log"),
        ("import sys; open(sys.argv[1] + '/rank0.log', 'w').write('bad\\nluck'); raise SystemExit(1)",
         "its log ends with:\nbad\nluck", "the whole log"),
    ],
)  # fmt: skip
def test_a_job_that_fails_again_and_again_is_reported_with_its_signal_and_the_end_of_its_log(
    tmp_path: Path, code: str, what: str, hint: str
) -> None:
    attempts = iter(launches(tmp_path, None, None))
    with pytest.raises(RunFailed) as failure:
        supervise(Script(1, 1, code=lambda attempt: code), attempts.__next__, stop=StopFlag())
    assert failure.value.what.startswith("the job failed 2 times in a row without saving anything new")
    assert what in failure.value.what
    assert (failure.value.hint or "").startswith(hint)
    assert "rank0.log" in (failure.value.hint or "")


def test_torchrun_is_never_asked_to_restart_workers_itself() -> None:
    words = ProcessLauncher(2, 1).command(Path("job.json"))
    assert "torch.distributed.run" in words
    assert not [word for word in words if "restart" in word], "its restarts do not recover on gloo"
    assert "--standalone" in words


def test_a_rank_that_writes_its_stacks_is_ended_with_all_below_it_and_started_again(tmp_path: Path) -> None:
    first, second = launches(tmp_path, None, "done")
    sleeper = tmp_path / "sleeper"
    code = (
        "import os, subprocess, sys, time; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True); "
        f"open({str(sleeper)!r}, 'w').write(str(child.pid)); "
        f"open({str(first.stacks(1))!r}, 'w').write('Thread 0x1'); time.sleep(60)"
    )
    began = time.monotonic()
    outcome = supervise(
        Script(1, 1, code=lambda attempt: code if attempt == first else "pass"),
        iter((first, second)).__next__,
        stop=StopFlag(),
        progress=lambda: int(time.monotonic() > began),
    )
    assert outcome["outcome"] == "done"
    assert time.monotonic() - began < 30
    stat = Path(f"/proc/{sleeper.read_text()}/stat")
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the kernel does not tell")
def test_the_end_of_a_job_is_noticed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "TICK_SECONDS", 20.0)
    began = time.monotonic()
    outcome, _ = watched(launches(tmp_path, "done"), [0])
    assert outcome["outcome"] == "done"
    assert time.monotonic() - began < 15


def test_a_job_that_does_not_hear_a_stop_is_ended_when_its_patience_is_over(tmp_path: Path) -> None:
    deaf = (
        "import signal, sys, time; from pathlib import Path; "
        "[signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGUSR1)]; "
        "Path(sys.argv[1], 'ready').touch(); deadline = time.monotonic() + 60\n"
        "while time.monotonic() < deadline: time.sleep(1)"
    )
    (attempt,) = launches(tmp_path, None)
    stop, asked = StopFlag(), list[float]()

    def tick() -> None:
        if not asked and (attempt.path / "ready").exists():
            asked.append(time.monotonic())
            stop.receive(signal.SIGTERM)

    outcome = supervise(Script(1, 1, code=lambda attempt: deaf), lambda: attempt, stop=stop, tick=tick, patience=0.5)
    assert outcome["outcome"] == "stopped"
    assert time.monotonic() - asked[0] < 2


GOES_ON = """\
import sys, time
from pathlib import Path
from curriculum.artifacts.stage_folder import Attempt
from curriculum.stream.watchdog import Watchdog
with Watchdog(Attempt(Path(sys.argv[1])), 0, 60.0) as watchdog:
    while True:
        watchdog.arm()
        time.sleep(0.05)
"""


@pytest.mark.promise(
    "A process stopped by SIGSTOP is noticed, resumed for its stacks and recorded; clock jumps do not "
    "matter; restarts back off up to a cap"
)
def test_a_process_that_was_stopped_whole_is_noticed_accounted_for_and_writes_its_stacks(tmp_path: Path) -> None:
    first, second = launches(tmp_path, None, "done")
    stopped: list[int] = []

    class Stopping(Script):
        def start(self, attempt: Attempt) -> subprocess.Popen[bytes]:
            process = super().start(attempt)
            if attempt == first:
                while not subprocess_launcher._catches(process.pid, signal.SIGUSR2):
                    time.sleep(0.01)
                os.kill(process.pid, signal.SIGSTOP)
                stopped.append(process.pid)
            return process

    began = time.monotonic()
    outcome = supervise(
        Stopping(1, 1, code=lambda attempt: GOES_ON if attempt == first else "pass"),
        iter((first, second)).__next__,
        stop=StopFlag(),
        progress=lambda: len(stopped),
        silence=2.0,
    )
    assert (outcome["outcome"], time.monotonic() - began < 30) == ("done", True)
    assert "in <module>" in first.stacks(0).read_text()
    report = first.processes.read_text()
    assert f"process {stopped[0]}, rank none: " in report
    assert "State: T (stopped)" in report
    assert "thread " in report


@pytest.mark.promise(
    "A process stopped by SIGSTOP is noticed, resumed for its stacks and recorded; clock jumps do not "
    "matter; restarts back off up to a cap"
)
def test_a_rank_that_goes_on_is_never_silent_whatever_the_clock_says(tmp_path: Path) -> None:
    path = tmp_path / "stacks-rank0.txt"
    path.touch()
    heartbeat = supervisor.Heartbeat([Attempt(tmp_path)], 0.3)
    for jump in (0, -(10**9), 10**9, 0):
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime + jump + 1))
        assert not heartbeat.lost()
        time.sleep(0.15)
    time.sleep(0.4)
    assert heartbeat.lost()


@pytest.mark.promise(
    "A process stopped by SIGSTOP is noticed, resumed for its stacks and recorded; clock jumps do not "
    "matter; restarts back off up to a cap"
)
def test_the_first_restart_comes_at_once_and_those_that_follow_soon_wait_longer_up_to_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def waited(seconds: float, stop: StopFlag) -> bool:
        waits.append(seconds)
        return True

    monkeypatch.setattr(supervisor, "_waited", waited)
    outcomes = [None] * 7 + ["done"]
    outcome, _ = watched(launches(tmp_path, *outcomes), list(range(10)))
    assert outcome["outcome"] == "done"
    assert waits == [0.0, 2.0, 10.0, 30.0, 60.0, 60.0, 60.0]
    waits.clear()
    monkeypatch.setattr(supervisor, "CALM_SECONDS", 0.0)
    (tmp_path / "calm").mkdir()
    watched(launches(tmp_path / "calm", None, None, None, "done"), list(range(10)))
    assert waits == [0.0, 0.0, 0.0]


def test_a_stop_that_is_asked_for_between_two_attempts_starts_none() -> None:
    stop = StopFlag()
    stop.requested = True
    began = time.monotonic()
    assert not supervisor._waited(60.0, stop)
    assert time.monotonic() - began < 5
