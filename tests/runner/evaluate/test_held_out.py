"""Which windows of a held-out split are measured, and how their losses are put together."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import small
import torch
from numpy.typing import NDArray

from curriculum.artifacts.jobs import HeldOut
from curriculum.data.dataset import Dataset
from curriculum.stream import reader
from curriculum.stream.held_out import quarter_ends
from runner.evaluate import held_out
from runner.model import forward

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


def test_losses_of_quarters_are_recorded_to_a_millionth(monkeypatch: pytest.MonkeyPatch) -> None:
    result = measured(monkeypatch, windows=3, of=3, micro_batch=2, part=1 / 7, by_quarter=True)
    assert result["by_quarter"] == [0, 0.142857, 0.285714, 0.428571]


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


@pytest.mark.parametrize("masked", [False, True])
def test_a_model_is_measured_by_its_loss_of_each_token_and_trains_again(
    monkeypatch: pytest.MonkeyPatch, masked: bool
) -> None:
    rows = np.random.default_rng(1).integers(0, small.CONFIG.vocab_size, (5, 9))
    rows[:, 3] = end = 7
    dataset = SimpleNamespace(windows=5, digest="d", read=lambda numbers: rows[numbers])
    dataset.spread = lambda most: Dataset.spread(dataset, most)
    monkeypatch.setattr(reader, "open_dataset", lambda *_: dataset)
    plan: Any = SimpleNamespace(sequence_length=8, mask_documents=masked, tokenizer={"eos": end})
    sets = held_out.HeldOutSets(plan, {"prose": HeldOut(folder="", windows=5)})
    model, passes = small.build(), []

    def before_forward() -> None:
        passes.append((model.training, torch.is_grad_enabled()))

    result = held_out.evaluate(model, plan, sets, ["prose"], small.ALONE, 2, before_forward)["prose"]
    assert (passes, model.training) == ([(False, False)] * 3, True)
    with torch.no_grad():
        each, other = (
            forward.losses(model, rows, eos).double().numpy() for eos in ((end, None) if masked else (None, end))
        )
    assert result["per_window"] == pytest.approx(each.mean(axis=1), abs=2e-6)
    assert result["by_quarter"] == pytest.approx(each.reshape(5, 4, 2).mean(axis=(0, 2)), abs=2e-6)
    assert np.abs(each - other).max() > 1e-4  # the masks show


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_ranks_measure_each_window_once_and_call_the_model_equally_often(
    monkeypatch: pytest.MonkeyPatch, micro_batch: int
) -> None:
    rows = np.random.default_rng(1).integers(0, small.CONFIG.vocab_size, (7, 9))
    dataset = SimpleNamespace(windows=7, digest="d", read=lambda numbers: rows[numbers])
    dataset.spread = lambda most: Dataset.spread(dataset, most)
    monkeypatch.setattr(reader, "open_dataset", lambda *_: dataset)
    plan: Any = SimpleNamespace(sequence_length=8, mask_documents=False)
    sets, model = held_out.HeldOutSets(plan, {"prose": HeldOut(folder="", windows=7)}), small.build()

    def on(rank: int, size: int) -> tuple[int, NDArray[np.float64], NDArray[np.float64]]:
        """Passes through the model, and the sums that this rank hands to the others."""
        passes: list[int] = []
        sums: list[torch.Tensor] = []

        def add(values: torch.Tensor) -> torch.Tensor:
            sums.append(values.clone())
            return values

        ranks: Any = SimpleNamespace(rank=rank, size=size, add=add)
        held_out.evaluate(model, plan, sets, ["prose"], ranks, micro_batch, lambda: passes.append(rank))
        windows, quarters = (one.numpy() for one in sums)
        return len(passes), windows, quarters

    _, windows, quarters = on(0, 1)
    first, second = on(0, 2), on(1, 2)
    assert first[0] == second[0] == -(-7 // (2 * micro_batch))
    assert not np.any((first[1] != 0) & (second[1] != 0))
    assert first[1] + second[1] == pytest.approx(windows, rel=1e-5)
    assert first[2] + second[2] == pytest.approx(quarters, rel=1e-5)
