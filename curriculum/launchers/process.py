"""Launchers: how a job file becomes processes. Here one process, or torchrun with several, on this machine.

The only module that says `-m runner`. The functions start, stop, kill and examine processes on this machine.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curriculum import fs
from curriculum.artifacts.job_process import terminate_with_parent
from curriculum.artifacts.jobs import Trainer
from curriculum.artifacts.stage_folder import Attempt
from curriculum.errors import RunFailed


@dataclass(frozen=True)
class Launcher:
    """Starts and ends the processes of a job: `processes` on each node, each with `threads` threads.

    They are `trainer`'s, or our own. Of this machine's GPUs they see `devices` (CUDA_VISIBLE_DEVICES), or all.
    """

    processes: int
    threads: int
    trainer: Trainer | None = None
    devices: str | None = None

    def command(self, job: Path) -> list[str]:
        """The command line that runs the job file `job` to its end, or to the next save once it is stopped."""
        raise NotImplementedError

    def start(self, attempt: Attempt, log: Path | None = None) -> subprocess.Popen[bytes]:
        """Start the job of `attempt`, its output in the attempt's log or in another."""
        more: dict[str, Any] = {}
        if self.trainer is not None:
            more = {"folder": Path(self.trainer.folder), "variables": contract_variables(attempt)}
        return self.begin(self.command(attempt.job), log or attempt.log, **more)

    def begin(self, command: Sequence[str], log: Path, **more: Any) -> subprocess.Popen[bytes]:
        """Start `command` with this launcher's threads and devices; `more` are options of the function `begin`."""
        return begin(command, threads=self.threads, devices=self.devices, log=log, **more)

    def stop(self, process: subprocess.Popen[bytes], attempt: Attempt, *, urgent: bool) -> None:
        """Ask the job to save and end; `urgent` when it may be killed after the machine's grace."""
        if self.trainer is not None and self.trainer.stop == "file":
            fs.write_bytes(attempt.stop, b"", replace=True)
        else:
            self.signal_to_stop(process, urgent=urgent)

    def signal_to_stop(self, process: subprocess.Popen[bytes], *, urgent: bool) -> None:
        """The same by a signal to every rank."""
        stop(process, urgent=urgent)

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """End all processes of the job at once."""
        kill(process)

    def announce(self, attempt: Attempt) -> None:
        """Announce to the other nodes that `attempt` starts."""

    def check(self, attempt: Attempt, seconds: float) -> None:
        """RunFailed when a node has not joined `attempt`, `seconds` after its start."""


class ProcessLauncher(Launcher):
    """One process, or torchrun with several, on this machine alone."""

    def command(self, job: Path) -> list[str]:
        if self.processes == 1:
            return trainer_command(self.trainer, job)
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={self.processes}"]
        return [sys.executable, *torchrun, *torchrun_words(self.trainer, job)]

    def start_each(self, listed: Path, log: Path) -> subprocess.Popen[bytes]:
        """Start one process that trains the jobs of the file `listed`, a path a line, one after the other."""
        return self.begin([*runner_command(), "--each", str(listed)], log)


def trainer_command(trainer: Trainer | None, job: Path) -> list[str]:
    """The command of one rank: `trainer`'s or, without one, the runner's."""
    if trainer is None:
        return [*runner_command(), str(job)]
    words = [word.replace("{job}", str(job)) for word in trainer.run]
    return [sys.executable, *words[1:]] if words[0] == "python" else words


def torchrun_words(trainer: Trainer | None, job: Path) -> list[str]:
    """The same as torchrun's last arguments."""
    command = trainer_command(trainer, job)
    return command[1:] if trainer is None else ["--no-python", *command]


def contract_variables(attempt: Attempt) -> dict[str, str]:
    """What the processes of another trainer find in their environment."""
    stage = attempt.path.parents[1]
    return {"CURRICULUM_JOB": str(attempt.job), "CURRICULUM_STAGE": str(stage), "CURRICULUM_ATTEMPT": str(attempt)}


def runner_command() -> list[str]:
    """The interpreter and module that execute a job; RunFailed for a `runner` that is not installed with us."""
    spec = importlib.util.find_spec("runner")
    expected = Path(__file__).resolve().parents[2] / "runner" / "__init__.py"
    if spec is None or spec.origin is None or Path(spec.origin).resolve() != expected:
        raise RunFailed(
            f"the module `runner` that Python finds is not curriculum's: {spec.origin if spec else 'there is none'}",
            hint="rename the other `runner`, or run from another folder",
        )
    return [sys.executable, "-m", "runner"]


def environment(threads: int, devices: str | None = None) -> dict[str, str]:
    """The environment of every job process, which sees the GPUs `devices`, or all.

    PYTHONSAFEPATH ignores a `runner.py` in the working directory.
    """
    # torch's segments of a GPU's memory grow in place, so that tensors of other sizes leave no gaps
    stated = {"PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"} & os.environ.keys()
    return {
        **({} if stated else {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}),
        **os.environ,
        "OPENBLAS_NUM_THREADS": str(threads),  # this process may have set it for itself
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(threads),
        # Threads that wait by spinning slow each other down as soon as anything else runs on the machine: a
        # rehearsal with two other busy processes on two cores was measured several times slower without this.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **({} if devices is None else {"CUDA_VISIBLE_DEVICES": devices}),
    }


def begin(
    command: Sequence[str],
    *,
    threads: int,
    log: Path,
    devices: str | None = None,
    folder: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start `command` in a process group of its own, its output appended to `log`.

    `folder` and `variables` are those of another trainer, whose own modules Python has to find.
    In a group of its own Ctrl-C reaches it once and through us. When we are killed the kernel sends it SIGTERM, so
    no orphaned trainer continues.
    """
    ours = environment(threads, devices)
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=ours if variables is None else _of_another_trainer(ours, variables),
            cwd=folder,
            start_new_session=True,
            preexec_fn=terminate_with_parent,
        )


def _of_another_trainer(ours: dict[str, str], variables: Mapping[str, str]) -> dict[str, str]:
    if "PYTHONSAFEPATH" not in os.environ:
        del ours["PYTHONSAFEPATH"]
    return {**ours, **variables}


def stop(process: subprocess.Popen[bytes], *, urgent: bool = False) -> None:
    """Ask the ranks below `process` to save and end. Not torchrun: it would kill them 30 seconds later."""
    if process.poll() is not None:
        return
    # only ranks catch both the signal to save and the signal for stacks
    pids = (process.pid, *_descendants(process.pid))
    ranks = [pid for pid in pids if _catches(pid, signal.SIGUSR1, signal.SIGUSR2)]
    for pid in ranks:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM if urgent else signal.SIGUSR1)
    if not ranks:  # none has started, or none is visible: nothing is lost with them
        os.killpg(process.pid, signal.SIGTERM)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End the process, its group, and all that torchrun started in groups of their own, at once."""
    descendants = _descendants(process.pid)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for pid in descendants:  # one that was stopped (SIGSTOP) would outlive any other signal
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def end_of(process: subprocess.Popen[bytes]) -> Iterator[Callable[[float], object]]:
    """A function that returns once the process has ended, or after so many seconds.

    Where the kernel offers no descriptor of a process (Linux does), after these seconds only.
    """
    descriptor = None
    with contextlib.suppress(AttributeError, OSError):
        descriptor = os.pidfd_open(process.pid)
    if descriptor is None:
        yield time.sleep
        return
    try:
        ended = select.poll()
        ended.register(descriptor, select.POLLIN)
        yield lambda seconds: ended.poll(seconds * 1000)
    finally:
        os.close(descriptor)


def examine(process: subprocess.Popen[bytes], attempt: Attempt) -> None:
    """Record what the system reports of the processes of a job that hangs, and have each write its stacks.

    A process that was stopped (SIGSTOP) is resumed for that.
    """
    pids = [process.pid, *_descendants(process.pid)]
    report = "\n".join(filter(None, map(_process_report, pids)))
    fs.write_bytes(attempt.processes, report.encode(), replace=True)
    for pid in pids:
        with contextlib.suppress(OSError):
            if _catches(pid, signal.SIGUSR2):  # the signal ends a process without a handler
                os.kill(pid, signal.SIGUSR2)
            os.kill(pid, signal.SIGCONT)


def _process_report(pid: int) -> str:
    """A process's rank, state and command, and where in the kernel its threads wait, as far as we may read it."""
    folder = Path(f"/proc/{pid}")
    try:
        command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        variables = (folder / "environ").read_bytes().split(b"\0")  # only the rank of it is ever written down
        rank = next((word[5:].decode() for word in variables if word.startswith(b"RANK=")), "none")
        status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines())
        lines = [f"process {pid}, rank {rank}: {command.strip()}"]
        lines += [f"  {key}: {status[key].strip()}" for key in ("State", "Threads", "VmRSS") if key in status]
        for thread in sorted((folder / "task").iterdir(), key=lambda path: int(path.name)):
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


def _catches(pid: int, *signals: signal.Signals) -> bool:
    """Whether a process has a handler for each of the signals; false where that cannot be read."""
    status = _read(Path(f"/proc/{pid}/status")).splitlines()
    caught = int(next((line.split()[1] for line in status if line.startswith("SigCgt:")), "0"), 16)
    return all(caught >> (number - 1) & 1 for number in signals)


def _descendants(pid: int) -> list[int]:
    """The processes below `pid`; none where there is no /proc (Linux)."""
    pids = [pid]
    for parent in pids:  # grows while it is read
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{parent}/task").iterdir():
                pids += [int(child) for child in (thread / "children").read_text().split()]
    return pids[1:]


def default_threads(threads: int | None, processes: int) -> int:
    """Threads of each process: `threads` of the machine's entry, else an even share of the processors."""
    return threads or max(1, fs.processors() // processes)
