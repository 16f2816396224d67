"""Arms that were never trained: their plans and their held-out losses, written as runs leave them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from curriculum import fs
from curriculum.artifacts.evaluations import write_sets
from curriculum.config.project import Project
from curriculum.runs.folders import stage_folder
from curriculum.studies import record
from curriculum.studies.arm import Arm
from curriculum.studies.arms import CompiledStudy, compile_study
from curriculum.studies.decide import decide
from curriculum.studies.decision_input import read_input
from curriculum.studies.propose import fix_proposal

WINDOWS, TOKENS = 64, 128
Loss = Callable[[Arm, str], float]


def measured_sets(losses: Mapping[str, float], digest: str = "text", seed: str = "") -> dict[str, Any]:
    """The sets of an evaluation whose means are `losses`, by source."""
    sets = {}
    for source, loss in losses.items():
        draw = random.Random(f"{source} {seed}")
        around = [draw.gauss(0, 0.05) for _ in range(WINDOWS)]
        mean = sum(around) / WINDOWS
        windows = [round(loss + value - mean, 6) for value in around]
        sets[source] = {
            "loss": sum(windows) / WINDOWS,
            "windows": WINDOWS,
            "tokens": WINDOWS * TOKENS,
            "digest": f"{digest} of {source}",
            "per_window": windows,
        }
    return sets


def pretend(study: CompiledStudy, loss: Loss, before: Mapping[str, float], digest: str = "text") -> None:
    """Let every arm of the study have ended with `loss`, and its branch point have the losses `before`."""
    for arm in (*study.forks, *study.arms):
        for stage in arm.compiled.stages:
            folder = stage_folder(arm.project, arm.compiled, stage)
            fs.make_directory(folder.path)
            if not folder.plan.exists():
                stage.plan.save(folder.plan)
        folder = stage_folder(arm.project, arm.compiled, arm.stage)
        plan, first = arm.stage.plan, arm.first
        started = stage_folder(arm.project, arm.compiled, first)
        write_sets(started, 0, first.plan.start, first.plan.first_step, measured_sets(before, digest))
        ends = {source: loss(arm, source) for source in study.sources}
        write_sets(folder, 0, arm.stage.stop, plan.first_step + plan.steps, measured_sets(ends, digest, arm.name))


def decided(project: Project, name: str, size: str, loss: Loss, before: Mapping[str, float]) -> record.Record:
    """The study's record with every arm pretended, as `curriculum decide` makes it, with three resamples.

    The first call fixes the proposal, the second pretends its runs, too.
    """
    pretend(compile_study(project, name, size), loss, before)
    asked = read_input(project, name, size)
    question = replace(asked.question, resamples=3)
    decision = decide(question, asked.evidence, asked.earlier)
    text = "\n".join(project.study(name)[1].lines)
    made = record.content(name, text, question, asked.evidence, decision, asked.files)
    kept = record.write(project.runs / size / name, made)
    assert asked.compiled is not None
    assert asked.measured is not None
    fix_proposal(asked.compiled, asked.measured, decision)
    return kept
