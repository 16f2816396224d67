"""Three variants that are compared: their names, the third one's file, and what is read of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from curriculum.analysis import compare
from curriculum.analysis.compare import Comparison
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.project import Project

FULL = ("--size", "full")
NAMES = ("trunk", "variant", "control")
CONTROL = """\
about: the variant's cooldown with the batch kept
from: variant/continual
stages:
  - {name: cooldown, until: 12288}
"""


def comparison(root: Path, *names: str, against: str | None = None) -> Comparison:
    project = Project(root)
    return compare.compare([PreparedText.open(project, name, "full") for name in names or NAMES], against)


def sets(root: Path, stage: str, position: int) -> dict[str, Any]:
    path = root / "runs/full" / stage / "evaluations" / f"g0-{position:016d}.json"
    sets: dict[str, Any] = json.loads(path.read_bytes())["sets"]
    return sets
