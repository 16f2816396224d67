"""What a stage's data may not be: drawn from a source never, or from one more often than the lineage allows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

from curriculum.errors import PlanError
from curriculum.lineage import Setting
from curriculum.mixing import Tree
from curriculum.plan import StagePlan
from curriculum.project import Project
from curriculum.scaling import Scaler
from curriculum.units import show_count, show_share


def check_drawn(
    project: Project,
    setting: Setting,
    plan: StagePlan,
    weights: Mapping[str, int],
    scaler: Scaler,
    notes: list[str],
) -> None:
    """A source with weight that is never drawn: PlanError at full size, a note where lengths are scaled."""
    _, document = project.mixture(setting.mixture)
    drawn_before = plan.read_before
    drawn = plan.windows_read(plan.end)
    tree = Tree(dict(weights))
    for name in weights:
        if drawn.get(name, 0) > drawn_before.get(name, 0):
            continue
        smallest = (int(tree.where(name, 0)) + 1) * plan.sequence_length
        what = (
            f"source `{name}` has weight but is never drawn in stage `{setting.curriculum}/{setting.stage}`"
        )
        if scaler.scale == 1:
            raise PlanError(
                what,
                place=document.place(("weights", name)),
                hint=f"its share of {show_share(Fraction(weights[name], tree.total))} is first served by a stage of "
                f"{show_count(smallest)} tokens; lengthen the stage or raise the weight",
            )
        notes.append(f"{what}: at this size it is first served after {show_count(smallest)} tokens")


def check_passes(
    project: Project, setting: Setting, plan: StagePlan, limits: Mapping[str, Fraction], stop: int
) -> None:
    """PlanError when the stage, up to `stop`, reads a source more often than `limits` allow the lineage."""
    _, document = project.mixture(setting.mixture)
    used = plan.items((stop - plan.start) // plan.sequence_length)
    for name, limit in limits.items():
        source = plan.sources[name]
        if source.windows == 0:
            continue  # neither declared nor prepared yet: checked again once it is
        unseen = setting.positions == "unseen"
        allowed = Fraction(1) if unseen else limit
        last = source.segments[-1]
        most = last.first_item + (allowed - last.pass_number) * last.windows
        if used.get(name, 0) > most:
            raise PlanError(
                f"source `{name}` is too small: stage `{setting.curriculum}/{setting.stage}` would bring it to "
                f"{source.passes(used[name]):.3f} passes over the lineage; {_passes(allowed)} is the limit",
                place=setting.place("positions") if unseen else document.place(("weights", name)),
                hint="lower its weight, shorten the stage, or "
                + (
                    "leave `positions: unseen` out"
                    if unseen
                    else f"allow more: `passes: {{{name}: {math.ceil(source.passes(used[name]))}}}`"
                ),
            )


def _passes(limit: Fraction) -> str:
    return str(limit) if limit.denominator == 1 else f"{float(limit):g}"
