"""The families of Hugging Face models that are read and written: by `model_type`, what a configuration means for us.

A family is a class of transformers (version 5). For each the table says what the class takes where a configuration
leaves a key out, and which values of its switches our model computes; the rest is refused by its key.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curriculum.artifacts.huggingface.files import CONFIG, refused_key
from curriculum.artifacts.huggingface.keys import REFUSED
from curriculum.artifacts.huggingface.rope import FULL, SLIDING, read_rope
from curriculum.errors import DataError
from curriculum.plan.model import layers

LARGEST_NUMBER = 2**31 - 1
_LLAMA = {"num_key_value_heads": None, "rms_norm_eps": 1e-6, "max_position_embeddings": 2048}
_QWEN = {"num_key_value_heads": 32, "rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "sliding_window": 4096}
_OLMO = {"num_key_value_heads": None, "rms_norm_eps": 1e-5, "max_position_embeddings": 2048}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A class of transformers, `title` for people. `defaults` are what it takes for absent keys, `switches` what is
    always so in it.

    `biases` and `mlp_biases` say whether its configuration has the keys `attention_bias` and `mlp_bias`, `windows`
    where it attends to sliding windows: `never`, in `every` layer where `sliding_window` is a number, or by `layer`.
    """

    title: str
    architecture: str
    defaults: Mapping[str, Any]
    switches: Mapping[str, Any] = field(default_factory=dict)
    theta: float = 10000.0
    biases: bool = False
    mlp_biases: bool = False
    windows: str = "never"


FAMILIES: Mapping[str, Family] = {
    "llama": Family(title="Llama", architecture="LlamaForCausalLM", defaults=_LLAMA, biases=True, mlp_biases=True),
    "mistral": Family(
        title="Mistral",
        architecture="MistralForCausalLM",
        defaults={**_LLAMA, "num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096},
        windows="every",
    ),
    "granite": Family(
        title="Granite", architecture="GraniteForCausalLM", defaults=_LLAMA, biases=True, mlp_biases=True
    ),
    "qwen2": Family(
        title="Qwen2",
        architecture="Qwen2ForCausalLM",
        defaults=_QWEN,
        switches={"attention_bias": "qkv"},
        windows="layer",
    ),
    "qwen3": Family(
        title="Qwen3",
        architecture="Qwen3ForCausalLM",
        defaults={**_QWEN, "head_dim": 128},
        switches={"qk_norm": "head"},
        biases=True,
        windows="layer",
    ),
    "smollm3": Family(
        title="SmolLM3",
        architecture="SmolLM3ForCausalLM",
        defaults={**_QWEN, "num_key_value_heads": 4, "tie_word_embeddings": True, "sliding_window": None},
        theta=2000000.0,
        biases=True,
        mlp_biases=True,
        windows="layer",
    ),
    "olmo2": Family(
        title="OLMo 2",
        architecture="Olmo2ForCausalLM",
        defaults=_OLMO,
        switches={"qk_norm": "all", "norm": "after"},
        biases=True,
    ),
    "olmo3": Family(
        title="OLMo 3",
        architecture="Olmo3ForCausalLM",
        defaults={**_OLMO, "sliding_window": 4096},
        switches={"qk_norm": "all", "norm": "after"},
        theta=500000.0,
        biases=True,
        windows="layer",
    ),
}
KNOWN = f"the families that are read: {', '.join(f'`{name}`' for name in FAMILIES)}"
NO_SWITCH = "our model has no switch for it; a directory without it can be read"


def model_of(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The model's numbers and switches, what `config.json` leaves out as transformers fills it in."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise refusal(folder, "model_type", kind, KNOWN)
    family = FAMILIES[kind]
    _check_switches(folder, config, family)
    stated = {**family.defaults, **config}
    number = _reader(folder, stated)
    heads = number("num_attention_heads")
    model = {
        **{key: number(key) for key in ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size")},
        "num_attention_heads": heads,
        "num_key_value_heads": number("num_key_value_heads", heads),
        "max_position_embeddings": number("max_position_embeddings"),
        "rms_norm_eps": number("rms_norm_eps", whole=False),
    }
    switches = {**family.switches, **_biases(config, family)}
    switches |= _windows(folder, stated, kind, family, model["num_hidden_layers"], number)
    if kind == "smollm3":
        switches |= _without_rotations(folder, config, model["num_hidden_layers"])
    rope = read_rope(
        folder, config, theta=family.theta, positions=model["max_position_embeddings"], nested=kind == "olmo3"
    )
    model |= {"rope_theta": rope.theta, "tie_word_embeddings": _flag(folder, stated, "tie_word_embeddings")}
    if rope.scaling is not None:
        _check_scaling_of_windows(folder, kind, switches)
        model["rope_scaling"] = dict(rope.scaling)
    head = stated.get("head_dim")
    if head is None and model["hidden_size"] % (2 * heads):
        raise refusal(folder, "num_attention_heads", heads)
    if head is not None and number("head_dim") % 2:
        raise refusal(folder, "head_dim", head)
    if head is not None and head * heads != model["hidden_size"]:
        model["head_dim"] = head
    if kind == "granite":
        switches |= _multipliers(number, model.get("head_dim", model["hidden_size"] // heads))
    if heads % model["num_key_value_heads"]:
        raise refusal(folder, "num_key_value_heads", model["num_key_value_heads"])
    return model | switches


def refusal(folder: Path, key: str, value: Any, hint: str = NO_SWITCH) -> DataError:
    return refused_key(folder, f"`{key}: {json.dumps(value)}` in its `{CONFIG}` is not supported", hint, key)


def _reader(folder: Path, config: Mapping[str, Any]) -> Callable[..., Any]:
    def number(key: str, default: Any = None, *, whole: bool = True) -> Any:
        value = default if config.get(key) is None else config[key]
        right = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not right or not 0 < value <= LARGEST_NUMBER:
            reason = f"`{key}` in its `{CONFIG}` is {json.dumps(value)}, not a number that can be meant"
            raise refused_key(folder, reason, "weights are read only by numbers that are stated", key)
        return value if whole else float(value)

    return number


def _flag(folder: Path, config: Mapping[str, Any], key: str) -> bool:
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise refusal(folder, key, value, "it is `true` or `false`")
    return bool(value)


def _check_switches(folder: Path, config: Mapping[str, Any], family: Family) -> None:
    """DataError for a value of a switch, of any family's class, that our model does not compute."""
    if config.get("architectures") not in (None, [family.architecture]):
        raise refusal(folder, "architectures", config["architectures"], f"`{family.architecture}` is read")
    allowed: dict[str, tuple[Any, ...]] = {
        "hidden_act": ("silu", None),
        "partial_rotary_factor": (1, None),
        "is_causal": (True, None),
        **dict.fromkeys(REFUSED, (None,)),
    }
    for key, values in allowed.items():
        if config.get(key) not in values:
            raise refusal(folder, key, config[key])
    for key in ("attention_bias", "mlp_bias", "use_sliding_window"):
        _flag(folder, config, key)


def _biases(config: Mapping[str, Any], family: Family) -> dict[str, Any]:
    biases: dict[str, Any] = {}
    if family.biases and config.get("attention_bias"):
        biases["attention_bias"] = "all"
    if family.mlp_biases and config.get("mlp_bias"):
        biases["mlp_bias"] = True
    return biases


def _multipliers(number: Callable[..., Any], head_dim: int) -> dict[str, float]:
    """Granite's scalars, those that change nothing left out."""
    neutral = {"embedding_multiplier": 1.0, "residual_multiplier": 1.0, "logits_scaling": 1.0}
    neutral["attention_multiplier"] = head_dim**-0.5
    stated = {key: number(key, 1.0, whole=False) for key in neutral}
    return {key: value for key, value in stated.items() if value != neutral[key]}


def _windows(
    folder: Path, config: Mapping[str, Any], kind: str, family: Family, number: int, read: Callable[..., Any]
) -> dict[str, Any]:
    """`sliding_window` and the layers of `full_attention`; empty where every layer attends to all tokens."""
    listed = config.get("layer_types")
    if isinstance(listed, list) and len(listed) != number:
        reason = f"`layer_types` in its `{CONFIG}` lists {len(listed)} layers, `num_hidden_layers` says {number}"
        raise refused_key(folder, reason, "one of the two is stale; the weights say which", "num_hidden_layers")
    if family.windows != "layer":
        everywhere = family.windows == "every" and config.get("sliding_window") is not None
        only = SLIDING if everywhere else FULL
        if config.get("layer_types") not in (None, [only] * number):
            raise refusal(
                folder, "layer_types", config["layer_types"], f"`{only}` is read for all layers of this family"
            )
        return {"sliding_window": read("sliding_window")} if everywhere else {}
    used = kind == "olmo3" or bool(config.get("use_sliding_window"))
    types = config.get("layer_types")
    if types is None:
        types = _layer_types(folder, config, kind, number, read)
    if not isinstance(types, list) or {*map(str, types)} - {FULL, SLIDING}:
        raise refusal(folder, "layer_types", types, f"one of `{FULL}` and `{SLIDING}` for each layer is read")
    if SLIDING not in types:
        return {}
    if not used:
        raise refusal(folder, "layer_types", types, "it names sliding windows, and `use_sliding_window` is not true")
    return {"sliding_window": read("sliding_window")} | _stated(
        "full_attention", [layer for layer, of in enumerate(types) if of == FULL], number
    )


def _layer_types(
    folder: Path, config: Mapping[str, Any], kind: str, number: int, read: Callable[..., Any]
) -> list[str]:
    """The kind of attention of each layer where the configuration does not list them, as the family's class does."""
    if kind == "olmo3":
        return [FULL if (layer + 1) % 4 == 0 else SLIDING for layer in range(number)]
    if not config.get("use_sliding_window") or config.get("sliding_window") is None:
        return [FULL] * number
    if kind == "smollm3":
        without = layers(_without_rotations(folder, config, number).get("no_rope", 0), number)
        return [SLIDING if layer in without else FULL for layer in range(number)]
    first = 28 if config.get("max_window_layers") is None else config["max_window_layers"]
    if not isinstance(first, int) or isinstance(first, bool):
        raise refusal(folder, "max_window_layers", first, "a number of layers is read")
    return [SLIDING if layer >= first else FULL for layer in range(number)]


def _without_rotations(folder: Path, config: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The layers of SmolLM3 whose queries and keys are not rotated: those with a 0 in `no_rope_layers`."""
    rotated = config.get("no_rope_layers")
    if rotated is None:
        every = config.get("no_rope_layer_interval", 4)
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise refusal(folder, "no_rope_layer_interval", every, "a number of layers is read")
        return _stated("no_rope", list(layers(every, number)), number)
    if not isinstance(rotated, list) or len(rotated) < number or any(type(r) is not int for r in rotated):
        raise refusal(folder, "no_rope_layers", rotated, "a 0 or 1 for each layer is read")
    return _stated("no_rope", [layer for layer in range(number) if not rotated[layer]], number)


def _stated(key: str, numbers: list[int], number: int) -> dict[str, Any]:
    """Some layers as a model states them: as every n-th where that is so."""
    if not numbers:
        return {}
    every = numbers[0] + 1
    return {key: every if list(layers(every, number)) == numbers else numbers}


def _check_scaling_of_windows(folder: Path, kind: str, switches: Mapping[str, Any]) -> None:
    """DataError where a class scales the positions of layers with sliding windows, which OLMo 3 alone does not."""
    if switches.get("sliding_window") and kind != "olmo3":
        raise refusal(
            folder,
            "sliding_window",
            switches["sliding_window"],
            "our model scales rotary positions of layers with full attention alone, as OLMo 3; this family of all",
        )
