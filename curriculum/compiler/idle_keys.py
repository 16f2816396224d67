"""Notes on what a stage file states and its plan does not show: a key without effect, a rate that is too high."""

from __future__ import annotations

from collections.abc import Iterator

from curriculum.compiler.mixture_phases import MixtureState
from curriculum.compiler.resolve import ResolvedCurriculum, ResolvedStage
from curriculum.compiler.setting import BatchLevel
from curriculum.plan.stage import StagePlan
from curriculum.units import counted, show_count

IDLE_RAMP = "`ramp:` moves no share: the mixture is the one before the stage"
HIGHEST_RATE = 0.1
"""A learning rate above this is noted: those of published runs, Muon's among them, are below it."""


def idle_keys(
    curriculum: ResolvedCurriculum, stage: ResolvedStage, plan: StagePlan, state: MixtureState
) -> Iterator[str]:
    """A line for each key of the stage that changes nothing; `state` is the mixture where the stage starts."""
    setting, clock = stage.setting, stage.clock
    if setting.ramp is not None and stage.ramp_of is None and _is_steady(state, dict(stage.mixture.weights)):
        yield IDLE_RAMP
    if setting.rewarm is not None and not setting.own_learning_rate:
        yield "`rewarm:` changes nothing: the stage states no `learning_rate` to move to"
    yield from _batch_past_its_end(curriculum, stage)
    last = stage is curriculum.stages[-1]
    if last and clock.steps and plan.learning_rate.warmup > clock.stop:
        reached = f"its last learning rate is {plan.learning_rate.at(clock.stop):.3g}"
        yield (
            f"the warm-up of {show_count(plan.learning_rate.warmup)} tokens is longer than the curriculum, which ends "
            f"at {show_count(clock.stop)}: {reached}, and the highest is {plan.learning_rate.max:.3g}"
        )


def high_rate(plan: StagePlan, stop: int) -> list[str]:
    """A note where a step up to the position `stop` has a learning rate above `HIGHEST_RATE`."""
    last = plan.step_at(stop) - 1
    if last < plan.first_step:
        return []
    # Between these steps the curve only rises or only falls, and the batch stays.
    inside = [plan.step_of(position) for position in plan.learning_rate.breaks() if plan.start <= position < stop]
    changes = [plan.first_step + change.step for change in plan.batch_changes]
    near = {step + by for step in (plan.first_step, last, *inside, *changes) for by in (-1, 0, 1)}
    highest = max(sorted(step for step in near if plan.first_step <= step <= last), key=plan.lr)
    if plan.lr(highest) <= HIGHEST_RATE:
        return []
    return [f"the learning rate is {plan.lr(highest):.3g} at step {highest:,}: few models train above {HIGHEST_RATE:g}"]


def _is_steady(state: MixtureState, weights: dict[str, int]) -> bool:
    """Whether the lineage draws by these weights already, no ramp being under way."""
    phase = state.phase
    return phase is not None and dict(phase.weights) == weights and (phase.before is None or state.index >= phase.ramp)


def _batch_past_its_end(curriculum: ResolvedCurriculum, stage: ResolvedStage) -> Iterator[str]:
    """A note of the stage that states a batch which no stage of the lineage reaches.

    None where the lineage branches off before: the stage itself goes on.
    """
    levels, stages = stage.setting.batch_levels, curriculum.stages
    at = stages.index(stage)
    if not levels or (at and levels[-1] in stages[at - 1].setting.batch_levels):
        return
    heirs = [stage]
    for after in stages[at + 1 :]:
        if not _takes_on(after, levels[-1]):
            break
        heirs.append(after)
    if any(heir.left_at != heir.setting.until for heir in heirs) or levels[-1].position < heirs[-1].setting.until:
        return
    ahead = [level for level in levels if level.position >= heirs[-1].setting.until]
    first = show_count(curriculum.scaler.tokens(ahead[0].position))
    yield (
        f"{len(ahead)} of the {counted(len(levels), 'change')} of `batch:` never happen{'s' * (len(ahead) == 1)}: the "
        f"first is at {first} tokens, and the last stage with this batch ends at {show_count(heirs[-1].clock.stop)}"
    )


def _takes_on(after: ResolvedStage, level: BatchLevel) -> bool:
    """Whether a later stage inherits the batch with this change."""
    ahead = after.setting.batch_levels
    return any(one.position == level.position for one in ahead)
