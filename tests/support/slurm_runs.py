"""A project whose stages are trained by jobs of a real Slurm, and what tests ask of it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import commands
from projects import TRUNK
from slurm_cluster import ask

from curriculum.config.project import Project
from curriculum.runs.status import project_status

HEAD = TRUNK.partition("every:")[0].replace("horizon: 12288", "horizon: 286720")


@dataclass(frozen=True, slots=True)
class Here:
    """A project and the command line in it, whose jobs on Slurm are processes of their own as ever."""

    root: Path

    def say(self, *words: str, refused: bool = False) -> str:
        done = commands.run(*words, folder=self.root, timeout=300)
        output = done.stdout + done.stderr
        assert (done.returncode != 0) == refused, f"curriculum {' '.join(words)}\n{output}{self.logs()}"
        return output

    def begin(self, *words: str) -> commands.Forked | subprocess.Popen[bytes]:
        with (self.root / "begun.log").open("ab") as log:
            return commands.start(
                *words,
                folder=self.root,
                environment={**os.environ, "OMP_NUM_THREADS": "1"},
                out=log.fileno(),
                err=log.fileno(),
            )

    def run(self, name: str, machine: str, **more: Any) -> str:
        return self.say("run", name, "--size", "full", "--machine", machine, **more)

    def stage(self, name: str) -> Path:
        return self.root / "runs" / "full" / name

    def weights(self, name: str) -> str:
        value = json.loads((self.stage(name) / "DONE").read_bytes())
        assert isinstance(value["weights"], str)
        return value["weights"]

    def job(self, name: str) -> str:
        return str(json.loads((self.stage(name) / "slurm.json").read_bytes())["job"])

    def saved(self, name: str) -> int:
        return len(list((self.stage(name) / "checkpoints").glob("g0-*/manifest.json")))

    def attempts(self, name: str) -> int:
        return len(list((self.stage(name) / "attempts").glob("*/job.json")))

    def at(self, name: str) -> int:
        """The position of the newest line of metrics."""
        path = self.stage(name) / "metrics.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return int(json.loads(lines[-1])["position"]) if lines else 0

    def newest(self, name: str) -> int:
        names = [path.parent.name for path in (self.stage(name) / "checkpoints").glob("g0-*/manifest.json")]
        return max((int(each.partition("-")[2]) for each in names), default=0)

    def state(self, name: str) -> tuple[str, str]:
        curriculum, _, _ = name.partition("/")
        state = project_status(Project(self.root), "full", curriculum)
        stages = {stage.name: stage for branch in state.branches for stage in branch.stages}
        return stages[name].state, stages[name].job or ""

    def logs(self) -> str:
        found = [*self.root.glob("runs/full/*/*/slurm/*/*.log"), *self.root.glob("runs/full/*/*/attempts/*/*.log")]
        return "".join(f"\n--- {path}\n{path.read_text(errors='replace')[-1500:]}" for path in found)


def done(here: Here, name: str) -> None:
    """Return once the stage is done; AssertionError with all logs once it gets no further for two minutes."""
    seen, since = -1, time.monotonic()
    while not (here.stage(name) / "DONE").exists():
        if (position := here.at(name)) != seen:
            seen, since = position, time.monotonic()
        stands = f"{name} stands at {seen}\n{ask('squeue', '--states=all')}" if time.monotonic() - since > 120 else ""
        assert not stands, f"{stands}{here.logs()}"
        time.sleep(0.05)
