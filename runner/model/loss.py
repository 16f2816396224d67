"""Next-token cross-entropy straight from hidden states, in chunks, so that the logits never exist at once.

The loss is a sum; the caller divides by the global number of tokens, whatever the micro-batches and ranks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

# Bytes of logits at a time. On a CPU, logits that stay in its cache cost half of those that do not.
CHUNK_BYTES = {"cpu": 8 << 20, "cuda": 512 << 20}
COMPILED_ROWS = 128
"""Where the loss is compiled a chunk is a multiple of so many tokens, by which matrix products on a GPU are tiled."""

Rows = Callable[[torch.Tensor, torch.Tensor, float], tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]


def next_token_loss(
    hidden_BTD: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_BT: torch.Tensor,
    *,
    chunk_tokens: int | None = None,
    compiled: bool = False,
    z_loss: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """For training: the sum of all losses, in nats, differentiable, and each token's loss `[B, T]`, detached.

    Both are fp32. The forward pass computes the gradients too, chunk by chunk while the logits exist, so that no
    logits are stored or computed twice: three matrix products in all. With `compiled` everything between the products
    is one kernel, which reads bf16 logits and writes their gradients, so that no fp32 logits exist. `z_loss` times the
    square of each token's log-partition joins the sum, not the losses (Chowdhery et al. 2022, PaLM, section 5).
    """
    tokens = targets_BT.numel()
    chunk = chunk_tokens or _chunk_tokens(weight_VD)
    if compiled:
        chunk = max(COMPILED_ROWS, chunk // COMPILED_ROWS * COMPILED_ROWS)
    total, losses = _Loss.apply(  # type: ignore[no-untyped-call]
        hidden_BTD.reshape(tokens, -1),
        weight_VD,
        targets_BT.reshape(tokens),
        chunk,
        _compiled_rows() if compiled else _rows,
        z_loss,
    )
    return total, losses.view(targets_BT.shape)


def next_token_losses(hidden_BTD: torch.Tensor, weight_VD: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
    """For evaluation: each token's loss in nats, fp32, `[B, T]`; under autograd it keeps all logits."""
    tokens = targets_BT.numel()
    chunk = _chunk_tokens(weight_VD)
    hidden = torch.split(hidden_BTD.reshape(tokens, -1), chunk)
    targets = torch.split(targets_BT.reshape(tokens), chunk)
    losses = [
        F.cross_entropy(_wide(F.linear(h, weight_VD)), t, reduction="none")
        for h, t in zip(hidden, targets, strict=True)
    ]
    return torch.cat(losses).view(targets_BT.shape)


class _Loss(torch.autograd.Function):
    """Rows of `hidden` `[N, D]` against `targets` `[N]`: (sum, losses `[N]`)."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight_VD: torch.Tensor,
        targets: torch.Tensor,
        chunk: int,
        rows_of: Rows,
        z_loss: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        wide = _wide(hidden[:0]).dtype
        losses = torch.empty(len(targets), dtype=wide, device=hidden.device)
        squares = torch.zeros((), dtype=wide, device=hidden.device)
        hidden_gradient = torch.empty_like(hidden)
        weight_gradient = torch.zeros_like(weight_VD, dtype=wide)
        for at in range(0, len(targets), chunk):
            rows = slice(at, at + chunk)
            logits = hidden[rows] @ weight_VD.T
            losses[rows], gradient, more = rows_of(logits, targets[rows, None], z_loss)
            if more is not None:
                squares += more
            del logits
            torch.mm(gradient, weight_VD, out=hidden_gradient[rows])
            if hidden.dtype == wide:
                weight_gradient.addmm_(gradient.T, hidden[rows])
            else:
                weight_gradient += gradient.T @ hidden[rows]
            del gradient  # else it is in memory with the next chunk's logits
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        ctx.mark_non_differentiable(losses)
        return losses.sum() + z_loss * squares if z_loss else losses.sum(), losses

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None, None, None]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        scale = upstream[0]
        return hidden_gradient * scale, (weight_gradient * scale).to(hidden_gradient.dtype), None, None, None, None


def _rows(
    logits: torch.Tensor, target: torch.Tensor, z_loss: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Losses `[n]` of logits `[n, V]` by `target` `[n, 1]`, their gradient by the logits, and what `z_loss` weighs.

    The gradient is softmax - one-hot. With `z_loss` that of its part joins it, and the squares of the log-partitions
    are summed.
    """
    if not z_loss:
        log_p = torch.log_softmax(_wide(logits), dim=-1)
        losses = -log_p.gather(1, target)[:, 0]
        gradient = log_p.exp_().scatter_add_(1, target, torch.full_like(target, -1, dtype=log_p.dtype))
        return losses, gradient.to(logits.dtype), None
    wide = _wide(logits)
    partition = wide.logsumexp(-1, keepdim=True)
    losses = (partition - wide.gather(1, target))[:, 0]
    gradient = (wide - partition).exp_().mul_(1 + 2 * z_loss * partition)
    gradient.scatter_add_(1, target, torch.full_like(target, -1, dtype=gradient.dtype))
    return losses, gradient.to(logits.dtype), partition.square().sum()


def _rows_to_fuse(
    logits: torch.Tensor, target: torch.Tensor, z_loss: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """`_rows` in operations that the compiler fuses: a scatter would be a kernel of its own."""
    wide = _wide(logits)
    total = wide.logsumexp(-1, keepdim=True)
    one_hot = torch.arange(logits.shape[1], device=logits.device) == target
    p = (wide - total).exp()
    if z_loss:
        p = p * (1 + 2 * z_loss * total)
    squares = total.square().sum() if z_loss else None
    return (total - wide.gather(1, target))[:, 0], (p - one_hot.to(wide.dtype)).to(logits.dtype), squares


@functools.cache
def _compiled_rows() -> Rows:
    return torch.compile(_rows_to_fuse, fullgraph=True, dynamic=False)


def _wide(logits: torch.Tensor) -> torch.Tensor:
    """Logits in at least fp32: a sum of exponentials in bf16 is off by percents."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _chunk_tokens(weight_VD: torch.Tensor) -> int:
    return max(1, CHUNK_BYTES.get(weight_VD.device.type, CHUNK_BYTES["cpu"]) // (4 * weight_VD.shape[0]))
