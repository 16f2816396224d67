"""An arm of a study written as files: the curriculum that it is, to be changed and trained under a name of its own."""

from __future__ import annotations

from typing import Any

from curriculum.compiler.lineage import parse_address
from curriculum.config import json_schema
from curriculum.runs.branch import Branch, write_branch, write_root
from curriculum.studies import drafts
from curriculum.studies.arm import Arm
from curriculum.studies.study import Study


def branch_arm(study: Study, arm: Arm, name: str) -> Branch:
    """Write `stages/<name>.yaml`, and `mixtures/<name>.yaml` where no file has the arm's mixture.

    An arm of another trunk than the first, and one without a branch point, leaves no curriculum that has a file: it is
    written as a root of its own, under the seed that trained it.
    """
    stage = study.stage.setting.stage if study.stage is not None else "continued"
    left_out = ("name", "measure", "every")
    entries: list[dict[str, Any]] = [
        {"name": stage if own is arm.entries[-1] else f"{stage}-first-part"}
        | {key: value for key, value in own.items() if key not in left_out}
        for own in arm.entries
    ]
    mixtures = {}
    if arm.draft.mixtures:
        (text,) = arm.draft.mixtures.values()
        mixtures = {name: f"{json_schema.modeline(f'mixtures/{name}.yaml')}\n{text}"}
        entries[0]["mixture"] = name
    about = f"arm {arm.name} of study {study.name}"
    if study.point is not None and arm.seed == 1:
        text = drafts.stage_file(study, name, about, entries, 1)
        return write_branch(study.project, parse_address(study.point), name, text, study.size, mixtures)
    seed = arm.seed if study.before else arm.replicate
    text = drafts.stage_file(study, name, about, entries, seed, trunk="{stage}")
    return write_root(study.project, name, text, study.size, mixtures, arm.texts.named(arm.address).compiled)
