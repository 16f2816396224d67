"""Slurm by its own commands: batch scripts are written and handed to `sbatch`, the queue is asked and told.

Nothing is kept here: what was submitted stands in files (`queue`), what became of it Slurm knows. The processes
of a job are started by `srun` inside the allocation, each with the environment that torchrun would give it.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from curriculum.artifacts.stage_folder import Attempt
from curriculum.config import MachineEntry
from curriculum.errors import PlanError, RunFailed, did_you_mean

ASK_SECONDS = 60
LIVE = ("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "COMPLETING", "REQUEUED", "RESIZING", "SIGNALING")
"""Slurm's states of a job that may still do something; REQUEUE_HOLD and SPECIAL_EXIT wait for a person."""

_PLAIN = re.compile(r"[\w@%+=:,./-]+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchJob:
    """One batch job. `command` is run once, on its first node; `%j` in `log` is the job's number.

    `after` are numbers of jobs that must end well before it begins. `array` (as `0-15` or `0-15%4`) makes it an
    array: the command runs once for each index, which it finds as SLURM_ARRAY_TASK_ID.
    """

    name: str
    command: Sequence[str]
    log: Path
    nodes: int = 1
    processes: int = 1
    gpus_per_node: int = 0
    threads: int | None = None
    after: tuple[str, ...] = ()
    array: str | None = None


@dataclass(frozen=True, slots=True)
class JobState:
    """What Slurm says of a job: its state, why it waits or ended, its nodes."""

    state: str
    reason: str
    nodes: str

    @property
    def live(self) -> bool:
        return self.state in LIVE


class Unreachable(RunFailed):
    """Slurm does not answer: no command on this machine, or no controller behind it."""


def script(batch: BatchJob, machine: MachineEntry) -> str:
    """The batch script: the whole request as `#SBATCH` lines, the machine's `setup`, and one command."""
    asked = machine.slurm
    grace = asked.grace if asked else 120
    told: dict[str, object | None] = {
        "job-name": batch.name,
        "nodes": batch.nodes,
        "ntasks-per-node": batch.processes,
        "cpus-per-task": batch.threads,
        "gpus-per-node": batch.gpus_per_node or None,
        "partition": asked.partition if asked else None,
        "account": asked.account if asked else None,
        "qos": asked.qos if asked else None,
        "time": asked.time if asked else None,
        "array": batch.array,
        "output": batch.log,
        "open-mode": "append",
        # to this script alone: it saves, then queues the job again
        "signal": f"B:USR1@{grace}",
        "dependency": f"afterok:{':'.join(batch.after)}" if batch.after else None,
        "kill-on-invalid-dep": "yes" if batch.after else None,
    }
    lines = ["#!/bin/bash"]
    lines += [f"#SBATCH --{key}={_quoted(str(value))}" for key, value in told.items() if value is not None]
    lines += ["#SBATCH --requeue", *(f"#SBATCH {_option(each)}" for each in (asked.options if asked else ()))]
    lines += [*(asked.setup if asked else ()), f"exec {shlex.join(batch.command)}"]
    return "\n".join(lines) + "\n"


def _option(text: str) -> str:
    key, equals, value = text.partition("=")
    return f"{key}{equals}{_quoted(value)}" if equals else text


def _quoted(value: str) -> str:
    """A value as an `#SBATCH` line takes it: sbatch knows double quotes there, and no shell reads the line."""
    if _PLAIN.fullmatch(value):
        return value
    if '"' in value or "\n" in value or "\\" in value:
        raise PlanError(
            f"`{value}` cannot stand in a batch script", hint="quotes and line ends are not possible"
        )
    return f'"{value}"'


def submit(path: Path) -> str:
    """Hand a batch script to Slurm; the job's number. PlanError with Slurm's own words when it refuses."""
    done = _ask("sbatch", "--parsable", str(path))
    if done.returncode:
        said = [line.partition("error: ")[2] or line for line in done.stderr.splitlines() if line.strip()]
        hint = "machines.yaml says what is asked of Slurm"
        if "partition" in done.stderr and (known := partitions()):
            hint = f"the partitions here: {', '.join(known)}"
        raise PlanError(
            f"Slurm refuses the job: {'; '.join(dict.fromkeys(said)) or 'it says nothing'}", hint=hint
        )
    return done.stdout.strip().partition(";")[0]  # `;` and the cluster's name follow in a federation


def partitions() -> list[str]:
    """The partitions that Slurm has; none when it does not say."""
    done = _ask("sinfo", "--noheader", "--format=%R")
    return sorted(set(done.stdout.split())) if done.returncode == 0 else []


def query(job: str) -> JobState | None:
    """What Slurm says of a job, or None once it has forgotten it (some minutes after the end).

    Unreachable when Slurm does not answer.
    """
    done = _ask("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T|%r|%N")
    if done.returncode:
        if "Invalid job id" in done.stderr:
            return None
        raise Unreachable(
            f"Slurm does not answer: {' '.join(done.stderr.split())[:300]}",
            hint="nothing is lost: what is queued stays queued, and the same command works later",
        )
    # several lines: an array, or a job that was queued again, the newest first
    for line in done.stdout.splitlines():
        state, reason, nodes = line.split("|")
        return JobState(state, "" if reason == "None" else reason, nodes)
    return None


def cancel(*jobs: str) -> None:
    """Take jobs that wait out of the queue; those that are gone already are none."""
    _ask("scancel", *jobs)


def signal_to_save(job: str) -> None:
    """Tell the batch script of a running job to save and end."""
    _ask("scancel", "--signal=USR1", "--batch", job)


def requeue(job: str) -> str | None:
    """Put our own running job back into the queue; Slurm's words when it refuses."""
    done = _ask("scontrol", "requeue", job)
    return " ".join(done.stderr.split()) or "it says nothing" if done.returncode else None


def require(partition: str | None = None) -> None:
    """PlanError unless Slurm's commands are here, and its controller does not deny the `partition`."""
    if shutil.which("sbatch") is None:
        raise PlanError(
            "`launcher: slurm` needs Slurm's commands, and there is no `sbatch` on the PATH",
            hint="say this on a login node of the cluster; `curriculum plan --machine` works anywhere",
        )
    known = partitions() if partition is not None else []
    wanted = partition.split(",") if partition is not None else []  # Slurm takes the first that is free
    if known and (unknown := [each for each in wanted if each not in known]):
        raise PlanError(f"Slurm has no partition `{unknown[0]}`", hint=did_you_mean(unknown[0], known))


def _ask(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            words, capture_output=True, text=True, timeout=ASK_SECONDS, stdin=subprocess.DEVNULL, check=False
        )
    except FileNotFoundError:
        raise Unreachable(
            f"Slurm cannot be asked: there is no `{words[0]}` on the PATH",
            hint="say this on a login node of the cluster",
        ) from None
    except subprocess.TimeoutExpired:
        raise Unreachable(
            f"Slurm does not answer: `{words[0]}` said nothing for {ASK_SECONDS} seconds",
            hint="nothing is lost: what is queued stays queued, and the same command works later",
        ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class SrunLauncher:
    """The launcher inside an allocation: `srun` starts one process for each rank, on every node at once."""

    nodes: int
    processes: int
    threads: int
    address: str | None = None
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def command(self, job: Path) -> list[str]:
        return [
            "srun",
            f"--nodes={self.nodes}",
            f"--ntasks={self.nodes * self.processes}",
            f"--ntasks-per-node={self.processes}",
            f"--cpus-per-task={self.threads}",
            "--kill-on-bad-exit=1",  # a rank that is lost ends the others, and the job starts anew
            "--overlap",  # a step that Slurm has not laid to rest yet, as of a lost node, holds up no new one
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

    def announce(self, attempt: Attempt) -> None:
        """srun tells every node."""

    def check(self, attempt: Attempt, seconds: float) -> None:
        """Slurm gives all nodes or none."""
