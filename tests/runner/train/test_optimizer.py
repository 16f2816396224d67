"""AdamW as the plan states it, spelled out in fp64; clipping; gradients that are not finite."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import ranks as steps
import torch
from small import ALONE, CONFIG, NUMBERS, build, take, whole
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from curriculum.artifacts.jobs import Machine
from runner.parallel.build import build as build_model, draw_weights
from runner.parallel.ranks import leave_ranks
from runner.train.optimizer import adamw, clip_gradients, gradients_of, set_learning_rate, total_norm
from runner.train.step import forward_backward, update


def with_gradients(*values: float) -> nn.Module:
    model = nn.Module()
    for at, value in enumerate(values):
        parameter = nn.Parameter(torch.ones(2, 2) if at else torch.ones(3))
        parameter.grad = torch.full_like(parameter, value)
        model.register_parameter(f"p{at}", parameter)
    return model


def clipped(model: nn.Module, most: float) -> float:
    """Clip the model's gradients; their norm before."""
    norm = total_norm(gradients_of(model.parameters()))
    clip_gradients(gradients_of(model.parameters()), most, norm)
    return float(norm)


@pytest.mark.promise("Our Llama's logits, loss, gradients and one update equal those of transformers")
def test_three_steps_are_adamw_by_its_formula() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3, bias=False)
    optimizer = adamw(model, {**NUMBERS, "eps": 1e-6})
    weight = model.weight.detach().double().clone()
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for step, rate in enumerate((1e-2, 3e-2, 2e-2), start=1):
        gradient = torch.randn(3, 4)
        model.weight.grad = gradient.clone()
        set_learning_rate(optimizer, rate)
        optimizer.step()
        first = 0.9 * first + 0.1 * gradient.double()
        second = 0.95 * second + 0.05 * gradient.double() ** 2
        weight -= rate * 0.1 * weight
        weight -= rate * (first / (1 - 0.9**step)) / ((second / (1 - 0.95**step)).sqrt() + 1e-6)
        torch.testing.assert_close(model.weight.double(), weight, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("decay", "norm_shrinks"), [("all", True), ("matrices", False)])
def test_weight_decay_reaches_norms_only_when_all_is_decayed(decay: str, norm_shrinks: bool) -> None:
    model = build()
    before = whole(model)
    optimizer = adamw(model, {**NUMBERS, "decay": decay})
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    set_learning_rate(optimizer, 0.5)
    optimizer.step()
    for name, after in whole(model).items():
        factor = 0.95 if norm_shrinks or "norm" not in name else 1.0
        torch.testing.assert_close(after, before[name] * factor)


def test_a_learning_rate_of_zero_until_it_is_set() -> None:
    model = build()
    before = whole(model)
    optimizer = adamw(model, NUMBERS)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert all(torch.equal(after, before[name]) for name, after in whole(model).items())


def test_gradients_are_scaled_to_the_largest_norm_and_the_norm_before_is_reported() -> None:
    model = with_gradients(2.0, -1.0)  # norm: sqrt(3·4 + 4·1) = 4
    assert clipped(model, 1.0) == pytest.approx(4.0)
    flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert float(flat.norm()) == pytest.approx(1.0, rel=1e-5)
    assert flat[0] / flat[-1] == pytest.approx(-2.0)


def test_gradients_below_the_largest_norm_are_not_touched() -> None:
    model = with_gradients(2.0, -1.0)
    assert clipped(model, 4.5) == pytest.approx(4.0)
    assert [float(p.grad.flatten()[0]) for p in model.parameters() if p.grad is not None] == [2.0, -1.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_is_reported_and_left_alone(bad: float) -> None:
    model = with_gradients(bad, 2.0)
    assert not math.isfinite(clipped(model, 1.0))
    assert [float(p.grad.flatten()[0]) for p in model.parameters() if p.grad is not None][1] == 2.0


class Reads(TorchDispatchMode):
    """Collects the operations by which the CPU reads a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "is_nonzero", "equal") or name.startswith("nonzero"):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("canonical", [False, True])
def test_the_cpu_reads_no_figure_from_the_first_micro_batch_to_the_update(canonical: bool) -> None:
    plan = steps.small_plan()
    machine = Machine(precision="bf16", compile=False, exactness="canonical" if canonical else "native")
    try:
        model = build_model(plan, machine, ALONE)
        draw_weights(model, plan.seed)
        optimizer = adamw(model, plan.optimizer)
        read = steps.batch(plan, 0, ALONE)
        with Reads() as reads:
            losses = forward_backward(model, read, 2, plan, 4 if canonical else None)
            norm = update(model, optimizer, plan, 0, ALONE, canonical=canonical)
        assert reads.seen == []
        with reads:
            assert math.isfinite(float(norm))
        assert reads.seen, "a figure that is read would have been seen"
        assert len(losses) == plan.batch_sequences
        assert isinstance(next(iter(model.parameters())), DTensor), "of sharded parameters"
    finally:
        leave_ranks(ALONE)


def test_a_step_that_is_not_finite_changes_neither_weights_nor_moments_nor_the_count_of_steps() -> None:
    plan, model = steps.small_plan(), build()
    optimizer = adamw(model, plan.optimizer)
    take(model, optimizer, 0)

    def everything() -> list[torch.Tensor]:
        return [t.detach().clone() for p in model.parameters() for t in (p, *optimizer.state[p].values())]

    before = everything()
    for value, changes in ((math.nan, False), (1.0, True)):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, value)
        update(model, optimizer, plan, 1, ALONE)
        assert all(map(torch.equal, everything(), before)) is not changes


def test_a_fresh_optimizer_has_moments_and_has_counted_no_step() -> None:
    model = build()
    optimizer = adamw(model, NUMBERS)
    assert len(optimizer.state) == len(list(model.parameters()))
    for values in optimizer.state.values():
        assert float(values["step"]) == 0
        assert not values["exp_avg"].any()
        assert not values["exp_avg_sq"].any()
    take(model, optimizer, 0)
    assert {float(values["step"]) for values in optimizer.state.values()} == {1.0}


def test_moments_made_beforehand_change_no_bit_of_what_torch_does() -> None:
    results = []
    for ours in (True, False):
        model = build()
        if ours:
            optimizer: torch.optim.Optimizer = adamw(model, NUMBERS)
        else:
            optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, fused=True)
        for step in range(2):
            take(model, optimizer, step)
        results.append(whole(model))
    assert all(torch.equal(tensor, results[1][name]) for name, tensor in results[0].items())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("decay", ["all", "matrices"])
def test_an_embedding_that_does_not_decay_is_spared_whatever_else_decays(decay: str, tied: bool) -> None:
    model = build(replace(CONFIG, tie_word_embeddings=tied, qk_norm="head", attention_bias="qkv"))
    optimizer = adamw(model, {**NUMBERS, "decay": decay, "decay_embeddings": False})
    of = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    decays = {name: of[id(p)] > 0 for name, p in model.named_parameters()}
    assert not decays["embedding.weight"]
    assert decays.get("head.weight", True)
    for name in ("blocks.0.attention.qkv.bias", "blocks.0.attention.q_norm.weight", "norm.weight"):
        assert decays[name] == (decay == "all")
    assert decays["blocks.0.attention.qkv.weight"]
