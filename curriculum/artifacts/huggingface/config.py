"""The `config.json` that we write: of one of our models, and of an import whose dtype or context changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curriculum.artifacts.huggingface.families import FAMILIES
from curriculum.artifacts.huggingface.rope import FULL, SLIDING
from curriculum.errors import ConfigError
from curriculum.plan.model import ModelConfig


def family_of(model: Mapping[str, Any]) -> str | None:
    """The plainest family whose class computes `model`; None where no class of transformers has all its switches."""
    config = ModelConfig.from_json(model)
    windows, scaled = bool(config.sliding_window), config.rope_scaling is not None
    some = bool(config.full_attention)
    if config.is_multiplied:
        plain = (config.norm, config.qk_norm, config.no_rope, windows) == ("before", "none", (), False)
        return "granite" if plain and config.attention_bias != "qkv" else None
    if config.norm == "after":
        if config.qk_norm != "all" or config.attention_bias == "qkv" or config.mlp_bias or config.no_rope:
            return None
        return "olmo3" if windows else "olmo2"
    if config.qk_norm == "all" or (windows and scaled):
        return None
    if config.qk_norm == "head":
        return None if config.attention_bias == "qkv" or config.mlp_bias or config.no_rope else "qwen3"
    if config.attention_bias == "qkv":
        return None if config.mlp_bias or config.no_rope else "qwen2"
    if config.no_rope or (windows and (some or config.attention_bias != "none" or config.mlp_bias)):
        return "smollm3"
    return "mistral" if windows else "llama"


def config_of(model: Mapping[str, Any], *, dtype: str, eos: int | None, bos: int | None) -> dict[str, Any]:
    """`config.json` of one of our models, in the keys of transformers 5 and of those that read version 4's.

    ConfigError where no class of transformers computes the model.
    """
    name = family_of(model)
    if name is None:
        switches = (
            *("norm", "qk_norm", "attention_bias", "mlp_bias", "no_rope", "sliding_window", "rope_scaling"),
            *("embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"),
        )
        stated = ", ".join(f"`{key}: {model[key]}`" for key in switches if key in model)
        raise ConfigError(
            f"no class of transformers computes this model: it combines {stated}",
            hint="it trains, and has no such form; the switches of each family are in docs/how-to/families.md",
        )
    config = ModelConfig.from_json(model)
    return {
        "architectures": [FAMILIES[name].architecture],
        "model_type": name,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
        **_rope(name, model["rope_theta"], model.get("rope_scaling")),
        "tie_word_embeddings": config.tie_word_embeddings,
        "attention_bias": config.attention_bias == "all",
        "attention_dropout": 0.0,
        "mlp_bias": config.mlp_bias,
        **_layers(name, config),
        "initializer_range": 0.02,
        "use_cache": True,
        "pad_token_id": None,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "dtype": dtype,
        "torch_dtype": dtype,
    }


def _rope(name: str, theta: float, scaling: Mapping[str, Any] | None) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_theta": theta, **(scaling or {"rope_type": "default"})}
    if name == "olmo3":
        rope = {FULL: rope, SLIDING: {"rope_theta": theta, "rope_type": "default"}}
    return {"rope_parameters": rope, "rope_theta": theta, "rope_scaling": scaling}


def _layers(name: str, config: ModelConfig) -> dict[str, Any]:
    """The keys of the families whose layers differ."""
    window, every = config.sliding_window or None, range(config.num_hidden_layers)
    if name == "mistral":
        return {"sliding_window": window}
    if name == "granite":
        scalars = ("embedding_multiplier", "residual_multiplier", "logits_scaling")
        attention = config.attention_multiplier or config.head_dim**-0.5
        return {key: getattr(config, key) for key in scalars} | {"attention_multiplier": attention}
    keys: dict[str, Any] = {}
    if name in ("qwen2", "qwen3", "smollm3"):
        keys = {"use_sliding_window": window is not None, "sliding_window": window}
    if name == "olmo3":
        keys = {"sliding_window": window}
    if keys and window is not None:
        keys["layer_types"] = [FULL if config.window(layer) is None else SLIDING for layer in every]
    if name == "smollm3":
        keys["no_rope_layers"] = [int(config.rotates(layer)) for layer in every]
    return keys


def with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """An imported `config.json` that says another dtype."""
    keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["dtype"]
    return {**config, **dict.fromkeys(keys, dtype)}


def with_context(config: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """An imported `config.json` with the positions of `model`: how many there are, their base and their scaling."""
    rope = _rope(str(config["model_type"]), model["rope_theta"], model.get("rope_scaling"))
    changed = {**config, "max_position_embeddings": model["max_position_embeddings"], **rope}
    changed.pop("original_max_position_embeddings", None)  # it would override that of the scaling
    return changed
