"""The initialisations of the weights: TinyLlama's, Llama's and OLMo's."""

from __future__ import annotations

import math
from collections.abc import Callable
from hashlib import blake2b

import torch

from curriculum.plan.model import ModelConfig, Shape
from runner.model.transformer import Transformer


def _write_whole(parameter: torch.Tensor, value: torch.Tensor) -> None:
    parameter.copy_(value)


@torch.no_grad()
def initialise(
    model: Transformer, seed: int, write: Callable[[torch.Tensor, torch.Tensor], object] = _write_whole
) -> None:
    """Draw initial weights as the configuration's `init` says, one parameter at a time; norms are 1 and biases 0.

    Each parameter has a generator of its own, keyed by (seed, Hugging Face name), so that neither sharding nor fusing
    changes a number. The key is hashed to 32 bits, since torch's generator on the CPU uses only the low 32 of its seed.
    `write` puts a whole parameter's value, drawn on the CPU, where the parameter is.
    """
    config = model.config
    parameters = dict(model.named_parameters())
    draw = _DRAWN[config.init]
    for ours, tensors in config.fused_tensors().items():
        if ours.endswith(("norm.weight", ".bias")):
            parameters[ours].fill_(0.0 if ours.endswith(".bias") else 1.0)
            continue
        parts = []
        for name, shape in tensors.items():
            key = blake2b(f"{seed} {name}".encode(), digest_size=4).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(key, "little"))
            parts.append(draw(config, name, shape, generator))
        write(parameters[ours], torch.cat(parts) if len(parts) > 1 else parts[0])


def _tinyllama(config: ModelConfig, name: str, shape: Shape, generator: torch.Generator) -> torch.Tensor:
    """TinyLlama's (its `lit_gpt/model.py` since 2023-11-09): normal with std sqrt(2 / (5·D)); the attention's output
    and the feed-forward's down projection with std 1 / (sqrt(D)·layers)."""
    std = math.sqrt(2 / (5 * config.hidden_size))
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        std = 1 / (math.sqrt(config.hidden_size) * config.num_hidden_layers)
    return torch.randn(shape, generator=generator).mul_(std)


def _llama(config: ModelConfig, name: str, shape: Shape, generator: torch.Generator) -> torch.Tensor:
    """Llama 3's in torchtitan (`torchtitan/models/llama3`), Meta's own being unpublished: linear weights with std 0.02;
    the attention's output, the feed-forward's up and down projection with 0.02 / sqrt(2·(layer + 1)), layers from 0;
    the embedding with 1, and the output weight with 1 / sqrt(D), cut at three std; so is a tied one."""
    if name == "model.embed_tokens.weight" and not config.tie_word_embeddings:
        return torch.randn(shape, generator=generator)
    if name in ("lm_head.weight", "model.embed_tokens.weight"):
        return _cut(shape, 1 / math.sqrt(config.hidden_size), generator)
    std = 0.02
    if name.endswith(("o_proj.weight", "up_proj.weight", "down_proj.weight")):
        std /= math.sqrt(2 * (int(name.split(".")[2]) + 1))
    return torch.randn(shape, generator=generator).mul_(std)


def _olmo(config: ModelConfig, name: str, shape: Shape, generator: torch.Generator) -> torch.Tensor:
    """OLMo 2's (OLMo 2, section 3; OLMo-core's `InitMethod.normal`): std 0.02 for all, cut at three std."""
    return _cut(shape, 0.02, generator)


def _cut(shape: Shape, std: float, generator: torch.Generator) -> torch.Tensor:
    return torch.nn.init.trunc_normal_(torch.empty(shape), std=std, a=-3 * std, b=3 * std, generator=generator)


_DRAWN: dict[str, Callable[[ModelConfig, str, Shape, torch.Generator], torch.Tensor]] = {
    "tinyllama": _tinyllama,
    "llama": _llama,
    "olmo": _olmo,
}
