"""Dropping arms at their first end: an annealed fork of each says which are worse than the best by more than the noise.

Early ranks are unstable, so only what the noise cannot explain is dropped, and some of it goes on as an audit.
"""

from __future__ import annotations

from dataclasses import replace
from math import hypot
from typing import Final

from curriculum.studies import drops
from curriculum.studies.arm_evidence import ArmEvidence, measure
from curriculum.studies.arms import CompiledStudy, compile_study
from curriculum.studies.drops import Drops
from curriculum.studies.evidence import Evidence
from curriculum.studies.verdicts import difference

AUDITED: Final = 2
"""Arms that go on although they are worse."""


def measure_forks(study: CompiledStudy) -> ArmEvidence:
    """The evidence of the forks: every arm at its first end."""
    return measure(replace(study, arms=study.forks, forks=()))


def drop_arms(study: CompiledStudy) -> CompiledStudy:
    """The study without the arms that its forks drop, which is fixed now; the same study while a fork is missing."""
    measured = measure_forks(study)
    if not measured.complete:
        return study
    opened = study.study
    weights = {source: float(weight) for source, weight in opened.file.goal.lower.items() if weight}
    judgement = judge(study.name, measured.evidence, weights)
    drops.write(opened.project, opened.name, opened.size, judgement, study.fork_plans)
    return compile_study(opened.project, opened.name, opened.size)


def judge(study: str, evidence: Evidence, weights: dict[str, float]) -> Drops:
    """Which varied arms are worse than the best of them by more than the noise.

    Both are compared with the branch point of their own trunk, so that runs of one control suffice to know the noise,
    and the intervals of both count. Without a branch point they are compared with a control.
    """
    start = next(iter(evidence.arms("before")), evidence.reference)
    gaps: dict[str, tuple[float, float]] = {}
    for arm in evidence.arms("swarm"):
        excess = None if start is None else difference(evidence, arm, start, weights)
        if excess is not None and excess.half is not None:
            gaps[arm] = (excess.mean, excess.half)
    if not gaps:
        return Drops(best="", dropped={}, audited={})
    best = min(gaps, key=lambda arm: gaps[arm][0])
    lowest, noise = gaps[best]
    worse = {arm: mean - lowest for arm, (mean, half) in gaps.items() if mean - lowest > hypot(half, noise)}
    kept = drops.audited(study, list(worse), AUDITED)
    return Drops(
        best=best,
        dropped={arm: gap for arm, gap in worse.items() if arm not in kept},
        audited={arm: worse[arm] for arm in kept},
    )


def lines(study: CompiledStudy, evidence: Evidence) -> tuple[str, ...]:
    """What a decision says of the arms that were dropped, and how often the audit agreed."""
    result = study.drops
    if result is None:
        return ()
    if not result.dropped and not result.audited:
        return ("no arm was worse than the best by more than the noise at its first end: none was dropped",)
    text = [f"`{name}` ({gap:+.3f})" for name, gap in result.dropped.items()]
    dropped = f"dropped at their first end, against `{result.best}` there: {', '.join(text) or 'none'}"
    weights = {source: float(weight) for source, weight in study.study.file.goal.lower.items() if weight}
    ends = {name: evidence.mean(name, weights) for name in result.audited}
    best = evidence.mean(result.best, weights)
    measured = [loss for loss in ends.values() if loss is not None and best is not None]
    agreed = sum(loss > best for loss in measured if best is not None)
    names = ", ".join(f"`{name}`" for name in result.audited)
    return (dropped, f"audit of what was dropped: {agreed} of {len(measured)} that went on ended worse too ({names})")
