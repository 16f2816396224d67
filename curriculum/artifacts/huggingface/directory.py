"""What a Hugging Face directory of a Llama model holds, checked before it is used. No tensors here.

A directory is refused, by name, for whatever would run code when it is opened and for whatever our model would
compute otherwise.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curriculum.artifacts.huggingface.files import (
    CARRIED,
    CONFIG,
    LICENCES,
    TOKENIZER,
    Tensor,
    inside,
    read_json,
    refused,
    stored_tensors,
)
from curriculum.errors import DataError
from curriculum.plan.model import ModelConfig

LARGEST_NUMBER = 2**31 - 1
LLAMA_3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
NOT_WEIGHTS = ".rotary_emb.inv_freq"
"""The end of the names of tables that older directories store and that every reader computes itself."""

_NO_CODE = "only plain Llama models are read, and no code of theirs is run"
_LLAMA_ONLY = "only the Llama architecture is read: `model_type: llama`, without biases, SiLU, whole heads"


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """A directory that was found sound. `model` holds its numbers under Hugging Face's key names."""

    folder: Path
    config: Mapping[str, Any]
    model: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    left_out: Mapping[str, Tensor]
    carried: tuple[str, ...]

    @property
    def weight_files(self) -> tuple[str, ...]:
        return tuple(sorted({tensor.file for tensor in self.tensors.values()}))

    @property
    def identity_files(self) -> tuple[str, ...]:
        """The files whose bytes decide what is imported."""
        return (CONFIG, *(name for name in self.carried if name == TOKENIZER), *self.weight_files)

    @property
    def parameters(self) -> int:
        return ModelConfig.from_json(self.model).parameters

    @property
    def weight_bytes(self) -> int:
        return sum((self.folder / file).stat().st_size for file in self.weight_files)

    @property
    def dtype(self) -> str:
        """The dtype of most parameters."""
        counted: Counter[str] = Counter()
        for tensor in self.tensors.values():
            counted[tensor.dtype] += math.prod(tensor.shape)
        return counted.most_common(1)[0][0]

    @property
    def dtypes(self) -> dict[str, str]:
        """The tensors of another dtype than most, by name."""
        return {name: t.dtype for name, t in sorted(self.tensors.items()) if t.dtype != self.dtype}


def read(folder: Path, *, with_tokenizer: bool = True) -> Directory:
    """Check the directory and say what it holds; DataError names the first thing that keeps it from being used."""
    if not folder.is_dir():
        raise DataError(
            f"`{folder}` is not a directory",
            hint="`hf:` is followed by a directory on this machine, from the project's folder or absolute",
        )
    code = sorted(path.name for path in folder.glob("*.py"))
    if code:
        raise refused(folder, f"it brings code of its own, `{code[0]}`", _NO_CODE)
    names = sorted(path.name for path in folder.iterdir())
    carried = tuple(name for name in names if name in CARRIED or name.startswith(LICENCES))
    for name in carried:
        if name.endswith(".json") and "auto_map" in read_json(folder, name):
            raise refused(folder, f"`auto_map` in its `{name}` asks for code of its own", _NO_CODE)
        inside(folder, name)
    config = read_json(folder, CONFIG)
    model = _numbers(folder, config)
    if with_tokenizer and TOKENIZER not in carried:
        raise refused(
            folder,
            f"it has no `{TOKENIZER}`",
            "transformers writes one: `AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)`",
        )
    found = stored_tensors(folder)
    shapes = ModelConfig.from_json(model).shapes()
    left_out = {}
    for name in sorted(found.keys() - shapes.keys()):
        tied_head = name == "lm_head.weight" and model["tie_word_embeddings"]
        if not (name.endswith(NOT_WEIGHTS) or tied_head):
            raise refused(folder, f"it has a tensor that Llama does not have, `{name}`", _LLAMA_ONLY)
        left_out[name] = found[name]
    for name, shape in shapes.items():
        if name not in found:
            raise refused(folder, f"the tensor `{name}` is missing", "is the download complete?")
        if found[name].shape != shape:
            raise refused(
                folder,
                f"`{name}` has shape {list(found[name].shape)}, its `{CONFIG}` says {list(shape)}",
                "weights and configuration are of different models",
            )
    return Directory(
        folder=folder,
        config=config,
        model=model,
        tensors={name: found[name] for name in shapes},
        left_out=left_out,
        carried=carried,
    )


def _numbers(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The model's numbers, those that `config.json` leaves out as transformers fills them in."""

    def refuse(key: str, value: Any) -> DataError:
        return refused(folder, f"`{key}: {json.dumps(value)}` in its `{CONFIG}` is not supported", _LLAMA_ONLY)

    if config.get("model_type") != "llama":
        raise refuse("model_type", config.get("model_type"))
    if config.get("architectures") not in (None, ["LlamaForCausalLM"]):
        raise refuse("architectures", config["architectures"])
    allowed: dict[str, tuple[Any, ...]] = {
        "attention_bias": (False, None),
        "mlp_bias": (False, None),
        "hidden_act": ("silu", None),
        "pretraining_tp": (1, None),
        "quantization_config": (None,),
        "partial_rotary_factor": (1, None),
    }
    for key, values in allowed.items():
        if config.get(key) not in values:
            raise refuse(key, config[key])

    def number(key: str, default: Any = None, *, whole: bool = True) -> Any:
        value = default if config.get(key) is None else config[key]
        right = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not right or not 0 < value <= LARGEST_NUMBER:
            reason = f"`{key}` in its `{CONFIG}` is {json.dumps(value)}, not a number that can be meant"
            raise refused(folder, reason, _LLAMA_ONLY)
        return value if whole else float(value)

    heads = number("num_attention_heads")
    scaling, theta = _rope(folder, config)
    model = {
        **{key: number(key) for key in ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size")},
        "num_attention_heads": heads,
        "num_key_value_heads": number("num_key_value_heads", heads),
        "max_position_embeddings": number("max_position_embeddings", 2048),
        "rms_norm_eps": number("rms_norm_eps", 1e-6, whole=False),
        "rope_theta": theta,
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
    }
    if scaling is not None:
        model["rope_scaling"] = scaling
    head = config.get("head_dim")
    if head is None and model["hidden_size"] % (2 * heads):
        raise refuse("num_attention_heads", heads)
    if head is not None and number("head_dim") % 2:
        raise refuse("head_dim", head)
    if head is not None and head * heads != model["hidden_size"]:
        model["head_dim"] = head
    if heads % model["num_key_value_heads"]:
        raise refuse("num_key_value_heads", model["num_key_value_heads"])
    return model


def _rope(folder: Path, config: Mapping[str, Any]) -> tuple[dict[str, Any] | None, float]:
    """How rotary positions are scaled (None: not at all) and their base; the keys of transformers 4 or 5."""
    key = "rope_parameters" if config.get("rope_parameters") is not None else "rope_scaling"
    rope = {} if config.get(key) is None else config[key]
    if not isinstance(rope, dict):
        raise refused(folder, f"`{key}` in its `{CONFIG}` is no mapping", _LLAMA_ONLY)
    theta = rope.get("rope_theta", config.get("rope_theta"))
    theta = 10000.0 if theta is None else theta
    kind = rope.get("rope_type", rope.get("type", "default"))
    known = {"rope_type", "type", "rope_theta", *LLAMA_3}
    strange = sorted(name for name in rope if name not in known and rope[name] is not None)
    if kind not in ("default", "llama3") or strange:
        what = f"{key}: {{{strange[0]}: …}}" if kind in ("default", "llama3") else f"{key}: {{rope_type: {kind}}}"
        raise refused(
            folder,
            f"`{what}` in its `{CONFIG}` is not supported",
            "of the ways to scale rotary positions `default` and `llama3` are computed",
        )
    numbers = {name: rope.get(name) for name in LLAMA_3} if kind == "llama3" else {}
    for name, value in {"rope_theta": theta, **numbers}.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise refused(folder, f"`{name}` in its `{CONFIG}` is {json.dumps(value)}", "a number above 0 is wanted")
    return ({"rope_type": "llama3", **numbers} if numbers else None), float(theta)
