"""The numbers of a Llama model and what follows from them: every tensor's shape, the parameters, FLOPs per token."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Shape = tuple[int, ...]

FLOPS_CONVENTION = "full: 6 x parameters of matrix products + 12 x layers x heads x head size x sequence length"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Numbers of a Llama model under their Hugging Face names; `head_dim` 0 is an even share of `hidden_size`."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    tie_word_embeddings: bool = False
    rope_scaling: Mapping[str, Any] | None = None
    head_dim: int = 0

    def __post_init__(self) -> None:
        if not self.head_dim:
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_attention_heads)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> ModelConfig:
        return ModelConfig(**value)

    def fused_tensors(self) -> dict[str, dict[str, Shape]]:
        """Our parameter names in their order, each with the Hugging Face tensors stacked in it along dimension 0."""
        hidden, wide, vocabulary = self.hidden_size, self.intermediate_size, self.vocab_size
        heads, groups = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        names: dict[str, dict[str, Shape]] = {"embedding.weight": {"model.embed_tokens.weight": (vocabulary, hidden)}}
        for layer in range(self.num_hidden_layers):
            ours, theirs = f"blocks.{layer}.", f"model.layers.{layer}."
            names |= {
                f"{ours}attention_norm.weight": {f"{theirs}input_layernorm.weight": (hidden,)},
                f"{ours}attention.qkv.weight": {
                    f"{theirs}self_attn.q_proj.weight": (heads, hidden),
                    f"{theirs}self_attn.k_proj.weight": (groups, hidden),
                    f"{theirs}self_attn.v_proj.weight": (groups, hidden),
                },
                f"{ours}attention.out.weight": {f"{theirs}self_attn.o_proj.weight": (hidden, heads)},
                f"{ours}feed_forward_norm.weight": {f"{theirs}post_attention_layernorm.weight": (hidden,)},
                f"{ours}feed_forward.gate_up.weight": {
                    f"{theirs}mlp.gate_proj.weight": (wide, hidden),
                    f"{theirs}mlp.up_proj.weight": (wide, hidden),
                },
                f"{ours}feed_forward.down.weight": {f"{theirs}mlp.down_proj.weight": (hidden, wide)},
            }
        names["norm.weight"] = {"model.norm.weight": (hidden,)}
        if not self.tie_word_embeddings:
            names["head.weight"] = {"lm_head.weight": (vocabulary, hidden)}
        return names

    def shapes(self) -> dict[str, Shape]:
        """Every tensor under its Hugging Face name, in their order, with its shape; a tied output weight is none."""
        return {name: shape for tensors in self.fused_tensors().values() for name, shape in tensors.items()}

    @property
    def parameters(self) -> int:
        return sum(map(math.prod, self.shapes().values()))

    def flops_per_token(self, sequence_length: int) -> int:
        """Floating-point operations that training on one token needs, forward and backward, without recomputation.

        `FLOPS_CONVENTION` is that of PaLM and torchtitan: attention is counted over the full square of positions,
        not only below the diagonal, and the lookup in the embedding counts nothing.
        """
        matrices = sum(math.prod(shape) for shape in self.shapes().values() if len(shape) == 2)
        if not self.tie_word_embeddings:  # a tied embedding is the output weight too
            matrices -= self.vocab_size * self.hidden_size
        attention = self.num_hidden_layers * self.num_attention_heads * self.head_dim * sequence_length
        return 6 * matrices + 12 * attention
