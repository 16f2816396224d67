"""The tables of `curriculum diff`: what is the same, in what and from where two curricula differ, the tokens moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from curriculum.analysis.diff_sides import SavedStage
from curriculum.cli.view.tables import table
from curriculum.plan.diff.compare import AttributeDifference, PlanDiff
from curriculum.units import show_count, show_exact

NAMED = 22  # columns; the heads of a table of numbers are no wider


FORMAT = 2
"""Of the JSON object of `diff`; 1 had no such key, and `regrown` for `parent_retrained`, `begun` for `started`."""


def comparison_view(
    compared: PlanDiff, old: str, new: str, size: str, ran: Sequence[SavedStage] = ()
) -> RenderableType:
    """A comparison of two curricula; fits 80 columns."""
    parts: list[RenderableType] = [
        Text.assemble((old, "bold"), "  against  ", (new, "bold")),
        Text(f"size {size}; positions in tokens from the root", style="dim"),
        Text(),
        *_same(compared),
    ]
    if compared.same:
        parts.append(Text("nothing differs", style="bold"))
    else:
        moved = _moved(compared, old, new)
        parts += [Text(), _differences(compared), *_doubts(compared.parts), Text(), *moved]
    for what in compared.undecided:
        parts.append(Text(f"{what}: other parameters, though no step that was compared differs; not proven equal"))
    if ran:
        parts += [Text(), *_consequences(ran)]
    return Group(*parts)


def comparison_json(
    compared: PlanDiff, old: str, new: str, size: str, ran: Sequence[SavedStage] = ()
) -> dict[str, Any]:
    """The same as JSON values."""
    head = {"format": FORMAT, "old": old, "new": new, "size": size, "same": compared.same}
    moved = [{**asdict(entry), "difference": entry.difference} for entry in compared.moved]
    stages = {"ran": [asdict(stage) for stage in ran]} if ran else {}
    return {**head, **asdict(compared), "moved": moved, **stages}


def _same(compared: PlanDiff) -> list[RenderableType]:
    if not compared.shared:
        return [Text(f"the same in both: nothing from {show_exact(compared.begin)} tokens on")]
    lines: list[RenderableType] = [Text("the same in both, step for step, proven by the plans' numbers", style="bold")]
    for shared in compared.shared:
        name = shared.old if shared.old == shared.new else f"{shared.old} = {shared.new}"
        extent = "all of it" if shared.whole else f"up to {show_exact(shared.end)}"
        steps = f"{show_exact(shared.steps)} step{'' if shared.steps == 1 else 's'}"
        lines.append(Text(f"  {name}: {steps}, {extent}"))
    return lines


def _differences(compared: PlanDiff) -> RenderableType:
    drawn = table("they differ in", "#from step", "#at (tokens)")
    for part in compared.parts:
        step = show_exact(part.step)
        if part.new_step != part.step:
            step += f" | {show_exact(part.new_step)}"
        drawn.add_row(f"  {part.what}", step, show_exact(part.position))
    return drawn


def _doubts(parts: Sequence[AttributeDifference]) -> list[RenderableType]:
    return [
        Text(
            f"  {part.what}: at the latest there; proven the same only up to {show_exact(part.same_until)} tokens",
            style="dim",
        )
        for part in parts
        if not part.exact
    ]


def _moved(compared: PlanDiff, old: str, new: str) -> list[RenderableType]:
    if compared.old_end == compared.new_end:
        ends = f"both end at {show_exact(compared.old_end)}"
    else:
        ends = (
            f"they end apart: {show_exact(compared.old_end)} and {show_exact(compared.new_end)}, "
            "each is counted to its own end"
        )
    drawn = table(
        f"tokens after {show_exact(compared.same_until)}",
        f"#{old if len(old) <= NAMED else 'first'}",
        f"#{new if len(new) <= NAMED else 'second'}",
        "#moved",
    )
    for entry in compared.moved:
        sign = "+" if entry.difference > 0 else ""
        moved = f"{sign}{show_count(entry.difference)}" if entry.difference else "0"
        drawn.add_row(f"  {entry.source}", show_count(entry.old), show_count(entry.new), moved)
    return [drawn, Text(ends, style="dim")] if compared.moved else [Text(ends, style="dim")]


def _consequences(ran: Sequence[SavedStage]) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for stage in ran:
        saved = f"saved up to {show_exact(stage.saved)}" if stage.saved is not None else "nothing saved yet"
        parent_retrained = "; its parent was retrained" if stage.parent_retrained else ""
        lines.append(Text(f"{stage.stage}: {'done' if stage.done else 'started'}, {saved}{parent_retrained}"))
    return lines
