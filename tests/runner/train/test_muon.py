"""Muon against torch's own on separate matrices; what it refuses; steps that are skipped; its state in checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small import ALONE, CONFIG, batch, build
from torch import nn

from curriculum.errors import PlanError
from runner.checkpoint import tensors
from runner.checkpoint.huggingface import to_hugging_face
from runner.model.loss import next_token_loss
from runner.model.transformer import Transformer
from runner.train import muon
from runner.train.muon import optimizer_of
from runner.train.optimizer import AdamW, set_learning_rate

NUMBERS: dict[str, Any] = {
    "name": "muon",
    "betas": [0.9, 0.95],
    "eps": 1e-8,
    "weight_decay": 0.1,
    "decay": "matrices",
    "momentum": 0.9,
}
OWN = replace(CONFIG, qk_norm="head", attention_bias="qkv")


def set_gradients(model: Transformer, step: int) -> None:
    model.zero_grad()
    read = batch(step, model.config)
    total, _ = model.head(model(read[:, :-1]), read[:, 1:], next_token_loss)
    (total / read[:, 1:].numel()).backward()


def separate(model: Transformer) -> dict[str, torch.Tensor]:
    return dict(to_hugging_face(model.config, lambda name: model.get_parameter(name).detach()))


@pytest.mark.promise("Muon's steps are those of torch's own class on the separate matrices, AdamW's for the rest")
@pytest.mark.parametrize("adjust", ["match_rms_adamw", "original"])
def test_three_steps_are_those_of_torch_s_muon_and_adamw(adjust: str) -> None:
    ours = build(OWN)
    optimizer = optimizer_of(ours, NUMBERS | {"adjust_rate": adjust})
    theirs = {name: nn.Parameter(tensor.clone()) for name, tensor in separate(ours).items()}
    matrices = [p for name, p in theirs.items() if "layers" in name and p.dim() == 2]
    tables = [p for name, p in theirs.items() if "layers" not in name and p.dim() == 2]
    vectors = [p for p in theirs.values() if p.dim() == 1]
    others = [{"params": tables}, {"params": vectors, "weight_decay": 0.0}]
    reference = [
        torch.optim.Muon(matrices, weight_decay=0.1, momentum=0.9, adjust_lr_fn=adjust),
        torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.1),
    ]
    for step in range(3):
        set_gradients(ours, step)
        gradients = to_hugging_face(OWN, lambda name: ours.get_parameter(name).grad)
        for name, gradient in gradients:
            theirs[name].grad = gradient
        for one in (optimizer, *reference):
            set_learning_rate(one, 1e-2)
            one.step()
        for name, tensor in separate(ours).items():
            same = "layers" in name and tensor.dim() == 2
            torch.testing.assert_close(tensor, theirs[name].detach(), rtol=0, atol=0 if same else 1e-7, msg=name)


def test_a_step_that_is_skipped_changes_neither_weights_nor_momentum_nor_the_count() -> None:
    model = build(OWN)
    optimizer = optimizer_of(model, NUMBERS)
    set_learning_rate(optimizer, 1e-2)
    set_gradients(model, 0)
    optimizer.found_inf = torch.zeros(())
    optimizer.step()
    before = [t.clone() for p in model.parameters() for t in (p.detach(), *optimizer.state[p].values())]
    set_gradients(model, 1)
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad[0] = float("nan")
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    after = [t for p in model.parameters() for t in (p.detach(), *optimizer.state[p].values())]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert tensors.adam_step(optimizer) == 1


@pytest.mark.promise("Muon's state is saved and restored as AdamW's")
def test_a_run_goes_on_from_a_checkpoint_with_the_same_bits(tmp_path: Path) -> None:
    model = build(OWN)
    optimizer = optimizer_of(model, NUMBERS)
    set_learning_rate(optimizer, 1e-2)
    for step in range(4):
        if step == 2:
            tensors.save(tmp_path / "saved", model, optimizer, {"step": 2}, ALONE)
        set_gradients(model, step)
        optimizer.step()
    names = load_file(tmp_path / "saved/rank-00000.safetensors").keys()
    assert "momentum_buffer.blocks.0.attention.qkv.weight" in names
    assert "exp_avg.blocks.0.attention.qkv.weight" not in names
    assert "exp_avg.embedding.weight" in names

    again = build(OWN, seed=5)
    other = optimizer_of(again, NUMBERS)
    tensors.load(tmp_path / "saved", again, other)
    set_learning_rate(other, 1e-2)
    for step in range(2, 4):
        set_gradients(again, step)
        other.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))


def test_sharded_matrices_and_a_torch_without_muon_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(OWN)
    assert type(optimizer_of(model, NUMBERS | {"name": "adamw"})) is AdamW
    with monkeypatch.context() as patch:
        patch.setattr(muon, "rows_of", lambda parameter: (0, len(parameter) // 2, 0))
        with pytest.raises(PlanError, match="needs whole matrices on each process") as refused:
            optimizer_of(model, NUMBERS)
        assert "`sharding: none`" in refused.value.hint
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(PlanError, match="has no Muon"):
        optimizer_of(model, NUMBERS)
