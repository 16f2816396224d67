"""Which windows of a held-out split are measured, and how their losses are put together."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from curriculum.artifacts.jobs import HeldOut
from curriculum.data.dataset import Dataset
from curriculum.stream import reader
from runner.evaluate import held_out

LENGTH = 4


def measured(
    monkeypatch: pytest.MonkeyPatch, *, windows: int, of: int, micro_batch: int, part: float = 1.0
) -> dict[str, Any]:
    """The evaluation of a split of `of` windows whose loss is, for each window, that `part` of its number."""
    dataset = SimpleNamespace(
        windows=of, digest="d", read=lambda numbers: np.repeat(numbers[:, None], LENGTH + 1, axis=1)
    )
    dataset.spread = lambda most: Dataset.spread(dataset, most)
    monkeypatch.setattr(reader, "open_dataset", lambda *_: dataset)
    plan: Any = SimpleNamespace(sequence_length=LENGTH)
    sets = held_out.HeldOutSets(plan, {"prose": HeldOut(folder="", windows=windows)})

    def losses(tokens: NDArray[np.int64]) -> torch.Tensor:
        assert tokens.shape == (micro_batch, LENGTH + 1)
        return torch.from_numpy(tokens[:, 0]).double() * LENGTH * part

    result: dict[str, Any] = sets.measure(losses, ["prose"], micro_batch)["prose"]
    return result


@pytest.mark.parametrize("micro_batch", [1, 3, 8])
def test_the_windows_measured_are_spread_evenly_over_the_whole_split(
    monkeypatch: pytest.MonkeyPatch, micro_batch: int
) -> None:
    result = measured(monkeypatch, windows=8, of=100, micro_batch=micro_batch)
    assert result["per_window"] == [0, 12, 25, 37, 50, 62, 75, 87]
    assert result["loss"] == np.mean(result["per_window"])
    assert (result["windows"], result["tokens"], result["digest"]) == (8, 8 * LENGTH, "d")


def test_a_split_with_fewer_windows_is_measured_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured(monkeypatch, windows=8, of=5, micro_batch=2)["per_window"] == [0, 1, 2, 3, 4]


def test_losses_of_windows_are_recorded_to_a_millionth(monkeypatch: pytest.MonkeyPatch) -> None:
    result = measured(monkeypatch, windows=3, of=3, micro_batch=2, part=1 / 7)
    assert result["per_window"] == [0, 0.142857, 0.285714]
