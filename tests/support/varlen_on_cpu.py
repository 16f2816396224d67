"""CPU kernels for torch's variable-length attention, which has CUDA kernels only, so that its path runs here."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.attention import varlen

calls = 0
"""How often the forward kernel ran."""


def _heads_first(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """`[tokens, heads, head_dim]` to `[heads, tokens, head_dim]`, key heads repeated for the query heads they serve."""
    groups = q.shape[1] // k.shape[1]
    return q.transpose(0, 1), *(x.transpose(0, 1).repeat_interleave(groups, dim=0) for x in (k, v))


def _weights(q: torch.Tensor, k: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
    """Causal attention weights `[heads, tokens, tokens]` inside each run of rows between two `bounds`."""
    at = torch.arange(q.shape[1])
    document = torch.bucketize(at, bounds.long()[1:], right=True)
    mask = (document[:, None] == document[None, :]) & (at[:, None] >= at[None, :])
    scores = q @ k.transpose(1, 2) * q.shape[2] ** -0.5
    return scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)


def _forward(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bounds: torch.Tensor, *_: Any) -> Any:
    global calls
    calls += 1
    q, k, v = _heads_first(query, key, value)
    out = (_weights(q, k, bounds) @ v).transpose(0, 1).contiguous()
    return out, torch.zeros(query.shape[1], len(query)), torch.zeros(2, dtype=torch.uint64)


def _backward(
    grad: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any
) -> tuple[torch.Tensor, ...]:
    q, k, v = _heads_first(query, key, value)
    out = grad.transpose(0, 1)
    weights = _weights(q, k, rest[2])
    towards = out @ v.transpose(1, 2)
    scores = weights * (towards - (towards * weights).sum(dim=-1, keepdim=True)) * q.shape[2] ** -0.5
    grads = scores @ k, scores.transpose(1, 2) @ q, weights.transpose(1, 2) @ out
    summed = (x.unflatten(0, (key.shape[1], -1)).sum(dim=1) for x in grads[1:])
    return tuple(x.transpose(0, 1).contiguous() for x in (grads[0], *summed))


varlen._varlen_attn.register_kernel("cpu")(_forward)
varlen._varlen_attn_backward.register_kernel("cpu")(_backward)
