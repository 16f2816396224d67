"""Stops the training of a lineage wherever it runs: in this machine's processes or in Slurm's queue."""

from __future__ import annotations

import os
import signal
import socket

from curriculum.compiler.compile import compile_curriculum
from curriculum.config.project import Project
from curriculum.errors import RunFailed
from curriculum.execution.slurm import benchmark
from curriculum.launchers import slurm_record
from curriculum.runs.folders import stage_folder


def stop(project: Project, name: str, size: str) -> list[str]:
    """Ask every job of `name`'s lineage to save and end, queued jobs are cancelled; a line for each."""
    compiled = compile_curriculum(project, name, size)
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
        if holder.get("host") not in (None, socket.gethostname()):
            raise RunFailed(
                f"`{stage.name}` runs on {holder['host']} (pid {holder.get('pid')}), out of reach from this machine",
                hint=f"run `curriculum stop {name}` there",
            )
        os.kill(int(holder["pid"]), signal.SIGUSR1)  # not SIGTERM, which announces a SIGKILL after the grace
        lines.append(f"asked {stage.name} to save and end")
    return lines
