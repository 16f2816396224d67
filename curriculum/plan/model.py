"""The numbers of a decoder-only transformer, and what follows: shapes of its tensors, parameters, FLOPs per token."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Shape = tuple[int, ...]
Layers = int | Sequence[int]
"""Some layers: their numbers from 0, or `n` for every n-th, which are n - 1, 2 n - 1, …; 0 is none."""

FLOPS_CONVENTION = "full: 6 x parameters of matrix products + 12 x layers x heads x head size x sequence length"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The numbers under their Hugging Face names, and switches that default to Llama's (docs/how-to/families.md).

    `head_dim` 0 is an even share of `hidden_size`. `attention_bias` is `none`, `qkv` or `all` (also of the output
    projection). `qk_norm` normalises queries and keys, `head` each head by itself (Qwen3), `all` all heads together
    (OLMo 2). `norm` says whether a sublayer's norm comes `before` it or `after`. `no_rope` are layers without
    rotations, stated as `Layers`. With a `sliding_window` a token attends to so many tokens, itself included, but in
    the layers of `full_attention`; `rope_scaling` holds for those alone then (OLMo 3). Embeddings and what each
    sublayer adds are multiplied, and logits divided, by three scalars (Granite, MiniCPM); `attention_multiplier`,
    unless it is 0, replaces 1 / sqrt(head_dim). `init` is how first weights are drawn.
    """

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
    attention_bias: str = "none"
    mlp_bias: bool = False
    qk_norm: str = "none"
    norm: str = "before"
    no_rope: tuple[int, ...] = ()
    sliding_window: int = 0
    full_attention: tuple[int, ...] = ()
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    attention_multiplier: float = 0.0
    logits_scaling: float = 1.0
    init: str = field(default="tinyllama", compare=False)

    def __post_init__(self) -> None:
        if not self.head_dim:
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_attention_heads)
        for key in ("no_rope", "full_attention"):
            object.__setattr__(self, key, layers(getattr(self, key), self.num_hidden_layers))

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> ModelConfig:
        return ModelConfig(**value)

    @property
    def query_scale(self) -> float:
        """What queries are multiplied by before the attention, which divides by the root of the head's size."""
        return self.attention_multiplier * math.sqrt(self.head_dim) if self.attention_multiplier else 1.0

    @property
    def is_multiplied(self) -> bool:
        """Whether any of the scalars is one that changes something."""
        scalars = (self.embedding_multiplier, self.residual_multiplier, self.query_scale, self.logits_scaling)
        return scalars != (1.0, 1.0, 1.0, 1.0)

    def rotates(self, layer: int) -> bool:
        """Whether the queries and keys of `layer` are rotated by their positions."""
        return layer not in self.no_rope

    def window(self, layer: int) -> int | None:
        """How many tokens a token of `layer` attends to, itself included; None for all before it."""
        return self.sliding_window if self.sliding_window and layer not in self.full_attention else None

    def fused_tensors(self) -> dict[str, dict[str, Shape]]:
        """Our parameter names in their order, each with the Hugging Face tensors stacked in it along dimension 0."""
        hidden, vocabulary = self.hidden_size, self.vocab_size
        names: dict[str, dict[str, Shape]] = {"embedding.weight": {"model.embed_tokens.weight": (vocabulary, hidden)}}
        for layer in range(self.num_hidden_layers):
            for ours, theirs in self._block_tensors().items():
                names[f"blocks.{layer}.{ours}"] = {f"model.layers.{layer}.{n}": shape for n, shape in theirs.items()}
        names["norm.weight"] = {"model.norm.weight": (hidden,)}
        if not self.tie_word_embeddings:
            names["head.weight"] = {"lm_head.weight": (vocabulary, hidden)}
        return names

    def _block_tensors(self) -> dict[str, dict[str, Shape]]:
        """`fused_tensors` of one block, both names without the layer."""
        hidden, wide = self.hidden_size, self.intermediate_size
        heads, groups = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        before = self.norm == "before"
        attention_norm = "input_layernorm" if before else "post_attention_layernorm"
        feed_forward_norm = "post_attention_layernorm" if before else "post_feedforward_layernorm"
        qkv = {"self_attn.q_proj": heads, "self_attn.k_proj": groups, "self_attn.v_proj": groups}
        out, gate_up, down = "self_attn.o_proj", ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"
        names: dict[str, dict[str, Shape]] = {"attention_norm.weight": {f"{attention_norm}.weight": (hidden,)}}
        names["attention.qkv.weight"] = {f"{name}.weight": (rows, hidden) for name, rows in qkv.items()}
        if self.attention_bias != "none":
            names["attention.qkv.bias"] = {f"{name}.bias": (rows,) for name, rows in qkv.items()}
        names["attention.out.weight"] = {f"{out}.weight": (hidden, heads)}
        if self.attention_bias == "all":
            names["attention.out.bias"] = {f"{out}.bias": (hidden,)}
        if self.qk_norm != "none":
            by_head = self.qk_norm == "head"
            names["attention.q_norm.weight"] = {"self_attn.q_norm.weight": (self.head_dim if by_head else heads,)}
            names["attention.k_norm.weight"] = {"self_attn.k_norm.weight": (self.head_dim if by_head else groups,)}
        names["feed_forward_norm.weight"] = {f"{feed_forward_norm}.weight": (hidden,)}
        names["feed_forward.gate_up.weight"] = {f"{name}.weight": (wide, hidden) for name in gate_up}
        if self.mlp_bias:
            names["feed_forward.gate_up.bias"] = {f"{name}.bias": (wide,) for name in gate_up}
        names["feed_forward.down.weight"] = {f"{down}.weight": (hidden, wide)}
        if self.mlp_bias:
            names["feed_forward.down.bias"] = {f"{down}.bias": (hidden,)}
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
        not only below the diagonal, and the lookup in the embedding counts nothing. A layer with a sliding window
        counts its window.
        """
        matrices = sum(math.prod(shape) for shape in self.shapes().values() if len(shape) == 2)
        if not self.tie_word_embeddings:  # a tied embedding is the output weight too
            matrices -= self.vocab_size * self.hidden_size
        windows = (self.window(layer) or sequence_length for layer in range(self.num_hidden_layers))
        attended = sum(min(window, sequence_length) for window in windows)
        return 6 * matrices + 12 * self.num_attention_heads * self.head_dim * attended


def layers(stated: Layers, number: int) -> tuple[int, ...]:
    """The layers that are stated, of `number` of them."""
    if isinstance(stated, int):
        return tuple(range(stated - 1, number, stated)) if stated else ()
    return tuple(sorted(stated))
