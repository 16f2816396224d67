"""The `config.json` that we write: of one of our models, and of an import whose dtype changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def config_of(model: Mapping[str, Any], *, dtype: str, eos: int | None, bos: int | None) -> dict[str, Any]:
    """`config.json` of one of our models, in the keys of transformers 5 and of those that read version 4's."""
    scaling = model.get("rope_scaling")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": model["hidden_size"],
        "num_hidden_layers": model["num_hidden_layers"],
        "num_attention_heads": model["num_attention_heads"],
        "num_key_value_heads": model["num_key_value_heads"],
        "head_dim": model.get("head_dim") or model["hidden_size"] // model["num_attention_heads"],
        "intermediate_size": model["intermediate_size"],
        "vocab_size": model["vocab_size"],
        "max_position_embeddings": model["max_position_embeddings"],
        "hidden_act": "silu",
        "rms_norm_eps": model["rms_norm_eps"],
        "rope_parameters": {"rope_theta": model["rope_theta"], **(scaling or {"rope_type": "default"})},
        "rope_theta": model["rope_theta"],
        "rope_scaling": scaling,
        "tie_word_embeddings": model["tie_word_embeddings"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "initializer_range": 0.02,
        "use_cache": True,
        "pad_token_id": None,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "dtype": dtype,
        "torch_dtype": dtype,
    }


def with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """An imported `config.json` that says another dtype."""
    keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["dtype"]
    return {**config, **dict.fromkeys(keys, dtype)}
