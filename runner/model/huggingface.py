"""The mapping between our parameter names and Hugging Face's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from runner.model.llama import ModelConfig


@dataclass(frozen=True, slots=True)
class Part:
    """A Hugging Face parameter and the rows of ours that it is."""

    name: str
    rows: int


def layout(config: ModelConfig) -> dict[str, tuple[Part, ...]]:
    """Our parameter names, each with the Hugging Face parameters stacked in it, from the first row on."""
    heads, groups = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    hidden, wide = config.hidden_size, config.intermediate_size
    names: dict[str, tuple[Part, ...]] = {
        "embedding.weight": (Part("model.embed_tokens.weight", config.vocab_size),)
    }
    for layer in range(config.num_hidden_layers):
        ours, theirs = f"blocks.{layer}.", f"model.layers.{layer}."
        names |= {
            f"{ours}attention_norm.weight": (Part(f"{theirs}input_layernorm.weight", hidden),),
            f"{ours}attention.qkv.weight": (
                Part(f"{theirs}self_attn.q_proj.weight", heads),
                Part(f"{theirs}self_attn.k_proj.weight", groups),
                Part(f"{theirs}self_attn.v_proj.weight", groups),
            ),
            f"{ours}attention.out.weight": (Part(f"{theirs}self_attn.o_proj.weight", hidden),),
            f"{ours}feed_forward_norm.weight": (Part(f"{theirs}post_attention_layernorm.weight", hidden),),
            f"{ours}feed_forward.gate_up.weight": (
                Part(f"{theirs}mlp.gate_proj.weight", wide),
                Part(f"{theirs}mlp.up_proj.weight", wide),
            ),
            f"{ours}feed_forward.down.weight": (Part(f"{theirs}mlp.down_proj.weight", hidden),),
        }
    names["norm.weight"] = (Part("model.norm.weight", hidden),)
    if not config.tie_word_embeddings:
        names["head.weight"] = (Part("lm_head.weight", config.vocab_size),)
    return names


def to_hugging_face(config: ModelConfig, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Whole tensors under our names to the same numbers under Hugging Face's."""
    theirs = {}
    for ours, parts in layout(config).items():
        for part, tensor in zip(parts, torch.split(state[ours], [part.rows for part in parts]), strict=True):
            theirs[part.name] = tensor.contiguous()
    return theirs


def from_hugging_face(config: ModelConfig, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse of `to_hugging_face`."""
    return {ours: torch.cat([state[part.name] for part in parts]) for ours, parts in layout(config).items()}
