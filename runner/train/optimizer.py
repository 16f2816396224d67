"""AdamW with the plan's numbers, and gradient clipping by the global norm of sharded gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from runner.parallel.ranks import local_part


def adamw(model: nn.Module, numbers: Mapping[str, Any]) -> torch.optim.AdamW:
    """AdamW with the plan's numbers; `decay: all` is every parameter (as TinyLlama), `matrices` leaves out norms.

    Moments are allocated here, not at the first step, so that checkpoints of a new and of a used optimizer have
    the same tensors.
    """
    parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decayed = [p for _, p in parameters if numbers["decay"] == "all" or p.dim() > 1]
    constant = [p for _, p in parameters if not (numbers["decay"] == "all" or p.dim() > 1)]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": numbers["weight_decay"]}]
    if constant:
        groups.append({"params": constant, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=tuple(numbers["betas"]), eps=numbers["eps"], fused=True)
    for _, parameter in parameters:
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use `rate` for the next step; it is the plan's, so no scheduler state exists."""
    for group in optimizer.param_groups:
        group["lr"] = rate


@torch.no_grad()
def total_norm(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """The norm of all gradients, a scalar on their device, the same bits on every rank.

    The norms of the shards are gathered, and every rank adds them up in the order of the shards. A sum by the network
    may round differently in each node, and replicas that clip by norms of other bits are no replicas any more.
    """
    own = torch.nn.utils.get_total_norm([local_part(gradient) for gradient in gradients])
    if not isinstance(gradients[0], DTensor):
        return own
    mesh = gradients[0].device_mesh
    shards = mesh.size(mesh.ndim - 1)
    norms = [torch.empty_like(own) for _ in range(shards)]
    dist.all_gather(norms, own, group=mesh.get_group(mesh.ndim - 1))
    total: torch.Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total


@torch.no_grad()
def clip_gradients(model: nn.Module, most: float, norm: float | None = None) -> float:
    """Scale all gradients so that their global norm is at most `most`; returns the norm before.

    `norm` is that norm where the caller has computed it. A norm that is not finite leaves the gradients unchanged,
    since no step follows.
    """
    if norm is None:
        total = total_norm([p.grad for p in model.parameters() if p.grad is not None])
        norm = float(total)
    else:
        total = torch.tensor(norm, device=next(model.parameters()).device)
    if math.isfinite(norm) and norm > most:
        torch.nn.utils.clip_grads_with_norm_(list(model.parameters()), most, total)
    return norm
