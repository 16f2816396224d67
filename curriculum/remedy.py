"""The edit that goes on without a bad shard: as YAML to write, from the last clean checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, Final

import numpy as np

from curriculum import readings
from curriculum.planner import Compiled, CompiledStage

MOST_SKIPS: Final = 40
"""Entries of `skip:` that a person can still read; with more steps to skip the shard is left out instead."""


def edit(
    compiled: Compiled, stage: CompiledStage, clean: int, stretch: range, source: str, shard: int, begun: bool
) -> dict[str, Any]:
    """The edit for one lineage: `stage` is the first that reads the shard, `clean` a step boundary in it (tokens).

    `kind` is `skip` or `leave_out`; `file` is what to write and `yaml` what to write there. Where nothing is
    trained yet (`begun` false), the key belongs into the stage as it stands, and `file` is its own.
    """
    at = compiled.stages.index(stage)
    why = f"shard {shard} of {source}"
    skips = _skips(compiled, stage, clean, stretch, source)
    if skips:
        entries = (f"{{from: {a}, to: {b}, why: {why}}}" for a, b in skips)
        kind, key = "skip", f"skip: [{', '.join(entries)}]"
    else:
        kind, key = "leave_out", f"leave_out: [{{source: {source}, shard: {shard}, why: bad text}}]"
    if not begun:
        file = f"{stage.setting.document.file}, stage {stage.setting.stage}"
        return {"kind": kind, "file": file, "yaml": key, "from": None}
    name = f"{compiled.curriculum}-clean"
    if clean > stage.plan.start:
        origin = f"{compiled.curriculum}@{_full_size(clean, compiled.scale)}"
    elif stage.parent is not None:
        whole = stage.parent.stop == stage.parent.plan.end
        origin = stage.parent.name if whole else f"{compiled.curriculum}@{_full_size(clean, compiled.scale)}"
    else:
        file = f"a copy of {stage.setting.document.file} under a new name, stage {stage.setting.stage}"
        return {"kind": kind, "file": file, "yaml": key, "from": None}
    lines = [f"about: {compiled.curriculum} without {why}", f"from: {origin}", "stages:"]
    own = {"name": stage.setting.stage, "until": stage.setting.until}
    if clean > stage.plan.start:
        left = stage.ramp_sequences * stage.plan.sequence_length - (clean - stage.plan.start)
        if left > 0:
            own["ramp"] = _full_size(left, compiled.scale)
    else:
        own = {**_stated(stage), **own}
    lines.append(f"  - {{{', '.join(f'{k}: {_flow(v)}' for k, v in own.items())}, {key}}}")
    for later in compiled.stages[at + 1 :]:
        stated = ", ".join(f"{k}: {_flow(v)}" for k, v in _stated(later).items())
        lines.append(f"  - {{{stated}}}")
    return {"kind": kind, "file": f"stages/{name}.yaml", "yaml": "\n".join(lines), "from": origin}


def _skips(
    compiled: Compiled, stage: CompiledStage, clean: int, stretch: range, source: str
) -> list[tuple[int, int]]:
    """Positions (full size) to skip so that no step reads the stretch again; empty where too many would be needed.

    Only where no later stage reads the source: a skip moves the data of all that comes after it.
    """
    plan = stage.plan
    later = compiled.stages[compiled.stages.index(stage) + 1 :]
    if len(stretch) > readings.ONE_BY_ONE or stage.setting.skip:
        return []
    if any(source in blend.mixer.names for each in later for blend in each.plan.blends):
        return []
    windows = np.arange(stretch.start, stretch.stop, dtype=np.int64)
    first = (clean - plan.start) // plan.sequence_length
    bad: list[int] = []
    while True:  # what moves up at the stage's end may be bad as well
        longer = replace(plan, steps=plan.steps + len(bad))
        found = readings.readings(longer, source, windows, first=first, stop=longer.sequences)
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


def _stated(stage: CompiledStage) -> dict[str, Any]:
    """What the stage's file says of it, with what stands above the first stage for all of them."""
    document, path = stage.setting.document, stage.setting.path
    stages: Sequence[dict[str, Any]] = document.value["stages"]
    number = int(path[1])
    above = {
        key: document.value[key]
        for key in ("sequence_length", "learning_rate", "every")
        if number == 0 and stage.parent is not None and key in document.value
    }
    stated = {**above, **stages[number]}
    stated.pop("tokens", None)
    return {**stated, "until": stage.setting.until}


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
