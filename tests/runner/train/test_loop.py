"""The loop's own arithmetic: the gradient of a global batch, whatever the ranks, the sharding and the micro-batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranks as steps
import small
import torch
from projects import BuiltOnce
from safetensors.torch import load_file

from curriculum.errors import PlanError
from curriculum.plan.model import ModelConfig
from runner.model.forward import losses
from runner.model.init import initialise
from runner.model.transformer import Transformer
from runner.parallel import build
from runner.parallel.ranks import Ranks, leave_ranks
from runner.train.state import State
from runner.train.step import count, forward_backward

pytestmark = pytest.mark.processes

GATHER, REDUCE = "_allgather_base_.default", "_reduce_scatter_base_.default"
FP32 = [name for name, setting in steps.SETTINGS.items() if not setting.bf16]


@pytest.fixture(scope="module")
def two(built_once: BuiltOnce) -> dict[str, tuple[dict[str, Any], dict[str, torch.Tensor]]]:
    """What two ranks report of every setting."""

    def build(folder: Path) -> None:
        folder.mkdir()
        small.launch(folder, "", script=Path(steps.__file__))

    folder = built_once("two-ranks-of-settings", build)
    numbers = json.loads((folder / "report.json").read_text())
    return {name: (numbers[name], load_file(folder / f"{name}.safetensors")) for name in steps.SETTINGS}


@pytest.fixture(scope="module")
def alone() -> dict[str, tuple[dict[str, Any], dict[str, torch.Tensor]]]:
    """The same settings in this process."""
    try:
        return {name: steps.run(setting, small.ALONE) for name, setting in steps.SETTINGS.items()}
    finally:
        leave_ranks(small.ALONE)


@pytest.mark.parametrize("name", FP32)
def test_two_ranks_sum_the_gradient_that_one_process_computes_of_every_parameter(
    two: dict[str, Any], alone: dict[str, Any], name: str
) -> None:
    mine, theirs = alone[name][1], two[name][1]
    gradients = [key for key in mine if key.startswith("gradient of ")]
    assert ("gradient of head.weight" in gradients) is not steps.SETTINGS[name].tied
    for key in gradients:
        assert mine[key].abs().max() > 1e-4, f"{key} is meant to be seen"
        torch.testing.assert_close(theirs[key], mine[key], rtol=0, atol=1e-7, msg=key)


@pytest.mark.parametrize("name", FP32)
def test_two_ranks_end_with_the_weights_and_moments_of_one_process(
    two: dict[str, Any], alone: dict[str, Any], name: str
) -> None:
    (numbers, mine), (their_numbers, theirs) = alone[name], two[name]
    assert min(numbers["norms"]) > 0.5, "every step is meant to clip"
    assert their_numbers["norms"] == pytest.approx(numbers["norms"], rel=1e-6)
    assert their_numbers["evaluations"] == pytest.approx(numbers["evaluations"], rel=1e-6)
    np.testing.assert_allclose(their_numbers["losses"], numbers["losses"], rtol=1e-6)
    assert their_numbers["layer norms"] == pytest.approx(numbers["layer norms"], rel=1e-6)
    assert mine.keys() == theirs.keys()
    for key, tensor in mine.items():
        torch.testing.assert_close(theirs[key], tensor, rtol=0, atol=2e-6, msg=key)


def test_two_ranks_in_bf16_hold_fp32_weights_and_keep_to_one_process_within_bf16(
    two: dict[str, Any], alone: dict[str, Any]
) -> None:
    (numbers, mine), (their_numbers, theirs) = alone["bf16"], two["bf16"]
    np.testing.assert_allclose(their_numbers["losses"], numbers["losses"], rtol=1e-3)
    assert numbers["losses"] != alone["full"][0]["losses"]
    assert {tensor.dtype for tensor in (*mine.values(), *theirs.values())} == {torch.float32}


def test_evaluating_between_steps_changes_no_bit_of_the_training(two: dict[str, Any]) -> None:
    (_, undisturbed), (numbers, tensors) = two["full"], two["evaluations between"]
    assert len(set(numbers["evaluations"])) == steps.STEPS, "each evaluation sees the weights of its own step"
    assert [key for key, tensor in undisturbed.items() if not torch.equal(tensor, tensors[key])] == []


def test_dropping_gathered_weights_after_use_gathers_them_more_often_and_changes_no_bit(two: dict[str, Any]) -> None:
    (usual, kept), (often, resharded) = two["full"], two["resharded"]
    assert [key for key, tensor in kept.items() if not torch.equal(tensor, resharded[key])] == []
    assert often["losses"] == usual["losses"]
    blocks, micro_batches = steps.MODEL["num_hidden_layers"], steps.BATCH // 2 // 2
    gathered = usual["exchanges"][GATHER]
    rest = 3  # the embedding, the output weight and the last norm
    assert gathered == blocks + rest, "once a step, by each unit"
    assert often["exchanges"] == usual["exchanges"] | {GATHER: 2 * micro_batches * blocks + micro_batches * rest}


def test_exchanging_every_micro_batch_gives_the_first_step_the_same_losses(two: dict[str, Any]) -> None:
    (usual, _), (often, _) = two["full"], two["exchanged"]
    assert often["losses"][0] == usual["losses"][0]
    assert often["exchanges"] == usual["exchanges"] | {REDUCE: 2 * usual["exchanges"][REDUCE]}


def test_the_losses_of_a_step_are_summed_by_source_and_the_gradient_is_of_their_mean() -> None:
    plan = steps.small_plan()
    model = Transformer(ModelConfig.from_json(plan.model))
    initialise(model, plan.seed)
    step = steps.batch(plan, 0, small.ALONE)
    slots = forward_backward(model, step, 2, plan)
    state = State()
    sums, windows = count(state, step, slots.numpy(), True, small.ALONE)
    gradient = model.norm.weight.grad.clone()

    model.zero_grad()
    each = losses(model, step.tokens).double()
    values = each.detach()
    for number in range(len(plan.names)):
        expected = float(values[torch.from_numpy(step.source == number)].sum())
        assert sums[number] == pytest.approx(expected, rel=1e-6)
        assert windows[number] == state.windows[plan.names[number]] == int((step.source == number).sum())
    each.mean().backward()
    torch.testing.assert_close(gradient, model.norm.weight.grad, rtol=1e-5, atol=1e-8)


def test_micro_batches_divide_a_ranks_share_and_one_that_does_not_is_refused() -> None:
    plan = steps.small_plan(batch=24)
    two = Ranks(0, 2, 2, torch.device("cpu"))
    assert build.micro_batch(plan, None, two) == 12
    assert build.micro_batch(plan, 4, two) == 4
    with pytest.raises(PlanError, match=r"`micro_batch: 5` does not divide 12"):
        build.micro_batch(plan, 5, two)


def test_a_step_too_long_for_one_pass_is_cut_into_equal_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(build.MICRO_BATCH_TOKENS, "cpu", 5 * steps.LENGTH)
    plan = steps.small_plan(batch=12)
    assert build.micro_batch(plan, None, small.ALONE) == 4
