"""What is to be run, by whom it is watched, and what a job is told of its machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from curriculum import config
from curriculum.artifacts import jobs
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.config.project import Project


class Listener(Protocol):
    """Whoever shows what happens; every call is a fact, none asks for a decision."""

    def preparing(self, what: str, progress: Path | None) -> None: ...
    def prepared(self, what: str) -> None: ...
    def compiled(self, compiled: Compiled) -> None: ...
    def skipped(self, stage: CompiledStage) -> None: ...
    def begun(self, stage: CompiledStage, folder: StageFolder, resumed_at: int) -> None: ...
    def tick(self) -> None: ...
    def noted(self, line: str) -> None: ...
    def ended(self, stage: CompiledStage, outcome: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What is asked for: a curriculum at a size on a machine."""

    project: Project
    curriculum: str
    size: str
    machine: str = "local"
    processes: int | None = None  # on each node; else as the machine file says
    node_rank: int | None = None
    address: str | None = None
    profile: Mapping[str, int] | None = None
    accept_change: bool = False
    accept_environment: bool = False
    listener: Listener = field(repr=False)

    @property
    def machine_entry(self) -> config.MachineEntry:
        return self.project.machine(self.machine)

    @property
    def world(self) -> int:
        """Processes in all, on all nodes."""
        return self.machine_entry.nodes * (self.processes or self.machine_entry.processes)


def job_machine(
    entry: config.MachineEntry, threads: int | None, profile: Mapping[str, int] | None = None
) -> jobs.Machine:
    """What the runner is told of a machine of machines.yaml; `profile` replaces what it says to trace."""
    return jobs.Machine(
        device=entry.device,
        precision=entry.precision,
        sharding=entry.sharding,
        micro_batch=entry.micro_batch,
        attention=entry.attention,
        compile=entry.compile,
        activation_checkpointing=entry.activation_checkpointing,
        deterministic=entry.deterministic,
        exactness=entry.exactness,
        threads=threads,
        trackers=entry.trackers,
        profile=profile or (entry.profile.model_dump() if entry.profile else None),
        peak_flops=float(entry.peak) * 1e12 if entry.peak else None,
        hang_limit=float(entry.hang_limit),
        grace=float(entry.grace) if entry.grace is not None else None,
    )
