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
from curriculum.stream.held_out import quarter_ends
from runner.evaluate import held_out

LENGTH = 4


def measured(
    monkeypatch: pytest.MonkeyPatch,
    *,
    windows: int,
    of: int,
    micro_batch: int,
    part: float = 1.0,
    length: int = LENGTH,
    by_quarter: bool = False,
) -> dict[str, Any]:
    """The evaluation of a split of `of` windows whose loss is, for each window, that `part` of its number."""
    dataset = SimpleNamespace(
        windows=of, digest="d", read=lambda numbers: np.repeat(numbers[:, None], length + 1, axis=1)
    )
    dataset.spread = lambda most: Dataset.spread(dataset, most)
    monkeypatch.setattr(reader, "open_dataset", lambda *_: dataset)
    plan: Any = SimpleNamespace(sequence_length=length)
    sets = held_out.HeldOutSets(plan, {"prose": HeldOut(folder="", windows=windows)})

    def losses(tokens: NDArray[np.int64]) -> torch.Tensor:
        assert tokens.shape == (micro_batch, length + 1)
        if by_quarter:  # a token's loss is its place in the window
            each = torch.arange(length).expand(micro_batch, -1).double() * part
            parts = each.tensor_split(quarter_ends(length)[:-1], dim=1)
            return torch.stack([each.sum(1), *(one.sum(1) for one in parts)], dim=1)
        return torch.from_numpy(tokens[:, 0]).double() * length * part

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


@pytest.mark.parametrize(
    ("length", "quarters"),
    [(4, [0, 1, 2, 3]), (8, [0.5, 2.5, 4.5, 6.5]), (6, [0, 1.5, 3, 4.5]), (128, [15.5, 47.5, 79.5, 111.5])],
)
def test_quarters_of_the_window_have_losses_of_their_own(
    length: int, quarters: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = measured(monkeypatch, windows=5, of=9, micro_batch=2, length=length, by_quarter=True)
    assert result["by_quarter"] == quarters
    assert result["loss"] == (length - 1) / 2
    assert "by_quarter" not in measured(monkeypatch, windows=5, of=9, micro_batch=2, length=length)


def test_a_window_shorter_than_four_tokens_has_no_quarters(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "by_quarter" not in measured(monkeypatch, windows=5, of=9, micro_batch=2, length=3, by_quarter=True)
