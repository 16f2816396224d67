"""Held-out evaluations on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curriculum import fs
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.errors import DataError


def read_evaluations(folder: StageFolder) -> dict[int, Mapping[str, Any]]:
    """Every evaluation of a stage by position (tokens); the newest generation wins."""
    found: dict[int, tuple[int, Mapping[str, Any]]] = {}
    for path in folder.evaluation_files():
        value = read_evaluation(path)
        if value["position"] not in found or found[value["position"]][0] <= value["generation"]:
            found[value["position"]] = (value["generation"], value)
    return {position: value for position, (_, value) in sorted(found.items())}


def read_evaluation(path: Path) -> dict[str, Any]:
    """One file of `evaluations/`; DataError when it was changed since it was written."""
    try:
        return fs.unseal(json.loads(fs.read_bytes(path)), ("generation", "position", "step", "sets"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"`{path}` is damaged: {error}",
            hint="move it away: a kept checkpoint is measured anew where it is needed",
        ) from None


def write_sets(
    folder: StageFolder, generation: int, position: int, step: int, sets: Mapping[str, Any]
) -> None:
    """Write `evaluations/g<generation>-<position>.json`, merging with sets measured there before."""
    fs.make_directory(folder.evaluations)
    path = folder.evaluation(generation, position)
    known = read_sets(folder, generation, position)
    value = {"generation": generation, "position": position, "step": step, "sets": {**known, **sets}}
    fs.write_json(path, fs.seal(value), replace=True)


def cut_back_evaluations(folder: StageFolder, generation: int, position: int) -> None:
    """Remove what was measured after `position`: of weights that were not saved, so that others may come there now."""
    for path in folder.evaluation_files(generation):
        told = path.stem.partition("-")[2]
        if told.isdigit() and int(told) > position:
            fs.remove(path)


def read_sets(folder: StageFolder, generation: int, position: int) -> dict[str, Any]:
    """The sets measured at a position, none when there is no file; DataError when it was changed since."""
    path = folder.evaluation(generation, position)
    if not path.exists():
        return {}
    sets: dict[str, Any] = read_evaluation(path)["sets"]
    return sets
