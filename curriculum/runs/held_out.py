"""What was measured: the held-out losses that a run left beside its checkpoints, put side by side."""

from __future__ import annotations

from typing import Any

from curriculum.artifacts.evaluations import read_evaluations
from curriculum.compiler.compile import Compiled
from curriculum.config.project import Project
from curriculum.runs.folders import stage_folder


def curves(project: Project, compiled: Compiled) -> dict[str, list[tuple[int, float]]]:
    """Held-out loss over the whole lineage: source to its (position in tokens, nats a token), in order."""
    lines: dict[str, dict[int, float]] = {}
    for stage in compiled.stages:
        folder = stage_folder(project, compiled, stage)
        for position, value in read_evaluations(folder).items():
            if position <= stage.stop:
                for name, entry in value["sets"].items():
                    lines.setdefault(name, {})[position] = entry["loss"]
    return {name: sorted(line.items()) for name, line in sorted(lines.items())}


def edges(project: Project, compiled: Compiled) -> list[dict[str, Any]]:
    """Held-out loss (nats a token) per source at the root and at every stage's end, as far as they are measured."""
    rows: list[dict[str, Any]] = []
    for stage in compiled.stages:
        measured = read_evaluations(stage_folder(project, compiled, stage))
        wanted = [(stage.plan.start, "start")] if stage.parent is None else []
        for position, edge in (*wanted, (stage.stop, "end")):
            if position in measured:
                sets = measured[position]["sets"]
                label = f"{stage.name} {edge}" if edge == "start" else f"end of {stage.name}"
                rows.append(
                    {
                        "label": label,
                        "position": position,
                        "loss": {name: entry["loss"] for name, entry in sets.items()},
                    }
                )
    return rows
