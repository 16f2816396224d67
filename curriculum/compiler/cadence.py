"""The cadence of checkpoints, evaluations and benchmarks on the token clock; no training depends on it."""

from __future__ import annotations

from collections.abc import Mapping

from curriculum.compiler.lineage import Setting
from curriculum.compiler.scaling import Scaler
from curriculum.errors import PlanError
from curriculum.plan.stage import StagePlan
from curriculum.units import show_count

MOST_TASK_POSITIONS = 1000
"""Of one task in a stage; at each of them a checkpoint is kept."""


def cadence(setting: Setting, scaler: Scaler, plan: StagePlan, notes: list[str]) -> tuple[int, int]:
    """Tokens between checkpoints and between evaluations at this size; a ceiling that changes one adds a note.

    A ceiling spreads evaluations evenly over the stage. Of the checkpoints it leaves every second, every third, …
    that the stage file states: their positions are branch points, and stay as round as they were stated.
    """
    intervals = []
    most = scaler.size.at_most
    ahead = scaler.tokens(setting.until) - plan.start
    length = plan.end - plan.start
    for what, stated, at_most in (
        ("checkpoint", setting.every.checkpoint, most.checkpoints if most else None),
        ("evaluate", setting.every.evaluate, most.evaluations if most else None),
    ):
        tokens = scaler.length(setting, stated, "every") if stated is not None else length
        thinned = tokens
        if at_most is not None and what == "checkpoint":
            thinned *= max(1, -(-ahead // (tokens * at_most)))
        elif at_most is not None and length > tokens * at_most:
            thinned = -(-length // at_most)
        if thinned != tokens:
            notes.append(
                f"`every: {what}` becomes {show_count(thinned)} tokens: at most {at_most} a stage at this size"
            )
        intervals.append(thinned)
    return intervals[0], intervals[1]


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
        times = min(length // tokens, plan.steps)
        if times > MOST_TASK_POSITIONS:
            raise PlanError(
                f"measuring `{task}` every {stated} would keep {times:,} checkpoints of stage `{setting.stage}`",
                place=setting.place("every"),
                hint=f"each is kept on disk: take a longer cadence, at most {MOST_TASK_POSITIONS:,} times a stage",
            )
        intervals[task] = tokens
    return intervals


def task_positions(plan: StagePlan, every: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """The positions of each task: step boundaries at or past multiples of its cadence, and the stage's end."""
    positions = {}
    for task, tokens in every.items():
        multiples = range((plan.start // tokens + 1) * tokens, plan.end + 1, tokens)
        steps = {-((plan.start - multiple) // plan.batch_tokens) for multiple in multiples}
        positions[task] = tuple(plan.start + step * plan.batch_tokens for step in sorted(steps | {plan.steps}))
    return positions
