"""Stops the training of a lineage wherever it runs: in this machine's processes or in Slurm's queue."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from curriculum import fs
from curriculum.compiler.compile import Compiled, compile_curriculum
from curriculum.config.project import Project
from curriculum.errors import RunFailed
from curriculum.execution.slurm import benchmark
from curriculum.launchers import slurm_record
from curriculum.runs.folders import stage_folder


def stop(project: Project, name: str, size: str) -> list[str]:
    """Ask every job of `name`'s lineage to save and end, queued jobs are cancelled; a line for each."""
    return stop_lineage(project, compile_curriculum(project, name, size))


def stop_many(lineages: Sequence[tuple[Project, Compiled]]) -> list[str]:
    """The same of several lineages; what supervises several of them is asked once, and saves all."""
    folders = [
        (stage, stage_folder(project, compiled, stage)) for project, compiled in lineages for stage in compiled.stages
    ]
    lines: dict[str, None] = {}
    holders = {}
    for stage, folder in reversed(folders):
        if (message := slurm_record.stop(folder.path)) is not None:
            lines[f"{stage.name}: {message}"] = None
        elif (holder := fs.lock_holder(folder.supervised)) is not None and "pid" in holder:
            holders[holder["host"], holder["pid"]] = stage.name, holder
    for name, holder in holders.values():
        _signal(name, holder)
        lines[f"asked the process that trains {name} to save all and end"] = None
    if not holders:  # what has lost its supervisor
        for project, compiled in lineages:
            lines |= dict.fromkeys(stop_lineage(project, compiled))
    return list(lines)


def stop_lineage(project: Project, compiled: Compiled) -> list[str]:
    """Ask every job of a lineage to save and end, queued jobs are cancelled; a line for each."""
    lines = []
    for stage in reversed(compiled.stages):  # queued jobs first, so that none starts meanwhile
        folder = stage_folder(project, compiled, stage)
        if (message := slurm_record.stop(folder.measuring)) is not None:
            lines.append(f"{benchmark.label(stage.name)}: {message}")
        if (message := slurm_record.stop(folder.path)) is not None:
            lines.append(f"{stage.name}: {message}")
            continue
        holder = folder.holder()
        if holder is None:
            continue
        _signal(stage.name, holder)
        lines.append(f"asked {stage.name} to save and end")
    return lines


def _signal(stage: str, holder: Mapping[str, Any]) -> None:
    if holder.get("host") not in (None, socket.gethostname()):
        raise RunFailed(
            f"`{stage}` runs on {holder['host']} (pid {holder.get('pid')}), out of reach from this machine",
            hint=f"run `curriculum stop {stage.partition('/')[0]}` there",
        )
    os.kill(int(holder["pid"]), signal.SIGUSR1)  # not SIGTERM, which announces a SIGKILL after the grace
