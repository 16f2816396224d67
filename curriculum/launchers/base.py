"""How a job file becomes running processes; chosen in the machine file. The only place that says `-m runner`.

Every launcher is one function of a job file: the command that does it. `local.begin` starts that command and
the supervisor watches it, wherever it is: on this machine, on one of several, or inside a Slurm allocation.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Protocol

from curriculum.artifacts.stage_folder import Attempt
from curriculum.errors import RunFailed


class Launcher(Protocol):
    """What the processes of one launch are started by."""

    @property
    def threads(self) -> int:
        """Threads of each process."""
        ...

    def command(self, job: Path) -> list[str]:
        """The command line that does `job` to its end, or to the next save once it is asked to stop."""
        ...

    def announce(self, attempt: Attempt) -> None:
        """Tell the other nodes that `attempt` begins now."""
        ...

    def check(self, attempt: Attempt, seconds: float) -> None:
        """RunFailed when `seconds` after the launch in `attempt` somebody who should take part is not there."""
        ...


def runner_command() -> list[str]:
    """The interpreter and module that execute a job; refuses a `runner` that is not the one installed with us."""
    spec = importlib.util.find_spec("runner")
    ours = Path(__file__).resolve().parents[2] / "runner" / "__init__.py"
    if spec is None or spec.origin is None or Path(spec.origin).resolve() != ours:
        raise RunFailed(
            f"the module `runner` that Python finds is not curriculum's: {spec.origin if spec else 'there is none'}",
            hint="rename the other `runner`, or run from another folder",
        )
    return [sys.executable, "-m", "runner"]


def environment(threads: int) -> dict[str, str]:
    """The environment of every job process. PYTHONSAFEPATH keeps a `runner.py` lying about from being run."""
    return {
        **os.environ,
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(threads),
        # Threads that wait by spinning fight each other as soon as anything else runs on the machine: a rehearsal
        # beside two busy processes on two cores was measured several times slower without this.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
