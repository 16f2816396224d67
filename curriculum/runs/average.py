"""Writes the stage file of an average of checkpoints, and pins them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from curriculum import fs
from curriculum.artifacts import checkpoints
from curriculum.compiler.compile import Compiled
from curriculum.compiler.lineage import parse_address
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config import json_schema
from curriculum.config.project import Project
from curriculum.errors import PlanError
from curriculum.runs import folders


@dataclass(frozen=True, kw_only=True)
class Average:
    """An average as written: its stage file, its compiled lineage, and which of its checkpoints are not trained yet."""

    name: str
    text: str
    compiled: Compiled
    untrained: tuple[str, ...]


def average(
    project: Project,
    name: str,
    members: Sequence[str],
    *,
    weights: str | None,
    last: int | None,
    size: str,
    ema: bool = False,
) -> Average:
    """Write `stages/<name>.yaml`; nothing is written where it cannot be planned or a checkpoint was pruned since.

    `members` are addresses; with `last` there is one, whose last checkpoints are averaged. `weights` are numbers
    divided by commas. With `ema` it is the moving average that the one member keeps.
    """
    project.check_is_new(name)
    if last is not None and len(members) != 1:
        raise PlanError("`--last` is of one curriculum", hint="as in `curriculum average NAME v1.1/basic --last 5`")
    if ema and (len(members) != 1 or last is not None or weights is not None):
        raise PlanError(
            "`--ema` is of one checkpoint, which keeps the moving average",
            hint="as in `curriculum average NAME v1.1@1.9T --ema`",
        )
    for member in members:
        parse_address(member)
    text = _text(name, members, weights, last, ema=ema)
    compiled = PreparedText.open(project.with_draft(name, text), name, size).compiled
    average = compiled.stages[-1]
    points = [(member.compiled, member.stage) for member in average.members]
    untrained = [
        f"{stage.name} at {stage.stop:,}"
        for (_, stage), there in zip(points, folders.member_points(project, average), strict=True)
        if there is None
    ]
    fs.write_bytes(project.root / "stages" / f"{name}.yaml", text.encode())
    for lineage, stage in points:
        folder = folders.stage_folder(project, lineage, stage)
        if folder.path.is_dir() and stage.stop < stage.plan.end:
            with checkpoints.pinning(folder):
                checkpoints.pin(folder, stage.stop, name)
    return Average(name=name, text=text, compiled=compiled, untrained=tuple(dict.fromkeys(untrained)))


def _text(name: str, members: Sequence[str], weights: str | None, last: int | None, *, ema: bool) -> str:
    what = f"{{last: {last}, of: {members[0]}}}" if last is not None else f"[{', '.join(members)}]"
    shares = f", weights: [{weights}]" if weights is not None else ""
    if ema:
        return _text_of_one(name, members[0])
    lines = [
        json_schema.modeline(f"stages/{name}.yaml"),
        "# The weights of these checkpoints, averaged; clock, settings and positions of the sources are the first's.",
        f"about: the average of {f'the last {last} of ' if last is not None else ''}{', '.join(members)}",
        f"from: {{average: {what}{shares}}}",
        "# Stages that are added here continue from the average, with fresh optimizer state.",
    ]
    return "\n".join(lines) + "\n"


def _text_of_one(name: str, member: str) -> str:
    lines = [
        json_schema.modeline(f"stages/{name}.yaml"),
        "# The moving average of the weights that this checkpoint keeps; clock, settings and positions are its own.",
        f"about: the moving average of {member}",
        f"from: {{ema: {member}}}",
        "# Stages that are added here continue from it, with fresh optimizer state.",
    ]
    return "\n".join(lines) + "\n"
