"""Limits on what a stage draws: every weighted source at least once, and no source for more passes than allowed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from itertools import zip_longest

from curriculum.compiler.resolve import ResolvedStage
from curriculum.compiler.scaling import Scaler
from curriculum.errors import PlanError
from curriculum.plan.mixing import Ramp
from curriculum.plan.stage import StagePlan
from curriculum.units import show_count, show_exact, show_share


def check_drawn(stage: ResolvedStage, plan: StagePlan, scaler: Scaler, notes: list[str]) -> None:
    """A source with weight that is never drawn: PlanError at full size, a note where lengths are scaled."""
    weights = stage.mixture.weights
    drawn_before = plan.read_before
    drawn = plan.windows_read(plan.end)
    total = sum(weights.values())
    for name in weights:
        if drawn.get(name, 0) > drawn_before.get(name, 0):
            continue
        smallest = (_first_drawn(plan, name) + 1) * plan.sequence_length
        what = f"source `{name}` has weight but is never drawn in stage `{stage.setting.name}`"
        if scaler.scale == 1:
            raise PlanError(
                what,
                place=stage.mixture.document.place(("weights", name)),
                hint=f"its share of {show_share(Fraction(weights[name], total))} is first served by a stage of "
                f"{show_exact(smallest)} tokens; lengthen the stage or raise the weight",
            )
        notes.append(f"{what}: at this size it is first served after {show_count(smallest)} tokens")


def _first_drawn(plan: StagePlan, name: str) -> int:
    """The sequence of the stage that would be the first of source `name`, were the stage long enough."""
    for segment, stop in zip_longest(plan.pieces, [segment.first for segment in plan.pieces[1:]]):
        mixer = plan.blends[segment.blend].mixer
        drawn = mixer.count(name, segment.index) if name in mixer.names else 0
        if isinstance(mixer, Ramp) and (name not in mixer.names or drawn == mixer.count(name, mixer.sequences)):
            continue
        first = segment.first + int(mixer.where(name, drawn)) - segment.index
        if stop is None or first < stop:
            return first
    raise AssertionError("the last segment of a stage draws from its mixture without end")


def check_passes(
    stage: ResolvedStage, plan: StagePlan, limits: Mapping[str, Fraction], command: str, notes: list[str]
) -> None:
    """PlanError when the stage, as far as the lineage goes, reads a source for more passes than `limits` allow.

    A note names the sources of unknown size, which are checked after `command` prepared them.
    """
    used = plan.items((stage.clock.stop - plan.start) // plan.sequence_length)
    unseen = stage.setting.positions == "unseen"
    unknown: list[str] = []
    for name, limit in limits.items():
        source = plan.sources[name]
        if source.windows == 0:  # neither declared nor prepared yet
            if not plan.read_before.get(name):  # else it is in the notes of the earlier stage
                unknown.append(f"`{name}`")
            continue
        allowed = Fraction(1) if unseen else limit
        last = source.segments[-1]
        most = last.first_item + (allowed - last.pass_number) * last.windows
        if used.get(name, 0) > most:
            shown = allowed if allowed.denominator == 1 else f"{float(allowed):g}"
            raise PlanError(
                f"source `{name}` is too small: stage `{stage.setting.name}` would bring it to "
                f"{source.epochs(used[name]):.3f} passes over the lineage; {shown} is the limit"
                f"{_reason(stage, name, in_order=source.order == 'in-order')}",
                place=stage.setting.place("positions") if unseen else stage.mixture.document.place(("weights", name)),
                hint="lower its weight, shorten the stage, or "
                + (
                    "leave `positions: unseen` out"
                    if unseen
                    else f"allow more: `passes: {{{name}: {math.ceil(source.epochs(used[name]))}}}`"
                ),
            )
    if unknown:
        notes.append(f"passes of {', '.join(unknown)} are not checked until the text is prepared: `{command}`")


def _reason(stage: ResolvedStage, name: str, *, in_order: bool) -> str:
    """Where the limit of passes comes from."""
    if stage.setting.positions == "unseen":
        return ": the stage says `positions: unseen`"
    if name in stage.mixture.passes:
        return f": `passes` of mixture `{stage.mixture.name}` states it"
    return f" without `passes:` for a source {'that is `order: in-order`' if in_order else 'that is shuffled'}"
