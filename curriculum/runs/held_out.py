"""Held-out losses along a lineage: as curves, and at the ends of its stages."""

from __future__ import annotations

from typing import Any

from curriculum.artifacts.evaluations import read_evaluations
from curriculum.compiler.compile import Compiled
from curriculum.config.project import Project
from curriculum.runs.folders import stage_folder
from curriculum.runs.measurements import Point, by_point


def curves(project: Project, compiled: Compiled) -> dict[str, list[tuple[int, float]]]:
    """Held-out loss over the whole lineage: source to its (position in tokens, nats a token), in order."""
    lines: dict[str, dict[int, float]] = {}
    for stage in compiled.stages:
        for position, sets in read_evaluations(stage_folder(project, compiled, stage)).items():
            if position <= stage.stop:
                for name, entry in sets.items():
                    lines.setdefault(name, {})[position] = entry["loss"]
    return {name: sorted(line.items()) for name, line in sorted(lines.items())}


def edges(project: Project, compiled: Compiled) -> list[dict[str, Any]]:
    """Held-out loss (nats a token) by source at the root and where stages end or are left; empty if not measured."""
    measured = by_point(project, [compiled], read_evaluations)
    rows: list[dict[str, Any]] = []
    for stage in compiled.stages:
        start = [(stage.plan.start, f"{stage.name} start")] if stage.parent is None else []
        edge = "end of" if stage.stop == stage.plan.end else "leaves"
        for position, label in (*start, (stage.stop, f"{edge} {stage.name}")):
            losses = {name: entry["loss"] for name, entry in measured.get(Point(stage.name, position), {}).items()}
            if losses or position > stage.plan.start:
                rows.append({"label": label, "position": position, "loss": losses})
    return rows
