"""A decoder-only transformer as plain single-device code; sharding is applied from outside, in `parallel/fsdp.py`.

Shapes: B sequences, T tokens, D hidden size, H heads, K key/value heads, d head size, F feed-forward size.
Weights with the same input are fused (queries, keys and values; gate and up), which saves a third of the matrix
products' overhead at small sizes. Hugging Face names and initial numbers are those of the separate tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from curriculum.plan.model import ModelConfig
from runner.model.attention import Attend, Documents, sdpa
from runner.model.rotary import Tables, rotary_tables


class RMSNorm(nn.Module):
    """Root mean square normalisation over the last dimension (Zhang and Sennrich 2019)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = F.rms_norm(x_BTD, x_BTD.shape[-1:], self.weight, self.eps)
        return out

    def of_parts(self, x_BTHd: torch.Tensor) -> torch.Tensor:
        """The norm of queries or keys: over each head where the weight is a head's, else over all heads together."""
        if len(self.weight) == x_BTHd.shape[-1]:
            return self(x_BTHd)  # type: ignore[no-any-return]
        return self(x_BTHd.flatten(2)).view(x_BTHd.shape)  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions; biases, QK-norm and window as the configuration says."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.groups = config.num_key_value_heads
        self.head_dim = config.head_dim
        wide, biases = (self.heads + 2 * self.groups) * self.head_dim, config.attention_bias
        self.qkv = nn.Linear(config.hidden_size, wide, bias=biases != "none")
        self.out = nn.Linear(self.heads * self.head_dim, config.hidden_size, bias=biases == "all")
        self.rotates = config.rotates(layer)
        self.window = config.window(layer)
        self.query_scale = config.query_scale
        self.normalised = config.qk_norm != "none"
        if self.normalised:
            q, k = (1, 1) if config.qk_norm == "head" else (self.heads, self.groups)
            self.q_norm = RMSNorm(q * self.head_dim, config.rms_norm_eps)
            self.k_norm = RMSNorm(k * self.head_dim, config.rms_norm_eps)

    def forward(
        self,
        x_BTD: torch.Tensor,
        cos_Td: torch.Tensor,
        sin_Td: torch.Tensor,
        attend: Attend,
        documents: Documents | None,
    ) -> torch.Tensor:
        """The attention of each position over those before it in its document, `[B, T, D]` to `[B, T, D]`."""
        B, T, _ = x_BTD.shape
        qkv = self.qkv(x_BTD).view(B, T, self.heads + 2 * self.groups, self.head_dim)
        if self.normalised:
            q, k, v = torch.split(qkv, [self.heads, self.groups, self.groups], dim=2)
            q, k = self.q_norm.of_parts(q), self.k_norm.of_parts(k)
            if self.rotates:
                q, k = rotate(q, cos_Td, sin_Td), rotate(k, cos_Td, sin_Td)
        else:
            qk, v = torch.split(qkv, [self.heads + self.groups, self.groups], dim=2)
            q, k = torch.split(rotate(qk, cos_Td, sin_Td) if self.rotates else qk, [self.heads, self.groups], dim=2)
        if self.query_scale != 1.0:
            q = q * self.query_scale
        seen = attend(q, k, v, documents, self.window)
        out: torch.Tensor = self.out(seen.reshape(B, T, self.heads * self.head_dim))
        return out


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020): down(silu(gate(x)) * up(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=config.mlp_bias)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        gate_BTF, up_BTF = self.gate_up(x_BTD).chunk(2, dim=-1)
        out: torch.Tensor = self.down(F.silu(gate_BTF) * up_BTF)
        return out


class Block(nn.Module):
    """One transformer layer, its norms before attention and feed-forward or after them."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.norms_after = config.norm == "after"
        self.multiplier = config.residual_multiplier
        self.attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attention = Attention(config, layer)
        self.feed_forward_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.feed_forward = FeedForward(config)

    def forward(
        self,
        x_BTD: torch.Tensor,
        cos_Td: torch.Tensor,
        sin_Td: torch.Tensor,
        attend: Attend,
        documents: Documents | None,
    ) -> torch.Tensor:
        """Attention, then the feed-forward layer, each added to its input: `[B, T, D]` to `[B, T, D]`."""
        if self.norms_after:
            x_BTD = x_BTD + self._multiplied(
                self.attention_norm(self.attention(x_BTD, cos_Td, sin_Td, attend, documents))
            )
            after: torch.Tensor = x_BTD + self._multiplied(self.feed_forward_norm(self.feed_forward(x_BTD)))
            return after
        x_BTD = x_BTD + self._multiplied(self.attention(self.attention_norm(x_BTD), cos_Td, sin_Td, attend, documents))
        out: torch.Tensor = x_BTD + self._multiplied(self.feed_forward(self.feed_forward_norm(x_BTD)))
        return out

    def _multiplied(self, x_BTD: torch.Tensor) -> torch.Tensor:
        return x_BTD if self.multiplier == 1.0 else x_BTD * self.multiplier


class Embedding(nn.Embedding):
    """Torch's, which on the device `meta` draws no numbers: to pretend to, torch would import its compiler."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class Head(nn.Linear):
    """The output weight, which a loss applies: its forward pass is that of the loss, as FSDP2 expects of a unit."""

    def forward(  # type: ignore[override]
        self, hidden_BTD: torch.Tensor, targets_BT: torch.Tensor, loss: Callable[..., Any], **options: Any
    ) -> Any:
        return loss(hidden_BTD, self.weight, targets_BT, **options)

    def logits(self, hidden_BTD: torch.Tensor) -> torch.Tensor:
        """The logits `[B, T, vocabulary]`, where the output weight is not sharded: no loss computes all of them."""
        return F.linear(hidden_BTD, self.weight)


def rotate(x_BTHd: torch.Tensor, cos_Td: torch.Tensor, sin_Td: torch.Tensor) -> torch.Tensor:
    """Rotate channel pairs (i, i + d/2), the layout of Hugging Face's weights."""
    first, second = x_BTHd.chunk(2, dim=-1)
    rotated = torch.cat((-second, first), dim=-1)
    return (x_BTHd * cos_Td[:, None, :] + rotated * sin_Td[:, None, :]).to(x_BTHd.dtype)


class Transformer(nn.Module):
    """Embedding, blocks, final norm and output weight, `head`, which is called with the loss that applies it."""

    def __init__(self, config: ModelConfig, attend: Attend = sdpa) -> None:
        super().__init__()
        self.config = config
        self.attend = attend
        self.compiled = self.reshards = self.exchanges_often = False  # as `parallel/fsdp.py` sets them
        self.embedding = Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.head = Head(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.head.weight = self.embedding.weight
        self._windows = [config.window(layer) for layer in range(config.num_hidden_layers)]
        self._tables: tuple[Tables, Tables] | None = None  # of layers with full attention, and of those with windows

    def forward(self, tokens_BT: torch.Tensor, documents: Documents | None = None) -> torch.Tensor:
        """Token ids `[B, T]` to the normalised hidden states `[B, T, D]` that the output weight reads, divided by
        `logits_scaling`.

        With `documents`, tokens attend to their own document only; positions count through the sequence, which
        changes nothing, since rotary attention depends on their differences. ValueError when T is too long.
        """
        length, most = tokens_BT.shape[1], self.config.max_position_embeddings
        if length > most:
            raise ValueError(f"a sequence of {length} tokens is longer than the model's {most} positions")
        if self._tables is None or self._tables[0][0].device != tokens_BT.device:
            full = rotary_tables(self.config, most, tokens_BT.device)
            inside = rotary_tables(replace(self.config, rope_scaling=None), most, tokens_BT.device)
            self._tables = full, inside if self.config.sliding_window else full
        of_all, of_windows = ([table[:length] for table in tables] for tables in self._tables)
        x_BTD = self.embedding(tokens_BT)
        if self.config.embedding_multiplier != 1.0:
            x_BTD = x_BTD * self.config.embedding_multiplier
        for block, window in zip(self.blocks, self._windows, strict=True):
            cos_Td, sin_Td = of_all if window is None else of_windows
            x_BTD = block(x_BTD, cos_Td, sin_Td, self.attend, documents)
        out: torch.Tensor = self.norm(x_BTD)
        return out if self.config.logits_scaling == 1.0 else out / self.config.logits_scaling
