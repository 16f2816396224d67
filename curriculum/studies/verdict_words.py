"""Verdicts in words: the goal, what was measured, and what would decide it."""

from __future__ import annotations

from collections.abc import Mapping

from curriculum.errors import shortened
from curriculum.studies.decision import RunCost
from curriculum.studies.verdicts import Verdict, right_before
from curriculum.units import counted, show_count, show_seconds


def goal_words(verdict: Verdict) -> str:
    """The part of the goal that a verdict is on: `keep slimpajama <= before + 0.02`."""
    if verdict.goal == "lower":
        return "lower"
    slack = f" + {verdict.slack:g}" if verdict.slack else ""
    return f"keep {shortened(verdict.source or '')} <= {verdict.against}{slack}"


def figures(verdict: Verdict) -> str:
    """What was measured, else what a law predicts, nats: `-0.192 against stated (95% -0.201 to -0.183), 3 runs`."""
    against = f" against {verdict.against}" if verdict.goal == "lower" else ""
    difference = verdict.difference
    if difference is None:
        if verdict.predicted is None:
            return "no run"
        before = f" ({right_before(verdict.predicted):.0%} of such had this sign in public runs)"
        return f"{verdict.predicted:+.3f}{against}, by the law alone{before if verdict.goal == 'lower' else ''}"
    interval = (
        ""
        if difference.low is None or difference.high is None
        else f" (95% {difference.low:+.3f} to {difference.high:+.3f})"
    )
    return f"{difference.mean:+.3f}{against}{interval}, {counted(difference.runs, 'run')}"


def settled_by(verdict: Verdict, cost: RunCost, to_train: str | None = None) -> str:
    """What would decide it, and what that costs; empty where there is nothing to settle.

    `to_train` is the command that trains runs of the study, None of a table of runs that others trained.
    """
    parts = []
    if verdict.difference is None and verdict.word in ("suggested", "not distinguishable", "not measured"):
        way = "in rows of role `proposal`" if to_train is None else f"which `{to_train}` trains"
        parts.append(f"runs of the proposal, at least two, {way}")
    if verdict.more_runs is not None:
        price = []
        if cost.tokens is not None:
            price.append(f"{show_count(cost.tokens * verdict.more_runs)} tokens")
        if cost.seconds is not None:
            price.append(show_seconds(cost.seconds * verdict.more_runs))
        runs = "run" if verdict.more_runs == 1 else "runs"
        parts.append(f"about {verdict.more_runs} more {runs}" + (f" ({', '.join(price)})" if price else ""))
    if verdict.shown_with_slack is not None:
        parts.append(f"`keep: {_limit(verdict.against, verdict.shown_with_slack)}`, where it is shown")
    return ", or ".join(parts)


def _limit(against: str, slack: float) -> str:
    """A limit as a study states it: a loss, or an arm and what is allowed above it."""
    try:
        return f"{float(against) + slack:g}"
    except ValueError:
        return f"{against} + {slack:g}"


def setting_words(settings: Mapping[str, float | str]) -> str:
    """What was varied, as a study's file states it: a batch in sequences, a rate as a factor."""
    return ", ".join(f"{key} {_setting(key, value)}" for key, value in settings.items())


def _setting(key: str, value: float | str) -> str:
    if isinstance(value, str):
        return value
    if key == "learning_rate":
        return "kept" if value == 1 else f"x{value:g}"
    return f"{value:g} sequences" if key == "batch" else f"{value:g}"
