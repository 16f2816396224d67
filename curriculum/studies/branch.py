"""An arm of a study written as files: the curriculum that it is, to be changed and trained under a name of its own."""

from __future__ import annotations

from typing import Any

from curriculum.compiler.lineage import parse_address
from curriculum.config import json_schema
from curriculum.errors import PlanError
from curriculum.runs.branch import Branch, write_branch
from curriculum.studies import drafts
from curriculum.studies.arms import Arm
from curriculum.studies.study import Study


def branch_arm(study: Study, arm: Arm, name: str) -> Branch:
    """Write `stages/<name>.yaml`, and `mixtures/<name>.yaml` where no file has the arm's mixture.

    PlanError for an arm of another trunk than the first, which branches from no curriculum that has a file.
    """
    if study.point is None or arm.seed > 1:
        raise PlanError(
            f"`{arm.address}` does not leave a curriculum of this project: it is trained from a root of its own",
            hint=f"name an arm of the first trunk; `curriculum plan {study.name} --json` says which are",
        )
    entry: dict[str, Any] = dict(arm.entry)
    stage = study.stage.setting.stage if study.stage is not None else "continued"
    entry = {"name": stage, **{key: value for key, value in entry.items() if key not in ("name", "measure", "every")}}
    mixtures = {}
    if arm.draft.mixtures:
        (text,) = arm.draft.mixtures.values()
        mixtures = {name: f"{json_schema.modeline(f'mixtures/{name}.yaml')}\n{text}"}
        entry["mixture"] = name
    text = drafts.stage_file(study, name, f"arm {arm.name} of study {study.name}", [entry], 1)
    return write_branch(study.project, parse_address(study.point), name, text, study.size, mixtures)
