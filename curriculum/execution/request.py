"""The request for a run, and the listener that shows its events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from curriculum import config
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.config.project import Project


class Listener:
    """Receives the events of a run and ignores them; subclasses show those they override."""

    def job_started(self, title: str, progress: Path | None) -> None:
        """A job that trains nothing; `progress` is its file of progress lines."""

    def job_done(self, title: str) -> None: ...

    def plan_compiled(self, compiled: Compiled) -> None: ...

    def stage_skipped(self, stage: CompiledStage) -> None:
        """The stage is done already."""

    def stage_started(self, stage: CompiledStage, folder: StageFolder, start: int) -> None:
        """`start` is the position in tokens: the stage's start, or that of its last checkpoint."""

    def stage_ended(self, stage: CompiledStage) -> None:
        """Done, stopped or failed."""

    def tick(self) -> None:
        """Called several times a second while a job runs."""

    def note(self, line: str) -> None: ...


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """A curriculum at a size on a machine, and how it is run there."""

    project: Project
    curriculum: str
    size: str
    machine: str = "local"
    processes: int | None = None  # on each node; else as the machine file says
    threads: int | None = None  # of each process; else as the machine file says
    devices: str | None = None  # the GPUs that its processes see, as in CUDA_VISIBLE_DEVICES; else all
    node_rank: int | None = None
    address: str | None = None
    profile: Mapping[str, int] | None = None
    accept_change: bool = False
    accept_environment: bool = False
    trainer_folder: Path | None = None  # where another trainer's command is executed; else the project's
    arm: str | None = None  # the address of the arm of a study that this is: its stage is done without its weights too
    listener: Listener = field(default_factory=Listener, repr=False)

    @property
    def name(self) -> str:
        """What it is called among several."""
        return self.arm or self.curriculum

    @property
    def machine_entry(self) -> config.MachineEntry:
        return self.project.machine(self.machine)

    @property
    def is_rendered(self) -> bool:
        """Whether it only says what pods are to run; in a pod, which has a `node_rank`, it runs."""
        return self.machine_entry.launcher == "kubernetes" and self.node_rank is None

    @property
    def world(self) -> int:
        """Processes in all, on all nodes."""
        return self.machine_entry.nodes * (self.processes or self.machine_entry.processes)
