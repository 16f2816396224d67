"""The edit that goes on without a bad shard: as YAML to write, from the last clean checkpoint."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any, Final

import numpy as np

from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.compiler.lineage import Address
from curriculum.config.project import Project
from curriculum.plan import lookup
from curriculum.runs import branch

MOST_SKIPS: Final = 40
"""Entries of `skip:` that a person can still read; with more steps to skip the shard is left out instead."""


def exclusion_edit(
    project: Project,
    compiled: Compiled,
    stage: CompiledStage,
    clean: int,
    stretch: range,
    source: str,
    shard: int,
    *,
    begun: bool,
    alone: bool,
) -> dict[str, Any]:
    """The edit for one lineage: `stage` is the first that reads the shard, `clean` a step boundary in it (tokens).

    `kind` is `skip`, `leave_out`, or `replace` where the source has no other shard (`alone`); `file` is what to
    write and `yaml` what to write there. Where nothing is trained yet (`begun` false), or nothing of it is clean,
    the key belongs into the stage itself.
    """
    skips = _skips(compiled, stage, clean, stretch, source)
    if skips:
        entries = (f"{{from: {a}, to: {b}, why: shard {shard} of {source}}}" for a, b in skips)
        kind, key = "skip", f"skip: [{', '.join(entries)}]"
    elif alone:
        _, mixture = project.mixture(stage.setting.mixture)
        return {"kind": "replace", "file": mixture.file, "yaml": "", "from": None}
    else:
        kind, key = "leave_out", f"leave_out: [{{source: {source}, shard: {shard}, why: bad text}}]"
    written = stage.setting.document.file
    if not begun:
        return {"kind": kind, "file": f"{written}, stage {stage.setting.stage}", "yaml": key, "from": None}
    if clean <= stage.plan.start and stage.parent is None:
        file = f"a copy of {written} under a new name, stage {stage.setting.stage}"
        return {"kind": kind, "file": file, "yaml": key, "from": None}
    address = Address(compiled.curriculum, position=_full_size(clean, compiled.scale))
    name = f"{compiled.curriculum}-clean"
    lines = branch.draft(project, address, name, branch.Change()).splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("  - {"))
    lines[first] = f"{lines[first].removesuffix('}')}, {key}}}"
    text = "\n".join(line for line in lines if not line.startswith("#"))
    return {"kind": kind, "file": f"stages/{name}.yaml", "yaml": text, "from": str(address)}


def _skips(
    compiled: Compiled, stage: CompiledStage, clean: int, stretch: range, source: str
) -> list[tuple[int, int]]:
    """Positions (full size) to skip so that no step reads the stretch again; empty where too many would be needed.

    Only where no later stage reads the source: a skip moves the data of all that comes after it.
    """
    plan = stage.plan
    later = compiled.stages[compiled.stages.index(stage) + 1 :]
    if len(stretch) > lookup.ONE_BY_ONE or stage.setting.skip:
        return []
    if any(source in blend.mixer.names for each in later for blend in each.plan.blends):
        return []
    windows = np.arange(stretch.start, stretch.stop, dtype=np.int64)
    first = (clean - plan.start) // plan.sequence_length
    bad: list[int] = []
    while True:  # what moves up at the stage's end may be bad as well
        longer = replace(plan, steps=plan.steps + len(bad))
        found = lookup.occurrences(longer, source, windows, first=first, stop=longer.sequences)
        steps = sorted(set((found.sequence // plan.batch_sequences).tolist()))
        if len(steps) > MOST_SKIPS:
            return []
        if len(steps) == len(bad):
            break
        bad = steps
    groups: list[tuple[int, int]] = []
    for number, step in enumerate(bad):
        clock = step - number
        if groups and groups[-1][0] == clock:
            groups[-1] = (clock, groups[-1][1] + 1)
        else:
            groups.append((clock, 1))
    tokens = plan.batch_tokens
    return [
        (
            _full_size(plan.start + clock * tokens, compiled.scale),
            _full_size(plan.start + (clock + count) * tokens, compiled.scale),
        )
        for clock, count in groups
        if clock < plan.steps
    ]


def _full_size(position: int, scale: Fraction) -> int:
    """The full-size position that a size scales to exactly `position` (it rounds up)."""
    return int(position / scale)
