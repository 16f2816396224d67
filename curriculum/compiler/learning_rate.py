"""The learning rate of a stage: its parent's curve continued, or its own, scaled and joined to the parent's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from curriculum.compiler.resolve import ResolvedStage
from curriculum.compiler.scaling import Scaler, size_place
from curriculum.compiler.schedules import NoFall, RateStart
from curriculum.config.project import Project
from curriculum.errors import PlanError
from curriculum.plan.learning_rate import LearningRate, Rewarm
from curriculum.plan.stage import StagePlan
from curriculum.units import show_count

_ORDER = {
    "points": "points follow each other on the token clock; steps are those of the root's first batch",
    "decay": "it falls from the rate where its stage starts to a lower `min`, over `decay` tokens",
    "wsd-s": "each of `cycles` is a `decay`, and a `return` if there is one, behind the one before",
    "wsd": "warm-up, decay and horizon follow each other on the token clock, in this order",
}
LARGEST_JUMP = 0.01
"""Share of the parent's rate: a branch whose curve starts further from it needs `rewarm:`."""


@dataclass(frozen=True, slots=True)
class RateScaling:
    """The curve's rate holds for a batch of `batch` sequences; another's is times their ratio to the power `exponent`.

    `batch` is a fraction where windows took another length: a batch is as large as its tokens.
    """

    batch: int | float
    exponent: float

    @staticmethod
    def inherited(stage: ResolvedStage, parent: StagePlan | None) -> RateScaling | None:
        """What the stage keeps to where it states neither an exponent nor a curve."""
        if parent is None or parent.rate_batch is None or parent.rate_exponent is None:
            return None
        batch = Fraction(parent.rate_batch) * parent.sequence_length / stage.clock.sequence_length
        return RateScaling(int(batch) if batch.denominator == 1 else float(batch), parent.rate_exponent)

    def factor(self, sequences: int) -> float:
        return float((sequences / self.batch) ** self.exponent)


def rate_scaling(stage: ResolvedStage, scaler: Scaler, parent: StagePlan | None) -> RateScaling | None:
    """The stage's own scaling, or that of the stage before; a curve of its own states the rates that it trains at.

    PlanError where an exponent of its own would begin at another rate than the one that is reached.
    """
    setting, before = stage.setting, RateScaling.inherited(stage, parent)
    if not setting.own_rate_exponent:
        return None if setting.own_learning_rate else before
    own = RateScaling(scaler.batch(setting, setting.batch), setting.own_rate_exponent)
    if before is None or setting.own_learning_rate:
        return own
    first = stage.clock.batches.batch(0)
    if abs(own.factor(first) - before.factor(first)) > LARGEST_JUMP * before.factor(first):
        raise PlanError(
            f"the batch of the stages before multiplies the rate by {before.factor(first):.3g} here, "
            "and `rate_exponent` would start again at 1",
            place=setting.document.place((*setting.path, "batch", "rate_exponent")),
            hint=f"leave it out, and {before.exponent:g} stays; or state a `learning_rate`, which holds for `from`",
        )
    return own


def learning_rate(
    project: Project,
    stage: ResolvedStage,
    scaler: Scaler,
    parent: StagePlan | None,
    declared_start: int,
    notes: list[str],
) -> LearningRate:
    """The stage's curve; PlanError for one that cannot be drawn, or that jumps where the stage starts.

    `declared_start` is where the files say that the stage starts, in full-size tokens. What a curve of its own takes
    over is the rate that the stage would have there without one.
    """
    setting, clock = stage.setting, stage.clock
    if parent is not None and not setting.own_learning_rate:
        curve = parent.learning_rate
    else:
        rate = parent.learning_rate.at(clock.start) if parent is not None else 0.0
        if (before := RateScaling.inherited(stage, parent)) is not None:
            rate *= before.factor(clock.batches.batch(0))
        start = RateStart(position=clock.start, declared=declared_start, rate=rate)
        curve = _scaled(project, stage, scaler, start, notes)
        if parent is not None:
            old, new = rate, curve.at(clock.start)
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
