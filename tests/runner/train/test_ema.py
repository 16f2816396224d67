"""The moving average of the weights: its formula, and where it begins. Whole stages of it: test_stage.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small import ALONE, NUMBERS, build, take

from runner.checkpoint import tensors
from runner.train import ema
from runner.train.muon import optimizer_of


@pytest.mark.promise(
    "A moving average of the weights has the same bits on any number of ranks and after a resume, and trains nothing"
)
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_average_follows_the_weights_and_a_new_one_begins_at_them(name: str, tmp_path: Path) -> None:
    model = build()
    optimizer = optimizer_of(model, NUMBERS | {"name": name, "ema": 512})
    ema.begin(optimizer, model.parameters())
    expected = [parameter.detach().double() for parameter in model.parameters()]
    for step, decay in enumerate((0.5, 0.9, 0.99)):
        take(model, optimizer, step)
        ema.update(optimizer, optimizer.parameters, decay)
        expected = [
            decay * old + (1 - decay) * parameter.detach().double()
            for old, parameter in zip(expected, model.parameters(), strict=True)
        ]
    for parameter, value in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(optimizer.state[parameter][ema.EMA].double(), value, rtol=1e-5, atol=1e-7)

    plain, other = build(seed=3), build(seed=4)
    without = optimizer_of(plain, NUMBERS | {"name": name})
    tensors.save(tmp_path / "without", plain, without, {"step": 0}, ALONE)
    keeps = optimizer_of(other, NUMBERS | {"name": name, "ema": 512})
    tensors.load(tmp_path / "without", other, keeps)
    for theirs, ours in zip(plain.parameters(), other.parameters(), strict=True):
        assert torch.equal(theirs, ours)
        assert torch.equal(keeps.state[ours][ema.EMA], ours)
