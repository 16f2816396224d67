"""The files of a Hugging Face directory, opened as untrusted files: sizes, links and headers checked first."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curriculum import fs
from curriculum.artifacts.huggingface.places import key_place, offset_place
from curriculum.errors import DataError, Place

CONFIG, TOKENIZER, README = "config.json", "tokenizer.json", "README.md"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
CARRIED = (
    *(CONFIG, "generation_config.json", TOKENIZER, "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "tokenizer.model", "chat_template.jinja"),
)
"""Files that go through to an export as they are; next to them those that begin as `LICENCES`."""
SOURCE = "source"
"""Folder inside an import's checkpoint that keeps them."""
LICENCES = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY")
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
LARGEST_JSON = 64 << 20
LARGEST_HEADER = 100 << 20  # safetensors' own limit


@dataclass(frozen=True, slots=True)
class Tensor:
    """The file, dtype (in torch's words) and shape of a stored tensor."""

    file: str
    dtype: str
    shape: tuple[int, ...]


def is_carried(name: str) -> bool:
    """Whether a file of this name in a directory belongs to its model: weights, configuration, tokenizer, licence."""
    return name in CARRIED or name.startswith(LICENCES) or is_weights(name)


def is_weights(name: str) -> bool:
    """Whether a file of this name holds weights or their index."""
    return name.endswith((".safetensors", INDEX))


def refused(folder: Path, reason: str, hint: str, place: Place | None = None) -> DataError:
    return DataError(f"`{folder}` cannot be imported: {reason}", hint=hint, place=place)


def refused_key(folder: Path, reason: str, hint: str, *keys: str) -> DataError:
    """The refusal of what its `config.json` says under `keys`, one inside another, with the place where it says so."""
    return refused(folder, reason, hint, key_place(folder / CONFIG, keys))


def stored_tensors(folder: Path) -> dict[str, Tensor]:
    """Every stored tensor by name, from the headers of the files that transformers would read."""
    if (folder / WEIGHTS).exists():
        return _header(folder, WEIGHTS)
    if not (folder / INDEX).exists():
        pickled = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
        if pickled:
            raise refused(
                folder,
                f"its weights are pickled (`{pickled[0]}`), which can run any code when opened",
                "only safetensors are read; transformers writes them: `model.save_pretrained(DIR)`",
            )
        raise refused(folder, f"it has neither `{WEIGHTS}` nor `{INDEX}`", "is the download complete?")
    where = read_json(folder, INDEX).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise refused(folder, f"`{INDEX}` has no `weight_map`", "is the download complete?")
    tensors: dict[str, Tensor] = {}
    headers: dict[str, dict[str, Tensor]] = {}
    for name, file in where.items():
        if not isinstance(file, str) or file != os.path.basename(file) or not file.endswith(".safetensors"):
            raise refused(folder, f"`{INDEX}` names `{file}`, which is no safetensors file there", "is it damaged?")
        if file not in headers:
            headers[file] = _header(folder, file)
        if name not in headers[file]:
            raise refused(folder, f"`{file}` lacks `{name}`, which `{INDEX}` promises", "is the download complete?")
        tensors[name] = headers[file][name]
    return tensors


def _header(folder: Path, name: str) -> dict[str, Tensor]:
    path = inside(folder, name)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= min(LARGEST_HEADER, size - 8):
                raise ValueError("its header does not fit it")
            header = fs.parse_json(file.read(length))
        header.pop("__metadata__", None)
        tensors = {}
        end = 0
        for key, entry in header.items():
            if entry["dtype"] not in DTYPES:
                raise refused(
                    folder,
                    f"`{key}` is stored as {entry['dtype']}",
                    "only F32, F16 and BF16 weights are read; quantised ones would have to be unpacked first",
                )
            tensors[key] = Tensor(name, DTYPES[entry["dtype"]], tuple(int(n) for n in entry["shape"]))
            end = max(end, int(entry["data_offsets"][1]))
        if 8 + length + end != size:
            raise ValueError(f"it has {size:,} bytes where its header needs {8 + length + end:,}")
    except OSError as error:
        raise refused(folder, f"its `{name}` cannot be read: {error.strerror}", "is the download complete?") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        reason = f"`{name}` is not a whole safetensors file: {error}"
        raise refused(folder, reason, "is the download complete?") from None
    return tensors


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """The object in a JSON file of a directory; `refused` says why where there is none."""
    path = inside(folder, name)
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ValueError("it is far too large")
        value = fs.parse_json(path.read_bytes())
    except FileNotFoundError:
        raise refused(folder, f"it has no `{name}`", "a model's directory as transformers saves it is wanted") from None
    except (OSError, ValueError, RecursionError) as error:
        place = offset_place(path, error.doc, error.pos) if isinstance(error, json.JSONDecodeError) else None
        what = error.msg if isinstance(error, json.JSONDecodeError) else error
        raise refused(folder, f"its `{name}` cannot be read: {what}", "is the download complete?", place) from None
    if not isinstance(value, dict):
        raise refused(folder, f"its `{name}` is no JSON object", "is the download complete?")
    return value


def inside(folder: Path, name: str) -> Path:
    """The file, links followed; refused when a link leads away, but for the hub's cache, which is made of links."""
    path, home = (folder / name).resolve(), folder.resolve()
    in_cache = home.parent.name == "snapshots" and path.is_relative_to(home.parent.parent / "blobs")
    if not in_cache and not path.is_relative_to(home):
        reason = f"`{name}` is a link that leads out of it, to `{path}`"
        raise refused(folder, reason, "put the file itself in its place")
    if path.exists() and not path.is_file():
        raise refused(folder, f"`{name}` is not a file", "a model's directory as transformers saves it is wanted")
    return path
