"""The stage file and the mixture that a person would have written for an arm, as text; nothing is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curriculum.config import ROOT_KEYS, json_schema
from curriculum.runs.branch import flow, scalar, stage_entries
from curriculum.studies.study import Study

TRUNK = "seed-{seed}.{stage}"
"""The name of a stage before the branch point that is trained again under another seed."""
_ROOT_SETTINGS = (*ROOT_KEYS, "every", "keep", "held_out_windows")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """The text of a stage file, and that of the mixture files that no file has, by name."""

    stage_file: str
    mixtures: Mapping[str, str]


def stage_file(
    study: Study, curriculum: str, about: str, entries: Sequence[Mapping[str, Any]], seed: int, trunk: str = TRUNK
) -> str:
    """The file of curriculum `curriculum`: what leaves the branch point of trunk `seed`, counted from 1.

    Another trunk than the first has the stages before the branch point again, under the root's seed plus `seed` - 1 and
    the names of the form `trunk`. So has an arm without a branch point.
    """
    lines = [json_schema.modeline(f"stages/{curriculum}.yaml"), f"about: {scalar(about)}"]
    before: list[dict[str, Any]] = []
    if study.before and seed == 1:
        lines.append(f"from: {study.point}")
    else:
        root = study.root.document.value
        stated = {key: root[key] for key in _ROOT_SETTINGS if key in root}
        lines += [f"{key}: {flow(value)}" for key, value in (stated | {"seed": study.root.seed + seed - 1}).items()]
        for _, entry in stage_entries(study.project, study.before, cut=None) if study.before else ():
            before.append(entry | {"name": trunk.format(seed=seed, stage=entry["name"])})
    lines.append("stages:")
    lines += [f"  - {flow(entry)}" for entry in (*before, *entries)]
    return "\n".join(lines) + "\n"
