"""Weights that a `config.json` does not describe: the refusal, with the key that is at odds and the value that fits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curriculum.artifacts.huggingface.files import CONFIG, Tensor, refused, refused_key
from curriculum.errors import DataError
from curriculum.plan.model import ModelConfig, Shape

_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_DOWNLOAD = "is the download complete?"


def check(folder: Path, config: Mapping[str, Any], model: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """DataError for the first tensor that is missing, not made by the configuration, or of another shape.

    `tensors` are the stored tensors without those that are left out.
    """
    shapes = ModelConfig.from_json(model).shapes()
    stored = max((int(layer[1]) + 1 for name in tensors if (layer := _LAYER.match(name))), default=0)
    if stored and stored != model["num_hidden_layers"]:
        raise refused_key(
            folder,
            f"its weights have {stored} layers, its `{CONFIG}` says {model['num_hidden_layers']}",
            f"`num_hidden_layers: {stored}` describes these weights; "
            + (_DOWNLOAD if stored < model["num_hidden_layers"] else "or they are of another model"),
            "num_hidden_layers",
        )
    for name in sorted(tensors.keys() - shapes.keys()):
        key = _switch(name, config)
        hint = f"`{key}: true` describes it, if the family has it" if key else "or a switch of it is not known"
        raise _at(
            folder,
            f"it has a tensor that its configuration does not make, `{name}`",
            f"weights and `{CONFIG}` are of different models; {hint}",
            key,
        )
    for name, shape in shapes.items():
        if name not in tensors:
            key = _switch(name, config)
            hint = f"`{key}: {_without(key)}` describes weights without it; {_DOWNLOAD}" if key else _DOWNLOAD
            raise _at(folder, f"the tensor `{name}` is missing", hint, key)
        if tensors[name].shape != shape:
            raise _of_another_shape(folder, model, name, tensors[name].shape, shape)


def _at(folder: Path, reason: str, hint: str, key: str | None) -> DataError:
    return refused(folder, reason, hint) if key is None else refused_key(folder, reason, hint, key)


def _switch(name: str, config: Mapping[str, Any]) -> str | None:
    """The key by which a model has a tensor of this name or not; None where no key says so."""
    if name == "lm_head.weight":
        return "tie_word_embeddings"
    if not name.endswith(".bias"):
        return None
    key = "attention_bias" if ".self_attn." in name else "mlp_bias"
    return key if key in config else None


def _without(key: str) -> str:
    return "true" if key == "tie_word_embeddings" else "false"


def _of_another_shape(folder: Path, model: Mapping[str, Any], name: str, stored: Shape, made: Shape) -> DataError:
    reason = f"`{name}` has shape {list(stored)}, its `{CONFIG}` says {list(made)}"
    hint = "weights and configuration are of different models"
    if len(stored) != len(made):
        return refused(folder, reason, hint)
    dimension = next(at for at, (one, other) in enumerate(zip(stored, made, strict=True)) if one != other)
    key, unit = _number(name, dimension, model)
    if stored[dimension] % unit:
        return refused_key(folder, reason, hint, key)
    return refused_key(folder, reason, f"`{key}: {stored[dimension] // unit}` describes this tensor; or {hint}", key)


def _number(name: str, dimension: int, model: Mapping[str, Any]) -> tuple[str, int]:
    """The key that decides a dimension of a tensor, and how many rows each one of it makes."""
    config = ModelConfig.from_json(model)
    if name in ("model.embed_tokens.weight", "lm_head.weight") and dimension == 0:
        return "vocab_size", 1
    if ".mlp." in name and dimension == int(name.endswith("down_proj.weight")):
        return "intermediate_size", 1
    if (".k_proj." in name or ".v_proj." in name) and dimension == 0:
        return "num_key_value_heads", config.head_dim
    if (".q_proj." in name and dimension == 0) or (name.endswith("o_proj.weight") and dimension == 1):
        return "num_attention_heads", config.head_dim
    if name.endswith(("q_norm.weight", "k_norm.weight")):
        return ("head_dim", 1) if config.qk_norm == "head" else ("num_attention_heads", config.head_dim)
    return "hidden_size", 1
