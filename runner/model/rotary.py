"""Rotary positions: the tables of cosines and sines, and the ways to stretch them to a longer context.

`rope_scaling` has the keys of Hugging Face's configurations. A frequency is what an angle grows by per position.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from curriculum.plan.model import ModelConfig

Tables = tuple[torch.Tensor, torch.Tensor]


def rotary_tables(config: ModelConfig, length: int, device: torch.device) -> Tables:
    """Cosines and sines of every position and channel, fp32 `[length, head_dim]` each (Su et al. 2021)."""
    frequency, factor = frequencies(config)
    angles = torch.arange(length, dtype=torch.float64, device="cpu")[:, None] * frequency
    both = torch.cat((angles, angles), dim=-1)
    cos, sin = both.cos(), both.sin()
    if factor != 1.0:
        cos, sin = cos * factor, sin * factor
    return cos.float().to(device), sin.float().to(device)


def frequencies(config: ModelConfig) -> tuple[torch.Tensor, float]:
    """The frequency of each pair of channels, fp64 `[head_dim / 2]`, and the factor of cosines and sines."""
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float64, device="cpu") / config.head_dim
    frequency, scaling = config.rope_theta**-half, config.rope_scaling
    if scaling is None:
        return frequency, 1.0
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind not in _SCALED:
        raise ValueError(f"rotary positions are scaled by {', '.join(_SCALED)}, not {dict(scaling)}")
    return _SCALED[kind](frequency, scaling, config)


def _linear(frequency: torch.Tensor, scaling: Mapping[str, Any], config: ModelConfig) -> tuple[torch.Tensor, float]:
    """Position interpolation: every frequency is divided by `factor` (Chen et al. 2023)."""
    return frequency / scaling["factor"], 1.0


def _llama3(frequency: torch.Tensor, scaling: Mapping[str, Any], config: ModelConfig) -> tuple[torch.Tensor, float]:
    """Llama 3's scaling: slow frequencies are divided by `factor`, fast ones stay, with a linear transition between
    (as in Llama 3.1's published configuration)."""
    turns = scaling["original_max_position_embeddings"] * frequency / (2 * math.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    share = ((turns - low) / (high - low)).clamp(0, 1)
    scaled: torch.Tensor = frequency * (share + (1 - share) / scaling["factor"])
    return scaled, 1.0


def _yarn(frequency: torch.Tensor, scaling: Mapping[str, Any], config: ModelConfig) -> tuple[torch.Tensor, float]:
    """YaRN (Peng et al. 2023): channels of more than `beta_fast` turns over the original context stay, those of fewer
    than `beta_slow` are divided by `factor`, in a straight line by channel between; attention is sharpened by a factor
    on queries and keys, 0.1 ln(factor) + 1 where `attention_factor` states none."""
    factor, context = scaling["factor"], scaling["original_max_position_embeddings"]

    def channel(turns: float) -> float:
        """The channel, as a real number, that takes so many turns over the original context."""
        return config.head_dim * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(config.rope_theta))

    low, high = channel(scaling.get("beta_fast") or 32.0), channel(scaling.get("beta_slow") or 1.0)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.head_dim - 1)
    if low == high:
        high += 0.001  # as the authors' code does
    ramp = ((torch.arange(len(frequency), dtype=torch.float64) - low) / (high - low)).clamp(0, 1)
    attention = scaling.get("attention_factor")
    if attention is None:
        attention = 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
    return frequency * (1 - ramp) + frequency / factor * ramp, float(attention)


_SCALED: dict[str, Callable[..., tuple[torch.Tensor, float]]] = {"linear": _linear, "llama3": _llama3, "yarn": _yarn}
"""The ways to scale frequencies by their `rope_type`."""
