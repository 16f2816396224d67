"""TinyLlama's initialisation of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from hashlib import blake2b

import torch

from runner.model.transformer import Transformer


def _write_whole(parameter: torch.Tensor, value: torch.Tensor) -> None:
    parameter.copy_(value)


@torch.no_grad()
def initialise(
    model: Transformer, seed: int, write: Callable[[torch.Tensor, torch.Tensor], object] = _write_whole
) -> None:
    """Draw TinyLlama's initial weights (its `lit_gpt/model.py` since 2023-11-09), one parameter at a time.

    Embedding, output and linear weights are normal with std sqrt(2 / (5·D)); the attention's output and the
    feed-forward's down projection with std 1 / (sqrt(D)·layers); norms are 1. Each parameter has a generator
    of its own, keyed by (seed, Hugging Face name), so that neither sharding nor fusing changes a number. The
    key is hashed to 32 bits, since torch's generator on the CPU uses only the low 32 of its seed. `write` puts a whole
    parameter's value, drawn on the CPU, where the parameter is.
    """
    config = model.config
    parameters = dict(model.named_parameters())
    wide = math.sqrt(2 / (5 * config.hidden_size))
    narrow = 1 / (math.sqrt(config.hidden_size) * config.num_hidden_layers)
    for ours, tensors in config.fused_tensors().items():
        if ours.endswith("norm.weight"):
            parameters[ours].fill_(1.0)
            continue
        parts = []
        for name, shape in tensors.items():
            key = blake2b(f"{seed} {name}".encode(), digest_size=4).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(key, "little"))
            std = narrow if name.endswith(("o_proj.weight", "down_proj.weight")) else wide
            parts.append(torch.randn(shape, generator=generator).mul_(std))
        write(parameters[ours], torch.cat(parts) if len(parts) > 1 else parts[0])
