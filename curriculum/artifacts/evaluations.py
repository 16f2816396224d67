"""Held-out losses on disk: `evaluations/g<generation>-<position>.json` in a stage's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curriculum import fs
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.errors import DataError


def read_evaluations(folder: StageFolder) -> dict[int, Mapping[str, Any]]:
    """What a stage measured by position (tokens): a set to its `loss`, `windows`, `digest` and `per_window`.

    `by_quarter` is there where the trainer measured it: the loss in each quarter of the windows, from their beginning.

    The newest generation wins.
    """
    newest: dict[int, Mapping[str, Any]] = {}
    for evaluation in map(read_evaluation, folder.evaluation_files()):
        other = newest.get(evaluation["position"])
        if other is None or other["generation"] <= evaluation["generation"]:
            newest[evaluation["position"]] = evaluation
    return {position: evaluation["sets"] for position, evaluation in sorted(newest.items())}


def read_evaluation(path: Path) -> dict[str, Any]:
    """One file of `evaluations/`; DataError when it was changed since it was written."""
    try:
        return fs.read_sealed(path, ("generation", "position", "step", "sets"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"`{path}` is damaged: {error}", hint="move it away: a kept checkpoint is measured again where it is needed"
        ) from None


def read_sets(folder: StageFolder, generation: int, position: int) -> dict[str, Any]:
    """The sets measured at a position by source, empty without a file; DataError when it was changed since."""
    path = folder.evaluation(generation, position)
    return dict(read_evaluation(path)["sets"]) if path.exists() else {}


def write_sets(folder: StageFolder, generation: int, position: int, step: int, sets: Mapping[str, Any]) -> None:
    """Write the losses measured at a position, merged with the sets that its file already holds."""
    sets = {**read_sets(folder, generation, position), **sets}
    value = {"generation": generation, "position": position, "step": step, "sets": sets}
    path = folder.evaluation(generation, position)
    fs.make_directory(path.parent)
    fs.write_sealed(path, value, replace=True)


def cut_back(folder: StageFolder, generation: int, position: int) -> None:
    """Remove the evaluations of a generation past `position`: their weights were not saved and may differ next time."""
    for path in folder.evaluation_files(generation):
        digits = path.stem.partition("-")[2]
        if digits.isdigit() and int(digits) > position:
            fs.remove(path)
