"""AdamW with the plan's numbers, and gradient clipping by the global norm of sharded gradients."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from runner.parallel.ranks import local_part
from runner.parallel.sharded import is_sharded

LANES = 16
"""The most fp32 numbers that a CPU computes at once."""

MOMENTS = ("exp_avg", "exp_avg_sq")

NARROW = (".bias", "q_norm.weight", "k_norm.weight")
"""The ends of the names of `AdamW.narrow`; the norms of Llama's layers stay as they always were updated."""


class AdamW(torch.optim.AdamW):
    """Torch's AdamW on the local parts of sharded tensors: through DTensor's dispatch a step takes six times as long.

    `found_inf`, a scalar on the device, is 1 where the next step is to change nothing: neither weights nor moments
    nor the count of steps. (Torch's own name, of gradient scaling.) `parameters` are in the model's order.
    """

    found_inf: torch.Tensor | None = None
    parameters: Sequence[nn.Parameter] = ()
    narrow: frozenset[nn.Parameter] = frozenset()
    """Vectors so short that a rank's part of them may not fill the lanes of a CPU. Torch's kernel rounds the elements
    beyond the last full lanes differently, by which their bits would depend on the sharding: padded copies are updated.
    """

    # What torch wraps imports its compiler, a second of a process's start, to say that none of it is to be compiled.
    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    _unwrapped_step = inspect.unwrap(torch.optim.AdamW.step)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._padded: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._known: dict[torch.Tensor, tuple[dict[str, torch.Tensor], list[torch.Tensor]]] = {}

    def _init_group(self, group: dict[str, Any], *lists: list[torch.Tensor]) -> bool:
        parameters, gradients, first, second, _, steps = lists
        for parameter in group["params"]:
            if parameter.grad is not None:
                (weights, *moments), steps_taken = self._local(parameter)
                parts = [weights, local_part(parameter.grad), *moments]
                if parameter in self.narrow and parts[0].device.type == "cpu" and len(parts[0]) % LANES:
                    padded = [nn.functional.pad(part, (0, -len(part) % LANES)) for part in parts]
                    self._padded += zip(parts, padded, strict=True)
                    parts = padded
                for tensors, part in zip((parameters, gradients, first, second), parts, strict=True):
                    tensors.append(part)
                steps.append(steps_taken)
        return False  # whether any is complex

    def _local(self, parameter: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The local parts of a parameter and its moments, found once for each state, and the count of steps."""
        state = self.state[parameter]
        cached = self._known.get(parameter)
        if cached is None or cached[0] is not state:
            cached = state, [local_part(parameter), *(local_part(state[name]) for name in MOMENTS)]
            self._known[parameter] = cached
        return cached[1], state["step"]

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = self._unwrapped_step(closure)
        for part, padded in self._padded:
            part.copy_(padded[: len(part)])
        self._padded.clear()
        return loss


def adamw(model: nn.Module, numbers: Mapping[str, Any]) -> AdamW:
    """AdamW with the plan's numbers; `decay: all` is every parameter (as TinyLlama), `matrices` leaves out norms and
    biases, and `decay_embeddings: false` the embedding, whichever decay.

    Moments are allocated here, not at the first step, so that checkpoints of a new and of a used optimizer have
    the same tensors.
    """
    parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    spared = () if numbers.get("decay_embeddings", True) else ("embedding.weight",)
    decays = {name: name not in spared and (numbers["decay"] == "all" or p.dim() > 1) for name, p in parameters}
    decayed = [p for name, p in parameters if decays[name]]
    constant = [p for name, p in parameters if not decays[name]]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": numbers["weight_decay"]}]
    if constant:
        groups.append({"params": constant, "weight_decay": 0.0})
    optimizer = AdamW(groups, lr=0.0, betas=tuple(numbers["betas"]), eps=numbers["eps"], fused=True)
    optimizer.parameters = [parameter for _, parameter in parameters]
    optimizer.narrow = frozenset(p for name, p in parameters if name.endswith(NARROW))
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


def gradients_of(parameters: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """The gradients that there are, in the order of the parameters, which is the model's."""
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


@torch.no_grad()
def total_norm(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """The norm of all gradients, a scalar on their device, the same bits on every rank.

    The norms of the shards are gathered, and every rank adds them up in the order of the shards. A sum by the network
    may round differently in each node, and replicas that clip by norms of other bits are no replicas any more.
    """
    own: torch.Tensor = torch.linalg.vector_norm(
        torch.stack(torch._foreach_norm([local_part(gradient) for gradient in gradients]))
    )
    first = gradients[0]
    if is_sharded(first):
        mesh = first.device_mesh
        shards = mesh.size(mesh.ndim - 1)
        norms = [torch.empty_like(own) for _ in range(shards)]
        dist.all_gather(norms, own, group=mesh.get_group(mesh.ndim - 1))
        total: torch.Tensor = torch.linalg.vector_norm(torch.stack(norms))
        return total
    return own


@torch.no_grad()
def clip_gradients(gradients: Sequence[torch.Tensor], most: float, norm: torch.Tensor) -> None:
    """Scale all gradients, whose global norm is `norm`, so that it is at most `most`; the CPU waits for no figure.

    A norm that is not finite leaves them as they are, since no step follows, and one that is small enough multiplies
    them by 1, which changes no bit.
    """
    exceeds = (norm.double() > most) & norm.isfinite()
    factor = (most / (norm.float() + 1e-6)).masked_fill(~exceeds, 1.0)
    torch._foreach_mul_([local_part(gradient) for gradient in gradients], factor)
