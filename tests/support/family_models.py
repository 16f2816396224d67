"""Small random-weight models of every family that is read, as transformers makes them, for tests."""

from __future__ import annotations

from typing import Any

import torch
from llamas import LLAMA_3, VOCABULARY
from transformers import AutoConfig, AutoModelForCausalLM

YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 32}
LINEAR = {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}
GRANITE = {"embedding_multiplier": 3.0, "residual_multiplier": 0.4, "attention_multiplier": 0.5, "logits_scaling": 0.5}
NUMBERS = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": 0,
}
_HALF = ["sliding_attention", "full_attention"] * 2

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("llama", {}),
    "Llama 3": ("llama", {"rope_parameters": LLAMA_3, "tie_word_embeddings": True}),
    "Llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True, "rope_parameters": LINEAR}),
    "Mistral": ("mistral", {"sliding_window": None}),
    "Mistral, windows": ("mistral", {"sliding_window": 7}),
    "Granite": ("granite", {**GRANITE, "tie_word_embeddings": True, "rope_parameters": YARN}),
    "Granite, biases": ("granite", {**GRANITE, "attention_bias": True, "mlp_bias": True}),
    "Qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "Qwen2.5, YaRN": ("qwen2", {"rope_parameters": YARN}),
    "Qwen2, windows": ("qwen2", {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2}),
    "Qwen3": ("qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "Qwen3, untied, biases": ("qwen3", {"head_dim": 8, "attention_bias": True}),
    "SmolLM3": ("smollm3", {}),
    "SmolLM3, untied": ("smollm3", {"no_rope_layers": [1, 0, 0, 1], "tie_word_embeddings": False, "mlp_bias": True}),
    "SmolLM3, windows": ("smollm3", {"use_sliding_window": True, "sliding_window": 7, "no_rope_layer_interval": 2}),
    "OLMo 2": ("olmo2", {}),
    "OLMo 2, tied": ("olmo2", {"tie_word_embeddings": True, "attention_bias": True}),
    "OLMo 3": ("olmo3", {"sliding_window": 7}),
    "OLMo 3, YaRN": (
        "olmo3",
        {
            "sliding_window": 7,
            "layer_types": _HALF,
            "rope_parameters": {
                "full_attention": YARN,
                "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
            },
        },
    ),
}

ONE_OF_EACH = (
    "Llama with biases",
    "Mistral, windows",
    "Granite",
    "Qwen2",
    "Qwen3",
    "SmolLM3",
    "OLMo 2",
    "OLMo 3, YaRN",
)
"""A kind of every family."""


def model(kind: str, *, dtype: torch.dtype = torch.float32, seed: int = 0, **numbers: Any) -> Any:
    """A model of a kind whose norms are not all 1, whose biases are not 0 and whose attention is not flat."""
    torch.manual_seed(seed)
    family, switches = KINDS[kind]
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **(NUMBERS | switches | numbers)))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.add_(torch.randn(parameter.shape), alpha=0.2)
    return made.to(dtype).eval()
