"""A study on the machine: its arms are trained, stopped and verified as lineages of the pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from curriculum.execution import pool, stop
from curriculum.execution.request import RunRequest
from curriculum.runs.verify import Findings, verify
from curriculum.studies.arms import CompiledStudy


def arm_requests(request: RunRequest, study: CompiledStudy) -> list[RunRequest]:
    """The request of a study as one for each arm."""
    return [
        replace(request, project=arm.project, curriculum=arm.study, arm=arm.address, size=study.study.size)
        for arm in study.arms
    ]


def run_study(request: RunRequest, study: CompiledStudy) -> Sequence[pool.LineageResult]:
    """Bring every arm to its end; what is done stays, also where its weights were pruned."""
    return pool.run_many(arm_requests(request, study))


def stop_study(study: CompiledStudy) -> list[str]:
    """Ask whatever trains an arm, or what the arms share, to save and end; a line for each."""
    return stop.stop_many([(arm.project, arm.compiled) for arm in study.arms])


def verify_study(study: CompiledStudy) -> Findings:
    """Check every file of every arm; what they share is checked once."""
    found = Findings()
    checked: set[str] = set()
    for arm in study.arms:
        of_arm = verify(arm.project, arm.compiled, arm.texts, skip=checked)
        found.checked.extend(of_arm.checked)
        found.absent.extend(of_arm.absent)
        found.wrong.extend(of_arm.wrong)
        checked |= {stage.name for stage in arm.compiled.stages}
    return found
