"""Held-out losses along a lineage: as curves, and at the ends of its stages."""

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
        for position, sets in read_evaluations(stage_folder(project, compiled, stage)).items():
            if position <= stage.stop:
                for name, entry in sets.items():
                    lines.setdefault(name, {})[position] = entry["loss"]
    return {name: sorted(line.items()) for name, line in sorted(lines.items())}


def edges(project: Project, compiled: Compiled) -> list[dict[str, Any]]:
    """Held-out loss (nats a token) by source at the root and at every stage's end, where it was measured."""
    rows: list[dict[str, Any]] = []
    for stage in compiled.stages:
        evaluations = read_evaluations(stage_folder(project, compiled, stage))
        start = [(stage.plan.start, f"{stage.name} start")] if stage.parent is None else []
        for position, label in (*start, (stage.stop, f"end of {stage.name}")):
            if position in evaluations:
                losses = {name: entry["loss"] for name, entry in evaluations[position].items()}
                rows.append({"label": label, "position": position, "loss": losses})
    return rows
