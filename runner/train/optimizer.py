"""AdamW with the plan's numbers, and gradient clipping by the global norm of sharded gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from runner.parallel.ranks import local_part


class AdamW(torch.optim.AdamW):
    """Torch's AdamW on the local parts of sharded tensors: through DTensor's dispatch a step takes six times as long.

    `found_inf`, a scalar on the device, is 1 where the next step is to change nothing: neither weights nor moments
    nor the count of steps. (Torch's own name, of gradient scaling.)
    """

    found_inf: torch.Tensor | None = None

    def _init_group(self, group: dict[str, Any], *lists: list[torch.Tensor]) -> bool:
        parameters, gradients, first, second, _, steps = lists
        for parameter in group["params"]:
            if parameter.grad is not None:
                state = self.state[parameter]
                parameters.append(local_part(parameter))
                gradients.append(local_part(parameter.grad))
                first.append(local_part(state["exp_avg"]))
                second.append(local_part(state["exp_avg_sq"]))
                steps.append(state["step"])
        return False  # whether any is complex


def adamw(model: nn.Module, numbers: Mapping[str, Any]) -> AdamW:
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
    optimizer = AdamW(groups, lr=0.0, betas=tuple(numbers["betas"]), eps=numbers["eps"], fused=True)
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
def total_norm(model: nn.Module) -> torch.Tensor:
    """The norm of all gradients, a scalar on their device, the same bits on every rank.

    The norms of the shards are gathered, and every rank adds them up in the order of the shards. A sum by the network
    may round differently in each node, and replicas that clip by norms of other bits are no replicas any more.
    """
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
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
def clip_gradients(model: nn.Module, most: float, norm: torch.Tensor) -> None:
    """Scale all gradients, whose global norm is `norm`, so that it is at most `most`; the CPU waits for no figure.

    A norm that is not finite leaves them as they are, since no step follows, and one that is small enough multiplies
    them by 1, which changes no bit.
    """
    exceeds = (norm.double() > most) & norm.isfinite()
    factor = (most / (norm.float() + 1e-6)).masked_fill(~exceeds, 1.0)
    torch._foreach_mul_([local_part(p.grad) for p in model.parameters() if p.grad is not None], factor)
