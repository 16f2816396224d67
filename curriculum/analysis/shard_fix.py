"""The YAML edit that excludes a bad shard from the last clean checkpoint on."""

from __future__ import annotations

from collections import Counter
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
"""The longest `skip:` that is proposed; for more steps than that the shard is left out of its source instead."""


def exclusion_edit(
    project: Project,
    compiled: Compiled,
    stage: CompiledStage,
    clean: int,
    windows: range,
    source: str,
    shard: int,
    *,
    started: bool,
    alone: bool,
) -> dict[str, Any]:
    """The edit for one lineage: `stage` is the first that reads the shard, `clean` a step boundary in it (tokens).

    `windows` are those of the shard. `kind` is `skip`, `leave_out`, or `replace` where the source has no other shard
    (`alone`); `yaml` is to be written to `file`. Where no stage is `started`, or no checkpoint is clean, the key goes
    into the stage itself.
    """
    skips = _skips(compiled, stage, clean, windows, source)
    if alone and not skips:
        _, mixture = project.mixture(stage.setting.mixture)
        return {"kind": "replace", "file": mixture.file, "yaml": "", "from": None}
    kind, entries = "leave_out", [{"source": source, "shard": shard, "why": "bad text"}]
    if skips:
        kind, entries = "skip", [{"from": a, "to": b, "why": f"shard {shard} of {source}"} for a, b in skips]
    file = stage.setting.document.file
    if not started or (clean <= stage.plan.start and stage.parent is None):
        file = f"a copy of {file} under a new name" if started else file
        return {
            "kind": kind,
            "file": f"{file}, stage {stage.setting.stage}",
            "yaml": f"{kind}: {branch.flow(entries)}",
            "from": None,
        }
    address = Address(compiled.curriculum, position=_full_size(clean, compiled.scale))
    name = f"{compiled.curriculum}-clean"
    draft = branch.draft(project, address, name, branch.Change(), {kind: entries})
    text = "\n".join(line for line in draft.splitlines() if not line.startswith("#"))
    return {"kind": kind, "file": f"stages/{name}.yaml", "yaml": text, "from": str(address)}


def _skips(
    compiled: Compiled, stage: CompiledStage, clean: int, shard_windows: range, source: str
) -> list[tuple[int, int]]:
    """Full-size positions to skip so that no later step reads the windows; empty where there would be too many.

    Only where no later stage reads the source and the batch stays: a skip moves the data of all steps after it.
    """
    plan = stage.plan
    later = compiled.stages[compiled.stages.index(stage) + 1 :]
    if len(shard_windows) > lookup.ONE_BY_ONE or stage.setting.skip or plan.batch_changes:
        return []
    if any(source in blend.mixer.names for following in later for blend in following.plan.blends):
        return []
    windows = np.arange(shard_windows.start, shard_windows.stop, dtype=np.int64)
    first = (clean - plan.start) // plan.sequence_length
    bad: list[int] = []
    while True:  # a step that moves up at the stage's end may be bad as well
        longer = replace(plan, steps=plan.steps + len(bad))
        reads = lookup.occurrences(longer, source, windows, first=first, stop=longer.sequences)
        steps = sorted(set(plan.clock.steps_of_sequences(reads.sequence).tolist()))
        if len(steps) > MOST_SKIPS:
            return []
        if len(steps) == len(bad):
            break
        bad = steps
    # a skip moves the steps after it up: bad steps next to each other are one skip
    skips = Counter(step - number for number, step in enumerate(bad))
    position, scale = plan.clock.position, compiled.scale
    return [
        (_full_size(position(clock), scale), _full_size(position(clock + count), scale))
        for clock, count in skips.items()
        if clock < plan.steps
    ]


def _full_size(position: int, scale: Fraction) -> int:
    """The full-size position that a size scales to exactly `position` (it rounds up)."""
    return int(position / scale)
