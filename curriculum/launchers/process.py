"""Jobs on this machine: one process, or torchrun with several."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from curriculum import fs
from curriculum.artifacts.job_process import processors, terminate_with_parent
from curriculum.artifacts.stage_folder import Attempt
from curriculum.launchers.base import environment, runner_command


@dataclass(frozen=True, slots=True)
class ProcessLauncher:
    """One process, or torchrun with several, on this machine alone."""

    processes: int
    threads: int

    def command(self, job: Path) -> list[str]:
        return command(job, self.processes)

    def announce(self, attempt: Attempt) -> None:
        """Nobody else takes part."""

    def check(self, attempt: Attempt, seconds: float) -> None:
        """Nobody else is waited for."""


def command(job: Path, processes: int) -> list[str]:
    """The command line that runs `job` in `processes` processes."""
    python = runner_command()
    if processes == 1:
        return [*python, str(job)]
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
    ]
    return [*torchrun, *python[1:], str(job)]


def start(job: Path, *, processes: int, threads: int, log: Path) -> subprocess.Popen[bytes]:
    """Start `job` on this machine; see `begin`."""
    return begin(command(job, processes), threads=threads, log=log)


def begin(words: Sequence[str], *, threads: int, log: Path) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own, its output appended to `log`.

    A group of its own, so that Ctrl-C reaches it once and through us. When we are killed outright the kernel
    tells it to stop, so that nobody trains on unseen.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(threads),
            start_new_session=True,
            preexec_fn=terminate_with_parent,
        )


def stop(process: subprocess.Popen[bytes], *, urgent: bool = False) -> None:
    """Ask the job to save and end; `urgent` when it may be killed after the machine's grace.

    The ranks are asked, and torchrun is not: it would kill them 30 seconds after it was.
    """
    if process.poll() is not None:
        return
    ranks = [pid for pid in (process.pid, *_descendants(process.pid)) if _is_rank(pid)]
    for pid in ranks:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM if urgent else signal.SIGUSR1)
    if not ranks:  # none has begun yet, or none can be seen: nothing is lost with them
        os.killpg(process.pid, signal.SIGTERM)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End the process, its group, and all that torchrun started in groups of their own, at once."""
    below = _descendants(process.pid)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for pid in below:  # one that was stopped (SIGSTOP) would outlive any other signal
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def examine(process: subprocess.Popen[bytes], attempt: Attempt) -> None:
    """Write down what the system tells of the processes of a job that hangs, and have each write its stacks.

    Whoever was stopped (SIGSTOP) goes on for as long as that takes.
    """
    below = [process.pid, *_descendants(process.pid)]
    told = "\n".join(filter(None, map(_account, below)))
    fs.write_bytes(attempt.processes, told.encode(), replace=True)
    for pid in below:
        with contextlib.suppress(OSError):
            if _catches(pid, signal.SIGUSR2):  # whoever does not would die of it
                os.kill(pid, signal.SIGUSR2)
            os.kill(pid, signal.SIGCONT)


def _account(pid: int) -> str:
    """A process's rank, state and command, and of its threads where in the kernel they wait, as far as we may know."""
    folder = Path(f"/proc/{pid}")
    try:
        command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        variables = (folder / "environ").read_bytes().split(b"\0")  # only the rank of it is ever written down
        rank = next((word[5:].decode() for word in variables if word.startswith(b"RANK=")), "none")
        status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines())
        lines = [f"process {pid}, rank {rank}: {command.strip()}"]
        lines += [f"  {key}: {status[key].strip()}" for key in ("State", "Threads", "VmRSS") if key in status]
        for thread in sorted((folder / "task").iterdir(), key=lambda each: int(each.name)):
            state = (thread / "stat").read_text().rpartition(")")[2].split()[0]
            lines.append(f"  thread {thread.name} {state} waits in {_read(thread / 'wchan') or '-'}")
            lines += [f"    {line}" for line in _read(thread / "stack").splitlines()]
    except (OSError, ValueError):  # it has ended meanwhile, or is not ours
        return ""
    return "\n".join(lines) + "\n"


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _is_rank(pid: int) -> bool:
    """Whether a process trains: it alone answers both the wish to end and the wish for its stacks."""
    try:
        return _catches(pid, signal.SIGUSR1) and _catches(pid, signal.SIGUSR2)
    except OSError:
        return False


def _catches(pid: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> (number - 1) & 1)


def _descendants(pid: int) -> list[int]:
    """The processes below `pid`, where the system tells (Linux)."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        at = waiting.pop()
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{at}/task").iterdir():
                children = [int(word) for word in (thread / "children").read_text().split()]
                found += children
                waiting += children
    return found


def default_threads(machine: Mapping[str, object], processes: int) -> int:
    """Threads of each process: as the machine file says, else an even share of the cores we may use."""
    stated = machine.get("threads")
    if isinstance(stated, int):
        return stated
    return max(1, processors() // processes)
