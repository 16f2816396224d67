"""The chunked loss against torch's cross-entropy over whole logits in fp64."""

from __future__ import annotations

import math

import pytest
import torch
import torch._inductor.config
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch._inductor import metrics

from runner.model import loss
from runner.model.loss import next_token_loss, next_token_losses


def case(
    B: int = 3, T: int = 7, D: int = 5, V: int = 11, dtype: torch.dtype = torch.float64, scale: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    hidden = (torch.randn((B, T, D), generator=draw, dtype=torch.float64) * scale).to(dtype).requires_grad_()
    weight = torch.randn((V, D), generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(V, (B, T), generator=draw)


def whole(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = hidden.double() @ weight.double().T
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)


@settings(max_examples=40, deadline=None)
@given(
    chunk=st.integers(1, 30),
    B=st.integers(1, 4),
    T=st.integers(1, 7),
    V=st.integers(2, 12),
    factor=st.sampled_from([1.0, 0.25, -3.0]),
)
def test_loss_and_gradients_are_exact_for_every_size_of_chunk(
    chunk: int, B: int, T: int, V: int, factor: float
) -> None:
    hidden, weight, targets = case(B, T, V=V)
    expected = whole(hidden, weight, targets)
    gradients = torch.autograd.grad(expected.sum() * factor, (hidden, weight))
    total, each = next_token_loss(hidden, weight, targets, chunk_tokens=chunk)
    torch.testing.assert_close(each, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(total, expected.sum(), rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(torch.autograd.grad(total * factor, (hidden, weight)), gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 4, 30])
def test_z_loss_joins_the_sum_and_the_gradients_and_not_the_losses(chunk: int) -> None:
    hidden, weight, targets = case()
    each = whole(hidden, weight, targets)
    partition = (hidden @ weight.T).logsumexp(-1)
    expected = each.sum() + 0.3 * partition.square().sum()
    gradients = torch.autograd.grad(expected * -2.0, (hidden, weight))
    total, losses = next_token_loss(hidden, weight, targets, chunk_tokens=chunk, z_loss=0.3)
    torch.testing.assert_close(losses, each.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(torch.autograd.grad(total * -2.0, (hidden, weight)), gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-12)


def test_fp32_is_within_rounding_of_fp64() -> None:
    hidden, weight, targets = case(4, 64, 32, 300, torch.float32)
    expected = whole(hidden, weight, targets)
    gradients = torch.autograd.grad(expected.sum(), (hidden, weight))
    total, each = next_token_loss(hidden, weight, targets, chunk_tokens=50)
    assert total.dtype == each.dtype == torch.float32
    torch.testing.assert_close(each.double(), expected.detach(), rtol=2e-6, atol=2e-6)
    for mine, theirs in zip(torch.autograd.grad(total, (hidden, weight)), gradients, strict=True):
        torch.testing.assert_close(mine, theirs.float(), rtol=1e-4, atol=1e-5)


def test_bf16_logits_are_summed_in_fp32() -> None:
    hidden, weight, targets = case(8, 256, 16, 67, torch.bfloat16, scale=0.5)
    expected = whole(hidden, weight, targets)
    gradients = torch.autograd.grad(expected.sum(), (hidden, weight))
    total, each = next_token_loss(hidden, weight, targets, chunk_tokens=300)
    assert total.dtype == each.dtype == torch.float32
    assert total.item() == pytest.approx(expected.sum().item(), rel=5e-4)
    for mine, theirs in zip(torch.autograd.grad(total, (hidden, weight)), gradients, strict=True):
        assert mine.dtype == torch.bfloat16
        error = (mine.double() - theirs.double()).norm() / theirs.double().norm()
        assert error < 1e-2


def test_a_hopeless_guess_has_a_finite_loss_and_a_gradient() -> None:
    hidden = torch.tensor([[[300.0, 0.0]]], requires_grad=True)
    weight = torch.eye(2, requires_grad=True)
    total, _ = next_token_loss(hidden, weight, torch.tensor([[1]]))
    total.backward()
    assert total.item() == 300.0
    assert hidden.grad is not None
    assert hidden.grad.flatten().tolist() == [1.0, -1.0]


def test_nan_in_the_hidden_states_reaches_loss_and_gradient() -> None:
    hidden, weight, targets = case()
    with torch.no_grad():
        hidden[1, 2, 3] = math.nan
    total, _ = next_token_loss(hidden, weight, targets)
    total.backward()
    assert math.isnan(total)
    assert hidden.grad is not None
    assert hidden.grad.isnan().any()


def test_the_losses_of_tokens_carry_no_gradient() -> None:
    total, each = next_token_loss(*case())
    assert total.requires_grad
    assert not each.requires_grad


def test_evaluation_gives_every_tokens_loss_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, targets = case(5, 9, V=13)
    monkeypatch.setattr(loss, "CHUNK_BYTES", {"cpu": 4 * 13 * 10})  # ten tokens
    widths = []
    linear = F.linear

    def watched(rows: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        widths.append(len(rows))
        return linear(rows, matrix)

    monkeypatch.setattr(F, "linear", watched)
    with torch.no_grad():
        each = next_token_losses(hidden, weight, targets)
    torch.testing.assert_close(each, whole(hidden, weight, targets).detach(), rtol=1e-12, atol=1e-12)
    assert widths == [10, 10, 10, 10, 5]


def test_training_and_evaluation_agree_on_the_same_tokens() -> None:
    hidden, weight, targets = case(4, 32, 16, 67, torch.float32)
    _, each = next_token_loss(hidden, weight, targets)
    with torch.no_grad():
        torch.testing.assert_close(next_token_losses(hidden, weight, targets), each, rtol=1e-6, atol=1e-6)


# Kernels of scalars: a compiler reads torch's headers of vectors for seconds, and tries each instruction set first.
# No caches: what they keep of other runs may be kernels of vectors.
@torch._inductor.config.patch({"cpp.vec_isa_ok": False, "force_disable_caches": True})
@pytest.mark.slow
@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_the_compiled_loss_is_that_of_the_other_path_and_reads_its_logits_thrice_at_most(z_loss: float) -> None:
    hidden, weight, targets = case(2, 100, 32, 300, torch.bfloat16, scale=0.5)
    metrics.reset()
    found = []
    for compiled in (False, True):
        total, each = next_token_loss(hidden, weight, targets, chunk_tokens=130, compiled=compiled, z_loss=z_loss)
        found.append((total, each, *torch.autograd.grad(total, (hidden, weight))))
    for mine, theirs in zip(*found, strict=True):
        assert mine.dtype == theirs.dtype
        torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=1e-2)
    # chunks of 128 and 72 tokens; logits are read twice for the sum and once for the gradient, which is written
    assert metrics.num_bytes_accessed <= 200 * 300 * 2 * 4 * 1.1
