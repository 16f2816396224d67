"""Held-out evaluations on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curriculum import fs
from curriculum.errors import DataError


def evaluations(stage_folder: Path) -> dict[int, Mapping[str, Any]]:
    """Every evaluation of a stage by position (tokens); the newest generation wins."""
    found: dict[int, tuple[int, Mapping[str, Any]]] = {}
    for path in sorted((stage_folder / "evaluations").glob("g*.json")):
        value = read_evaluation(path)
        if value["position"] not in found or found[value["position"]][0] <= value["generation"]:
            found[value["position"]] = (value["generation"], value)
    return {position: value for position, (_, value) in sorted(found.items())}


def read_evaluation(path: Path) -> dict[str, Any]:
    """One file of `evaluations/`; DataError when it was changed since it was written."""
    try:
        return fs.unsealed(json.loads(fs.read_bytes(path)), ("generation", "position", "step", "sets"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"`{path}` is damaged: {error}",
            hint="move it away: a kept checkpoint is measured anew where it is needed",
        ) from None
