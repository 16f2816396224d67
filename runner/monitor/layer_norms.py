"""The norm of each layer's gradient: of each block, the embedding, the last norm and the output weight."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import nn

from runner.model.transfer import to_device, to_host
from runner.parallel.ranks import local_part
from runner.parallel.sharded import is_sharded


@torch.no_grad()
def layer_norms(model: nn.Module) -> Callable[[], dict[str, float]]:
    """Begin to measure them, before clipping, on every rank; what is returned waits, and gives each layer's by name."""
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    layers = {name: ".".join(name.split(".")[: 2 if name.startswith("blocks.") else 1]) for name in gradients}
    numbers = {layer: number for number, layer in enumerate(dict.fromkeys(layers.values()))}
    norms = torch.stack(torch._foreach_norm([local_part(gradient) for gradient in gradients.values()])).double()
    index = to_device(torch.tensor([numbers[layer] for layer in layers.values()]), norms.device)
    squares = torch.zeros(len(numbers), dtype=torch.float64, device=norms.device).index_add(0, index, norms.square())
    first = next(iter(gradients.values()))
    if is_sharded(first):
        dist.all_reduce(squares, group=first.device_mesh.get_group(first.device_mesh.ndim - 1))
    norms_on_host = to_host(squares.sqrt())
    return lambda: dict(zip(numbers, norms_on_host().tolist(), strict=True))
