"""Which held-out windows an evaluation measured, whether two measured the same, and of which documents they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curriculum.compiler.prepared_text import PreparedText
from curriculum.data.dataset import Dataset
from curriculum.data.manifest import HELD_OUT
from curriculum.errors import DataError
from curriculum.runs.measurements import Point

MeasuredSets = Mapping[str, Mapping[str, Any]]
"""What one evaluation file says: a source to its `loss`, `windows`, `tokens`, `digest` and `per_window`."""
RECORDED = frozenset({"loss", "windows", "tokens", "digest", "per_window"})
HeldOutWindows = tuple[str, int, int]
"""Which windows an evaluation measured: the digest of the prepared text, their number, and the tokens of one."""


def mismatch(first: Mapping[str, Any], second: Mapping[str, Any]) -> str | None:
    """Why two evaluations of a source cannot be compared window by window, or None when they can."""
    if first["digest"] != second["digest"]:
        return "the prepared text was not the same"
    if first["windows"] != second["windows"] or len(first["per_window"]) != len(second["per_window"]):
        return f"{second['windows']:,} windows were measured, {first['windows']:,} there"
    if windows_of(first) != windows_of(second):
        return f"windows of {windows_of(second)[2]:,} tokens were measured, of {windows_of(first)[2]:,} there"
    return None


def windows_of(entry: Mapping[str, Any]) -> HeldOutWindows:
    """The windows that a source's entry in an evaluation was measured on."""
    return entry["digest"], int(entry["windows"]), int(entry["tokens"]) // int(entry["windows"])


def documents(
    texts: Sequence[PreparedText], measured: Mapping[Point, MeasuredSets]
) -> dict[HeldOutWindows, NDArray[np.int64]]:
    """The document of each window that was measured, where the text is here as it was then."""
    texts_of = {source: text for text in texts for source in text.compiled.sources}
    numbers: dict[HeldOutWindows, NDArray[np.int64]] = {}
    for source, entry in ((source, entry) for sets in measured.values() for source, entry in sets.items()):
        if source not in texts_of or (windows := windows_of(entry)) in numbers:
            continue
        try:
            folder = texts_of[source].folder(texts_of[source].compiled.sources[source].dataset)
            dataset = Dataset.open(folder, split=HELD_OUT, sequence_length=windows[2])
        except DataError:  # the text is not prepared here, or damaged, which `verify` tells
            continue
        if windows[0] == dataset.digest:
            numbers[windows] = dataset.document_numbers(dataset.spread(windows[1]))
    return numbers
