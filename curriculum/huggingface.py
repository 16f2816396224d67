"""What a Hugging Face directory of a Llama model holds, checked before it is used, and the words of one of ours.

No tensors here: weights are known by their files' headers alone. A directory is refused, by name, for whatever
would run code when it is opened and for whatever our model would compute otherwise.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curriculum import durable
from curriculum.errors import DataError

PREFIX = "hf:"
CONFIG, TOKENIZER, README = "config.json", "tokenizer.json", "README.md"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
CARRIED = (
    *(CONFIG, "generation_config.json", TOKENIZER, "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "tokenizer.model", "chat_template.jinja"),
)
"""Files that go through to an export as they are; beside them those that begin as `LICENCES`."""
LICENCES = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY")
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
LLAMA_3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
NOT_WEIGHTS = ".rotary_emb.inv_freq"
"""The end of tables that older directories store and that everyone computes anew."""
LARGEST_JSON = 64 << 20
LARGEST_HEADER = 100 << 20  # safetensors' own limit


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor lies and what it is; `dtype` in torch's words."""

    file: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """A directory that was found sound. `model` holds its numbers under Hugging Face's key names."""

    folder: Path
    config: Mapping[str, Any]
    model: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    left_out: tuple[str, ...]
    carried: tuple[str, ...]

    @property
    def weight_files(self) -> tuple[str, ...]:
        return tuple(sorted({tensor.file for tensor in self.tensors.values()}))

    @property
    def identity_files(self) -> tuple[str, ...]:
        """The files whose bytes decide what is imported."""
        return (CONFIG, TOKENIZER, *self.weight_files)

    @property
    def parameters(self) -> int:
        return sum(math.prod(shape) for shape in shapes(self.model).values())

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


def shapes(model: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor of a Llama model under Hugging Face's names, in their order, with its shape."""
    hidden, wide = model["hidden_size"], model["intermediate_size"]
    groups = hidden // model["num_attention_heads"] * model["num_key_value_heads"]
    named: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (model["vocab_size"], hidden)}
    for layer in range(model["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        named |= {
            f"{at}input_layernorm.weight": (hidden,),
            f"{at}self_attn.q_proj.weight": (hidden, hidden),
            f"{at}self_attn.k_proj.weight": (groups, hidden),
            f"{at}self_attn.v_proj.weight": (groups, hidden),
            f"{at}self_attn.o_proj.weight": (hidden, hidden),
            f"{at}post_attention_layernorm.weight": (hidden,),
            f"{at}mlp.gate_proj.weight": (wide, hidden),
            f"{at}mlp.up_proj.weight": (wide, hidden),
            f"{at}mlp.down_proj.weight": (hidden, wide),
        }
    named["model.norm.weight"] = (hidden,)
    if not model["tie_word_embeddings"]:
        named["lm_head.weight"] = (model["vocab_size"], hidden)
    return named


# --- reading ---------------------------------------------------------------------------------------------


def read(folder: Path) -> Directory:
    """Check the directory and say what it holds; DataError names the first thing that keeps it from being used."""
    if not folder.is_dir():
        raise DataError(
            f"`{folder}` is not a directory",
            hint="`hf:` is followed by a directory on this machine, from the project's folder or absolute",
        )
    code = sorted(path.name for path in folder.glob("*.py"))
    if code:
        raise _refused(
            folder,
            f"it brings code of its own, `{code[0]}`",
            "only plain Llama models are read, and no code of theirs is run",
        )
    carried = tuple(
        name
        for name in sorted(path.name for path in folder.iterdir())
        if name in CARRIED or name.startswith(LICENCES)
    )
    for name in carried:
        if name.endswith(".json") and "auto_map" in _json(folder, name):
            raise _refused(
                folder,
                f"`auto_map` in its `{name}` asks for code of its own",
                "only plain Llama models are read, and no code of theirs is run",
            )
        _inside(folder, name)
    config = _json(folder, CONFIG)
    model = _numbers(folder, config)
    if TOKENIZER not in carried:
        raise _refused(
            folder,
            f"it has no `{TOKENIZER}`",
            "transformers writes one: `AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)`",
        )
    found = _tensors(folder)
    wanted = shapes(model)
    left_out = []
    for name in sorted(found.keys() - wanted.keys()):
        tied_head = name == "lm_head.weight" and model["tie_word_embeddings"]
        if not (name.endswith(NOT_WEIGHTS) or tied_head):
            raise _refused(folder, f"it has a tensor that Llama does not have, `{name}`", _LLAMA_ONLY)
        left_out.append(name)
    for name, shape in wanted.items():
        if name not in found:
            raise _refused(folder, f"the tensor `{name}` is missing", "is the download complete?")
        if found[name].shape != shape:
            raise _refused(
                folder,
                f"`{name}` has shape {list(found[name].shape)}, its `{CONFIG}` says {list(shape)}",
                "weights and configuration are of different models",
            )
    return Directory(
        folder=folder,
        config=config,
        model=model,
        tensors={name: found[name] for name in wanted},
        left_out=tuple(left_out),
        carried=carried,
    )


_LLAMA_ONLY = "only the Llama architecture is read: `model_type: llama`, without biases, SiLU, whole heads"


def _refused(folder: Path, reason: str, hint: str) -> DataError:
    return DataError(f"`{folder}` cannot be imported: {reason}", hint=hint)


def _numbers(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The model's numbers, those that `config.json` leaves out as transformers fills them in."""

    def refuse(key: str, value: Any) -> DataError:
        return _refused(folder, f"`{key}: {json.dumps(value)}` in its `{CONFIG}` is not supported", _LLAMA_ONLY)

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
        value = config.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or value <= 0:
            raise _refused(
                folder, f"`{key}` in its `{CONFIG}` is {json.dumps(value)}, not a number above 0", _LLAMA_ONLY
            )
        return value if whole else float(value)

    heads = number("num_attention_heads")
    scaling, theta = _rope(folder, config)
    model = {
        "hidden_size": number("hidden_size"),
        "num_hidden_layers": number("num_hidden_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": number("num_key_value_heads", heads),
        "intermediate_size": number("intermediate_size"),
        "vocab_size": number("vocab_size"),
        "max_position_embeddings": number("max_position_embeddings", 2048),
        "rms_norm_eps": number("rms_norm_eps", 1e-6, whole=False),
        "rope_theta": theta,
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
    }
    if scaling is not None:
        model["rope_scaling"] = scaling
    if model["hidden_size"] % (2 * heads):
        raise refuse("num_attention_heads", heads)
    if heads % model["num_key_value_heads"]:
        raise refuse("num_key_value_heads", model["num_key_value_heads"])
    if config.get("head_dim") not in (None, model["hidden_size"] // heads):
        raise refuse("head_dim", config["head_dim"])
    return model


def _rope(folder: Path, config: Mapping[str, Any]) -> tuple[dict[str, Any] | None, float]:
    """How rotary positions are scaled (None: not at all) and their base; the keys of transformers 4 or 5."""
    key = "rope_parameters" if config.get("rope_parameters") is not None else "rope_scaling"
    rope = config.get(key)
    rope = {} if rope is None else rope
    if not isinstance(rope, dict):
        raise _refused(folder, f"`{key}` in its `{CONFIG}` is no mapping", _LLAMA_ONLY)
    theta = rope.get("rope_theta", config.get("rope_theta"))
    theta = 10000.0 if theta is None else theta
    kind = rope.get("rope_type", rope.get("type", "default"))
    known = {"rope_type", "type", "rope_theta", *LLAMA_3}
    strange = sorted(name for name in rope if name not in known and rope[name] is not None)
    if kind not in ("default", "llama3") or strange:
        what = f"{key}: {{{strange[0]}: …}}" if kind in ("default", "llama3") else f"{key}: {{rope_type: {kind}}}"
        raise _refused(
            folder,
            f"`{what}` in its `{CONFIG}` is not supported",
            "of the ways to scale rotary positions `default` and `llama3` are computed",
        )
    numbers = {name: rope.get(name) for name in LLAMA_3} if kind == "llama3" else {}
    for name, value in {"rope_theta": theta, **numbers}.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise _refused(folder, f"`{name}` in its `{CONFIG}` is {json.dumps(value)}", "a number above 0 is wanted")
    return ({"rope_type": "llama3", **numbers} if numbers else None), float(theta)


def _tensors(folder: Path) -> dict[str, Tensor]:
    """Every stored tensor by name, from the headers of the files that transformers would read."""
    if (folder / WEIGHTS).exists():
        return _header(folder, WEIGHTS)
    if not (folder / INDEX).exists():
        pickled = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
        if pickled:
            raise _refused(
                folder,
                f"its weights are pickled (`{pickled[0]}`), which can run any code when opened",
                "only safetensors are read; transformers writes them: `model.save_pretrained(DIR)`",
            )
        raise _refused(folder, f"it has neither `{WEIGHTS}` nor `{INDEX}`", "is the download complete?")
    where = _json(folder, INDEX).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise _refused(folder, f"`{INDEX}` has no `weight_map`", "is the download complete?")
    found: dict[str, Tensor] = {}
    headers: dict[str, dict[str, Tensor]] = {}
    for name, file in where.items():
        if not isinstance(file, str) or file != os.path.basename(file) or not file.endswith(".safetensors"):
            raise _refused(folder, f"`{INDEX}` names `{file}`, which is no safetensors file there", "is it damaged?")
        if file not in headers:
            headers[file] = _header(folder, file)
        if name not in headers[file]:
            raise _refused(folder, f"`{file}` lacks `{name}`, which `{INDEX}` promises", "is the download complete?")
        found[name] = headers[file][name]
    return found


def _header(folder: Path, name: str) -> dict[str, Tensor]:
    path = _inside(folder, name)
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= min(LARGEST_HEADER, size - 8):
                raise ValueError("its header does not fit it")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        tensors = {}
        end = 0
        for key, entry in header.items():
            if entry["dtype"] not in DTYPES:
                raise _refused(
                    folder,
                    f"`{key}` is stored as {entry['dtype']}",
                    "only F32, F16 and BF16 weights are read; quantised ones would have to be unpacked first",
                )
            tensors[key] = Tensor(name, DTYPES[entry["dtype"]], tuple(int(n) for n in entry["shape"]))
            end = max(end, int(entry["data_offsets"][1]))
        if 8 + length + end != size:
            raise ValueError(f"it has {size:,} bytes where its header needs {8 + length + end:,}")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise _refused(folder, f"`{name}` is not a whole safetensors file: {error}", "is the download complete?") from None
    return tensors


def _json(folder: Path, name: str) -> dict[str, Any]:
    path = _inside(folder, name)
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ValueError("it is far too large")
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise _refused(folder, f"it has no `{name}`", "a model's directory as transformers saves it is wanted") from None
    except (OSError, ValueError, RecursionError) as error:
        raise _refused(folder, f"its `{name}` cannot be read: {error}", "is the download complete?") from None
    if not isinstance(value, dict):
        raise _refused(folder, f"its `{name}` is no JSON object", "is the download complete?")
    return value


def _inside(folder: Path, name: str) -> Path:
    """The file, links followed; refused when a link leads away, but for the hub's cache, which is made of links."""
    path, home = (folder / name).resolve(), folder.resolve()
    homes = [home]
    if home.parent.name == "snapshots":
        homes.append(home.parent.parent / "blobs")
    if not any(path.is_relative_to(one) for one in homes):
        raise _refused(
            folder, f"`{name}` is a link that leads out of it, to `{path}`", "put the file itself in its place"
        )
    if path.exists() and not path.is_file():
        raise _refused(folder, f"`{name}` is no file", "a model's directory as transformers saves it is wanted")
    return path


# --- identity --------------------------------------------------------------------------------------------


def digest(sums: Mapping[str, str]) -> str:
    """The identity of a directory: one digest of its files' SHA-256, by their names."""
    return durable.digest({"format": 1, "files": dict(sums)})


def known_sums(directory: Directory, memory: Path) -> dict[str, str] | None:
    """SHA-256 of the files that decide, as remembered in `memory`; None when one is not, or was touched since."""
    try:
        remembered = json.loads(memory.read_bytes())
    except (OSError, ValueError):
        return None
    sums = {}
    for name in directory.identity_files:
        entry = remembered.get(str((directory.folder / name).resolve()))
        if entry is None or entry["stamp"] != stamp(directory.folder / name):
            return None
        sums[name] = entry["sha256"]
    return sums


def remember_sums(directory: Directory, memory: Path, sums: Mapping[str, str], stamps: Mapping[str, str]) -> None:
    """Remember the files' SHA-256 with the stamps they had before they were read."""
    try:
        remembered = json.loads(memory.read_bytes())
    except (OSError, ValueError):
        remembered = {}
    for name, value in sums.items():
        path = str((directory.folder / name).resolve())
        remembered[path] = {"stamp": stamps[name], "sha256": value}
    durable.write_json(memory, remembered, replace=True)


def stamp(path: Path) -> str:
    """What changes when a file is written anew: its size and its time of change to the nanosecond."""
    status = path.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"


# --- writing ---------------------------------------------------------------------------------------------


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
        "head_dim": model["hidden_size"] // model["num_attention_heads"],
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
