"""The question that a study file asks, in the words of a decision: what is minimised, kept, bounded."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from curriculum.studies import mixtures
from curriculum.studies.arm_evidence import BEFORE
from curriculum.studies.arms import CompiledStudy
from curriculum.studies.block import block_of
from curriculum.studies.decision import Keep, Kind, Question, RunCost, StageAsked

_CONTROLS = ("kept", "stated")
"""What `control` in a limit means: the first of these that is trained."""


def question_of(compiled: CompiledStudy, *, seconds: float | None = None) -> Question:
    """The question of a study whose arms are trained; `seconds` is what one more run takes, if known."""
    study, goal = compiled.study, compiled.study.file.goal
    vary, kind = study.vary, kind_of(compiled)
    around = low = high = None
    sources: tuple[str, ...] = ()
    if kind in ("mixture", "share"):
        sources = tuple(sorted({source for arm in compiled.arms for source in arm.point.mixture.shares}))
        shares = mixtures.base(study).shares
        if vary.mixture is not None:
            block = block_of(study, vary.mixture, mixtures.base(study))
            named = dict(zip(block.centre, block.centre.values(), strict=True))
            rest = named.pop(block.REST, 0)
            shares = {**named, **{name: ratio * rest for name, ratio in block.rest.items()}}
        around = {source: float(shares.get(source, 0)) for source in sources}
        low, high = _bounds(compiled, sources)
    longest = max(arm.stage.stop - arm.start for arm in compiled.arms)
    return Question(
        name=compiled.name,
        kind=kind,
        lower={name: float(weight) for name, weight in goal.lower.items() if weight},
        keep={name: _keep(compiled, limit.base, float(limit.by)) for name, limit in goal.keep.items()},
        sources=sources,
        around=around,
        low=low,
        high=high,
        of=vary.share.of if vary.share is not None else None,
        cost=RunCost(tokens=longest, seconds=seconds),
        all_trunks=compiled.arms[0].compiled.scaled,
        asked=_stage_asked(compiled),
        dropped=len(compiled.drops.dropped) if compiled.drops is not None else 0,
    )


def _stage_asked(compiled: CompiledStudy) -> StageAsked:
    limits, study, stage = compiled.limits, compiled.study, compiled.arms[0].first
    passes = {}
    for source, choice in limits.choices.items():
        if not choice.windows:
            continue
        items = limits.items.get(source, 0)
        earlier = stage.parent.shares.get(source, Fraction(0)) if stage.parent is not None else Fraction(0)
        ramp = limits.ramp_sequences if stage.parent is not None else 0  # shares move there in a straight line
        least = items + int(earlier * ramp / 2)
        first = limits.plan.sources[source].epochs(least) if items else least / choice.windows
        passes[source] = (first, (limits.sequences - ramp / 2) / choice.windows)
    last = study.before[-1] if study.before else None
    return StageAsked(last.name if last is not None else None, study.start if last is not None else None, passes)


def kind_of(compiled: CompiledStudy) -> Kind:
    """Which kind of decision the study asks for, by what it varies."""
    vary = compiled.study.vary
    if vary.mixture is not None:
        return "mixture"
    if vary.share is not None:
        return "share"
    if vary.batch is not None and vary.list is None:
        return "cooldown"
    return "candidates"


def _keep(compiled: CompiledStudy, base: str, by: float) -> Keep:
    if base == "loss":
        return Keep(None, by)
    if base == "before":
        return Keep(BEFORE, by)
    controls = {arm.point.name for arm in compiled.of_role("control")}
    return Keep(next((name for name in _CONTROLS if name in controls), _CONTROLS[0]), by)


def _bounds(compiled: CompiledStudy, sources: tuple[str, ...]) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """The smallest and the largest share of each source: by `always` and by the passes that its mixture allows."""
    low, high = {}, {}
    for source in sources:
        stated = compiled.study.file.always.get(source)
        low[source] = float(stated.low) if stated is not None else 0.0
        most = float(stated.high) if stated is not None else 1.0
        high[source] = min(most, float(compiled.limits.cap(source)))
    return low, high
