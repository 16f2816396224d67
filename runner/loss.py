"""Next-token cross-entropy from hidden states, chunked over tokens so that the logits are never whole.

The loss is a sum; the caller divides by the global number of tokens, so that neither micro-batches nor ranks
change its meaning.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

CHUNK_BYTES = {"cpu": 1 << 26, "cuda": 1 << 29}  # of fp32 logits at a time


def next_token_losses(
    hidden_BTD: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_BT: torch.Tensor,
    *,
    chunk_tokens: int | None = None,
) -> torch.Tensor:
    """Loss of every token in nats, fp32, shape `[B, T]`, differentiable.

    With more tokens than fit one chunk, each chunk's logits are computed again in the backward pass instead of kept.
    """
    tokens = targets_BT.numel()
    hidden = hidden_BTD.reshape(tokens, -1)
    targets = targets_BT.reshape(tokens)
    if chunk_tokens is None:
        chunk_tokens = max(1, CHUNK_BYTES.get(hidden.device.type, 1 << 26) // (4 * weight_VD.shape[0]))
    if tokens <= chunk_tokens:
        return _losses(hidden, weight_VD, targets).view(targets_BT.shape)
    parts = [
        checkpoint(
            _losses,
            hidden[at : at + chunk_tokens],
            weight_VD,
            targets[at : at + chunk_tokens],
            use_reentrant=False,
        )
        for at in range(0, tokens, chunk_tokens)
    ]
    return torch.cat(parts).view(targets_BT.shape)


def _losses(hidden: torch.Tensor, weight_VD: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(F.linear(hidden, weight_VD).float(), targets, reduction="none")
