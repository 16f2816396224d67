"""A client of Slurm's commands (sbatch, squeue, scancel, scontrol, sinfo), its batch scripts, and the srun launcher.

It keeps no state: `slurm_record` holds what was submitted. `srun` starts the processes of a job inside the
allocation, each with the environment that torchrun would give it.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from curriculum.config import MachineEntry
from curriculum.config.machines import SlurmEntry
from curriculum.errors import PlanError, RunFailed, did_you_mean
from curriculum.launchers.process import Launcher

TIMEOUT_SECONDS = 60
STEP_ENDS_SECONDS = 60.0
LIVE = ("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "COMPLETING", "REQUEUED", "RESIZING", "SIGNALING")
"""Slurm's states of a job that may still do something; REQUEUE_HOLD and SPECIAL_EXIT wait for a person."""

_PLAIN = re.compile(r"[\w@%+=:,./-]+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchJob:
    """One batch job. `command` is run once, on its first node; `%j` in `log` is the job's number.

    `after` is the number of a job that must succeed before it starts, `after_ends` those of jobs that must have ended,
    however they did. `array` (as `0-15` or `0-15%4`) makes it an array: the command runs once for each index, which it
    reads from SLURM_ARRAY_TASK_ID.
    """

    name: str
    command: Sequence[str]
    log: Path
    nodes: int = 1
    processes: int = 1
    gpus_per_node: int = 0
    threads: int | None = None
    after: str | None = None
    after_ends: Sequence[str] = ()
    array: str | None = None


@dataclass(frozen=True, slots=True)
class JobState:
    """A job as squeue shows it: its state, why it waits or ended, its nodes."""

    state: str
    reason: str
    nodes: str

    @property
    def live(self) -> bool:
        return self.state in LIVE


class Unreachable(RunFailed):
    """Slurm does not answer: no command on this machine, or no controller behind it."""


def script(job: BatchJob, machine: MachineEntry) -> str:
    """The batch script: all options as `#SBATCH` lines, the machine's `setup`, and one command."""
    entry = machine.slurm or SlurmEntry()
    options: dict[str, object | None] = {
        "job-name": job.name,
        "nodes": job.nodes,
        "ntasks-per-node": job.processes,
        "cpus-per-task": job.threads,
        "gpus-per-node": job.gpus_per_node or None,
        "partition": entry.partition,
        "account": entry.account,
        "qos": entry.qos,
        "time": entry.time,
        "array": job.array,
        "output": None if _on_command_line(job) else _output(job.log),
        "open-mode": "append",
        # to this script alone: it saves, then queues the job again
        "signal": f"B:USR1@{entry.grace}",
        "dependency": _dependency(job),
        "kill-on-invalid-dep": "yes" if job.after else None,
    }
    lines = ["#!/bin/bash"]
    for key, value in options.items():
        if value is not None:
            lines.append(f"#SBATCH --{key}={(_escaped if key == 'output' else _quoted)(str(value))}")
    lines += ["#SBATCH --requeue", *(f"#SBATCH {_option(option)}" for option in entry.options)]
    lines += [*entry.setup, f"exec {shlex.join(job.command)}"]
    return "\n".join(lines) + "\n"


def _dependency(job: BatchJob) -> str | None:
    conditions = [f"afterok:{job.after}"] if job.after else []
    conditions += [f"afterany:{':'.join(job.after_ends)}"] if job.after_ends else []
    return ",".join(conditions) or None


def _option(text: str) -> str:
    key, equals, value = text.partition("=")
    return f"{key}{equals}{_quoted(value)}" if equals else text


def _quoted(value: str) -> str:
    """A value of an `#SBATCH` line: sbatch reads double quotes there, and no shell reads the line."""
    if _PLAIN.fullmatch(value):
        return value
    if '"' in value or "\n" in value or "\\" in value:
        raise PlanError(f"`{value}` cannot stand in a batch script", hint="quotes and line ends are not possible")
    return f'"{value}"'


def _escaped(value: str) -> str:
    """The same for a value that may hold quotes and backslashes, as a path may."""
    return value if _PLAIN.fullmatch(value) else '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'


def _output(log: Path) -> str:
    """`log` as sbatch's `--output`: `%j` and the like are replaced in the file's name, `%%` in a folder is `%`.

    A backslash turns all replacement off, and two of them are one: the name of the file then holds no number.
    """
    folder = str(log.parent)
    if "\\" in folder:
        return os.path.join(folder, "job.log").replace("\\", "\\\\")
    return os.path.join(folder.replace("%", "%%"), log.name)


def _on_command_line(job: BatchJob) -> bool:
    """Whether the path of the log has a line end, which no `#SBATCH` line can hold."""
    return "\n" in str(job.log)


def command(path: Path, job: BatchJob) -> list[str]:
    """The command that submits the batch script of `job` at `path`."""
    return ["sbatch", "--parsable", *([f"--output={_output(job.log)}"] if _on_command_line(job) else []), str(path)]


def submit(path: Path, job: BatchJob) -> str:
    """Submit the batch script of `job`; its number. PlanError with Slurm's own message when it refuses."""
    answer = _run(*command(path, job))
    if answer.returncode:
        lines = [line.partition("error: ")[2] or line for line in answer.stderr.splitlines() if line.strip()]
        hint = "machines.yaml states the options of the job"
        if "partition" in answer.stderr and (names := partitions()):
            hint = f"the partitions here: {', '.join(names)}"
        raise PlanError(f"Slurm refuses the job: {'; '.join(dict.fromkeys(lines)) or 'without a message'}", hint=hint)
    return answer.stdout.strip().partition(";")[0]  # `;` and the cluster's name follow in a federation


def partitions() -> list[str]:
    """The partitions of the cluster; none when Slurm does not list them."""
    answer = _run("sinfo", "--noheader", "--format=%R")
    return sorted(set(answer.stdout.split())) if answer.returncode == 0 else []


def query(job: str) -> JobState | None:
    """The state of a job, or None once Slurm has forgotten it (some minutes after its end).

    Unreachable when Slurm does not answer.
    """
    answer = _run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T|%r|%N")
    if answer.returncode:
        if "Invalid job id" in answer.stderr:
            return None
        raise Unreachable(
            f"Slurm does not answer: {' '.join(answer.stderr.split())[:300]}",
            hint="nothing is lost: what is queued stays queued, and the same command works later",
        )
    # several lines: an array, or a job that was queued again, the newest first
    for line in answer.stdout.splitlines():
        state, reason, nodes = line.split("|")
        return JobState(state, "" if reason == "None" else reason, nodes)
    return None


def cancel(*jobs: str) -> None:
    """Take waiting jobs out of the queue; a job that has left it already is no error."""
    _run("scancel", *jobs)


def signal_to_save(job: str) -> None:
    """Ask the batch script of a running job to save and end."""
    _run("scancel", "--signal=USR1", "--batch", job)


def requeue(job: str) -> str | None:
    """Put our own running job back into the queue; Slurm's message when it refuses."""
    answer = _run("scontrol", "requeue", job)
    return " ".join(answer.stderr.split()) or "without a message" if answer.returncode else None


def require(partition: str | None = None) -> None:
    """PlanError unless Slurm's commands are on the PATH and its controller has the `partition`."""
    if shutil.which("sbatch") is None:
        raise PlanError(
            "`launcher: slurm` needs Slurm's commands, and there is no `sbatch` on the PATH",
            hint="run this on a login node of the cluster; `curriculum plan --machine` works anywhere",
        )
    if partition is None or not (names := partitions()):
        return
    for name in partition.split(","):  # Slurm takes the first that is free
        if name not in names:
            raise PlanError(f"Slurm has no partition `{name}`", hint=did_you_mean(name, names))


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, stdin=subprocess.DEVNULL, check=False
        )
    except FileNotFoundError:
        raise Unreachable(
            f"Slurm is not reachable from here: there is no `{command[0]}` on the PATH",
            hint="run this on a login node of the cluster",
        ) from None
    except subprocess.TimeoutExpired:
        raise Unreachable(
            f"Slurm does not answer: `{command[0]}` gave no answer in {TIMEOUT_SECONDS} seconds",
            hint="nothing is lost: what is queued stays queued, and the same command works later",
        ) from None


@dataclass(frozen=True, kw_only=True)
class SrunLauncher(Launcher):
    """The launcher inside an allocation: `srun` starts one process for each rank, on every node at once.

    It fails where Slurm does not let it within `join_limit` seconds.
    """

    nodes: int
    address: str | None = None
    join_limit: int = 600
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def command(self, job: Path) -> list[str]:
        return [
            "srun",
            f"--nodes={self.nodes}",
            f"--ntasks={self.nodes * self.processes}",
            f"--ntasks-per-node={self.processes}",
            f"--cpus-per-task={self.threads}",
            "--kill-on-bad-exit=1",  # a rank that is lost ends the others, and the job is launched again
            f"--immediate={self.join_limit}",  # else it asks for a step of a node that the job has lost for ever
            "--overlap",  # a step that is not yet cleaned up, as of a lost node, does not delay the next
            "--unbuffered",
            sys.executable,
            "-m",
            "curriculum.launchers.srun_rank",
            *self.rendezvous(),
            str(self.processes),
            str(job),
        ]

    def rendezvous(self) -> tuple[str, str]:
        """Host and port of rank 0, which runs on the node of the batch script."""
        host, _, port = (self.address or socket.gethostname()).partition(":")
        return host, port or str(10_000 + int(self.environment["SLURM_JOB_ID"]) % 20_000)

    def signal_to_stop(self, process: subprocess.Popen[bytes], *, urgent: bool) -> None:
        """srun forwards SIGUSR1 to every rank; SIGTERM would end srun itself before they have saved."""
        if process.poll() is None:
            process.send_signal(signal.SIGUSR1)

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """On SIGTERM srun ends its step on every node; killed itself, it would leave the ranks running."""
        process.terminate()
        try:
            process.wait(STEP_ENDS_SECONDS)
        except subprocess.TimeoutExpired:
            super().kill(process)
