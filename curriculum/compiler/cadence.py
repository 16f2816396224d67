"""The cadence of checkpoints, evaluations and benchmarks on the token clock; no training depends on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from curriculum.compiler.lineage import Setting
from curriculum.compiler.scaling import Scaler
from curriculum.errors import PlanError
from curriculum.plan.stage import StagePlan
from curriculum.units import Length, show_count

MOST_KEPT = 1000
"""Checkpoints that stay on disk of one cadence in a stage."""
HELD_OUT_WINDOWS = 1024
"""Of each held-out set in an evaluation, where neither the stage nor the size states a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cadence:
    """Tokens between a stage's checkpoints and between its evaluations, and the positions that its file keeps."""

    checkpoint: int
    evaluate: int
    keep: tuple[int, ...]


def cadence(setting: Setting, scaler: Scaler, plan: StagePlan, notes: list[str]) -> Cadence:
    """The cadence at this size; a ceiling that changes it adds a note.

    A ceiling spreads evaluations evenly over the stage. Of the checkpoints it leaves every second, every third, …
    that the stage file states: their positions are branch points, and stay as round as they were stated. Those that
    stay on disk are then among them. Positions that `keep:` names are kept at every size.
    """
    every, most, length = setting.every, scaler.size.at_most, max(1, plan.end - plan.start)
    ahead = scaler.tokens(setting.until) - plan.start
    checkpoints, evaluations = (most.checkpoints, most.evaluations) if most else (None, None)

    def tokens(stated: Length | None) -> int:
        return length if stated is None else scaler.length(setting, stated, "every")

    stated = tokens(every.checkpoint), tokens(every.evaluate), tokens(every.keep)
    checkpoint, evaluate, keep = stated
    if checkpoints is not None:
        checkpoint, keep = (n * max(1, -(-ahead // (n * checkpoints))) for n in (checkpoint, keep))
        if every.keep is not None:
            parts = range(1, keep // checkpoint + 1)
            checkpoint = keep // max((n for n in parts if keep % (n * stated[0]) == 0), default=1)
    if evaluations is not None and length > evaluate * evaluations:
        evaluate = -(-length // evaluations)
    becomes = (checkpoint, checkpoints), (evaluate, evaluations), (keep, checkpoints)
    for what, before, (now, at_most) in zip(("checkpoint", "evaluate", "keep"), stated, becomes, strict=True):
        if now != before:
            notes.append(f"`every: {what}` becomes {show_count(now)} tokens: at most {at_most} a stage at this size")
    named = {boundary(plan, scaler.tokens(position.amount)) for position in setting.keep}
    if every.keep is not None:
        _check_number(setting, plan, keep, f"`every: {{keep: {every.keep}}}`")
        named.update(boundaries(plan, keep))
    return Cadence(
        checkpoint=checkpoint,
        evaluate=evaluate,
        keep=tuple(sorted(position for position in named if plan.start < position <= plan.end)),
    )


def held_out_windows(setting: Setting, scaler: Scaler) -> int:
    """Windows of each held-out set that an evaluation of the stage reads at most: the lower of stage and size."""
    most = scaler.size.at_most.held_out_windows if scaler.size.at_most else None
    stated = [windows for windows in (setting.held_out_windows, most) if windows]
    return min(stated, default=HELD_OUT_WINDOWS)


def task_cadence(setting: Setting, scaler: Scaler, plan: StagePlan, notes: list[str]) -> dict[str, int]:
    """Each task of the stage to its cadence in tokens at this size; PlanError for more than 1,000 positions."""
    intervals = {}
    most = scaler.size.at_most.evaluations if scaler.size.at_most else None
    length = plan.end - plan.start
    for task, stated in setting.every.tasks.items():
        tokens = scaler.length(setting, stated, "every")
        if most is not None and length > tokens * most:
            tokens = -(-length // most)
            notes.append(
                f"`{task}` is measured every {show_count(tokens)} tokens: at most {most} times a stage at this size"
            )
        _check_number(setting, plan, tokens, f"measuring `{task}` every {stated}")
        intervals[task] = tokens
    return intervals


def _check_number(setting: Setting, plan: StagePlan, tokens: int, what: str) -> None:
    times = min((plan.end - plan.start) // tokens, plan.steps)
    if times > MOST_KEPT:
        raise PlanError(
            f"{what} would keep {times:,} checkpoints of stage `{setting.stage}`",
            place=setting.place("every"),
            hint=f"each is kept on disk: take a longer cadence, at most {MOST_KEPT:,} times a stage",
        )


def task_positions(plan: StagePlan, every: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """The positions of each task: step boundaries at or past multiples of its cadence, and the stage's end."""
    return {task: tuple(sorted({*boundaries(plan, tokens), plan.end})) for task, tokens in every.items()}


def boundary(plan: StagePlan, position: int) -> int:
    """The first step boundary of the stage's clock at or past `position` (tokens)."""
    return plan.clock.position(plan.clock.step_from(position))


def boundaries(plan: StagePlan, every: int) -> Sequence[int]:
    """Where a trainer is due: the step boundaries after the start that are at or past a multiple of `every` tokens."""
    if not plan.batch_changes and every <= (tokens := plan.tokens_of(plan.first_step)):
        return range(plan.start + tokens, plan.end + 1, tokens)
    if every <= min(plan.batches) * plan.sequence_length:
        return [plan.clock.position(step) for step in range(1, plan.steps + 1)]
    multiples = range((plan.start // every + 1) * every, plan.end + 1, every)
    return sorted({boundary(plan, multiple) for multiple in multiples})
