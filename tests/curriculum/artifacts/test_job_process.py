"""Signals in real processes: a flag, not a death; and no orphan goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

WAITS = """\
import sys, time
from curriculum.artifacts.job_process import install_stop_flag
flag = install_stop_flag()
assert "torch" not in sys.modules
print("ready", flush=True)
deadline = time.monotonic() + 30
while not flag and time.monotonic() < deadline:
    time.sleep(0.01)
print("asked" if flag else "forgotten", flush=True)
"""


def start(script: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_sets_the_flag_and_the_process_ends_when_it_likes(number: signal.Signals) -> None:
    process = start(WAITS)
    process.send_signal(number)
    assert process.communicate(timeout=30)[0] == "asked\n"
    assert process.returncode == 0


def test_a_second_interrupt_ends_the_process_at_once() -> None:
    process = start(WAITS.replace("while not flag and", "while"))
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 130


def test_terminating_twice_is_still_one_request() -> None:
    process = start(WAITS.replace("while not flag and", "while").replace("+ 30", "+ 1"))
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    assert process.communicate(timeout=30)[0] == "asked\n"


def test_a_worker_whose_parent_is_killed_is_asked_to_stop(tmp_path: Path) -> None:
    said = tmp_path / "said"
    worker = WAITS.replace("print(", "print(file=open(sys.argv[1], 'a'), end='\\n', *[").replace(
        ", flush=True)", "], flush=True)"
    )
    parent = f"""\
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {worker!r}, {str(said)!r}])
while not open({str(said)!r}, "a").tell():
    time.sleep(0.01)
print("ready", flush=True)
time.sleep(60)
"""
    process = start(parent)
    process.kill()
    process.wait(timeout=10)
    deadline = time.monotonic() + 20
    while "asked" not in said.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert said.read_text() == "ready\nasked\n"
