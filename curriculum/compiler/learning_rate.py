"""The learning rate of a stage: its parent's curve continued, or its own, scaled and joined to the parent's."""

from __future__ import annotations

from dataclasses import replace

from curriculum.compiler.resolve import ResolvedStage
from curriculum.compiler.scaling import Scaler, size_place
from curriculum.compiler.schedules import NoFall, RateStart
from curriculum.config.project import Project
from curriculum.errors import PlanError
from curriculum.plan.learning_rate import LearningRate, Rewarm
from curriculum.units import show_count

_ORDER = {
    "points": "points follow each other on the token clock; steps are those of the root's first batch",
    "decay": "it falls from the rate where its stage starts to a lower `min`, over `decay` tokens",
    "wsd-s": "each of `cycles` is a `decay`, and a `return` if there is one, behind the one before",
    "wsd": "warm-up, decay and horizon follow each other on the token clock, in this order",
}
LARGEST_JUMP = 0.01
"""Share of the parent's rate: a branch whose curve starts further from it needs `rewarm:`."""


def learning_rate(
    project: Project,
    stage: ResolvedStage,
    scaler: Scaler,
    parent: LearningRate | None,
    declared_start: int,
    notes: list[str],
) -> LearningRate:
    """The stage's curve; PlanError for one that cannot be drawn, or that jumps where the stage starts.

    `declared_start` is where the files say that the stage starts, in full-size tokens.
    """
    setting, clock = stage.setting, stage.clock
    if parent is not None and not setting.own_learning_rate:
        curve = parent
    else:
        rate = parent.at(clock.start) if parent is not None else 0.0
        start = RateStart(position=clock.start, declared=declared_start, rate=rate)
        curve = _scaled(project, stage, scaler, start, notes)
        if parent is not None:
            old, new = parent.at(clock.start), curve.at(clock.start)
            if setting.rewarm is not None:
                length = scaler.length(setting, setting.rewarm, "rewarm")
                curve = replace(curve, rewarm=Rewarm(clock.start, length, old))
            elif abs(new - old) > LARGEST_JUMP * old:
                raise PlanError(
                    f"the learning rate would jump from {old:.3g} to {new:.3g} where `{setting.curriculum}` branches",
                    place=setting.place("learning_rate"),
                    hint="say over how long it moves: `rewarm: 2B` in the stage; "
                    "or state a curve that meets the parent's",
                )
    if clock.steps and clock.declared_end > curve.horizon and setting.learning_rate.shape not in ("constant", "points"):
        notes.append(f"the learning rate stays at its minimum beyond its horizon of {show_count(curve.horizon)} tokens")
    return curve


def unfinished_decay(curve: LearningRate, stop: int) -> list[str]:
    """A note where a lineage ends at `stop`, inside the last fall of its curve."""
    start = curve.last_fall
    if start is None or not start < stop < curve.horizon:
        return []
    return [
        f"the curriculum ends at {show_count(stop)} tokens, inside the decay from {show_count(start)} to "
        f"{show_count(curve.horizon)}: its last learning rate is {curve.at(stop):.3g}, not {curve.min:.3g}"
    ]


def _scaled(project: Project, stage: ResolvedStage, scaler: Scaler, start: RateStart, notes: list[str]) -> LearningRate:
    try:
        curve, lengthened = scaler.learning_rate(stage.setting, start)
    except NoFall as error:
        own = scaler.size.learning_rate
        place = size_place(project, scaler.size_name, "learning_rate", "min") if own and own.min is not None else None
        highest = float(stage.setting.learning_rate.min) * error.first / error.last if error.last else 0.0
        raise PlanError(
            str(error),
            place=place or stage.setting.place("learning_rate"),
            hint=f"lower `min`, which fits below {highest:.3g}; or let the decay start where the rate is higher"
            if highest and place is None
            else "lower `min`, or let the decay start where the rate is higher",
        ) from None
    except ValueError as error:
        raise PlanError(
            str(error),
            place=size_place(project, scaler.size_name, "learning_rate") or stage.setting.place("learning_rate"),
            hint="the rates and the warm-up are the size's where it states them, and the horizon is scaled"
            if scaler.size.learning_rate
            else _ORDER.get(stage.setting.learning_rate.shape, _ORDER["wsd"]),
        ) from None
    if lengthened is not None:
        notes.append(f"the warm-up of {show_count(lengthened)} tokens is lengthened to {show_count(curve.warmup)}")
    return curve
