"""Rotary positions in a `config.json`: their base and how they are scaled, in the keys of transformers 4 and 5."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curriculum.artifacts.huggingface.files import CONFIG, refused_key
from curriculum.errors import DataError

FULL, SLIDING = "full_attention", "sliding_attention"
_NUMBERS: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings"),
}
"""The numbers of each way to scale; `_OPTIONAL` may be absent."""
_OPTIONAL: Mapping[str, tuple[str, ...]] = {"yarn": ("attention_factor", "beta_fast", "beta_slow")}
_HINT = f"of the ways to scale rotary positions {', '.join(f'`{kind}`' for kind in _NUMBERS)} are computed"


@dataclass(frozen=True, slots=True)
class Rope:
    """The base of the rotary positions and how they are scaled; None where they are not."""

    theta: float
    scaling: Mapping[str, Any] | None


def read_rope(folder: Path, config: Mapping[str, Any], *, theta: float, positions: int, nested: bool) -> Rope:
    """The base, which is `theta` where it is not stated, and scaling of a model with so many `positions`.

    `nested` is a class that has them by the kind of attention, of which only that of full attention may be scaled.
    """
    new, old = (_mapping(folder, config.get(key), key) for key in ("rope_parameters", "rope_scaling"))
    outside = None if nested else config.get("original_max_position_embeddings")
    length = {"stated": outside is not None, "value": positions if outside is None else outside}
    if not nested:
        ropes = [_flat(folder, config, key, rope, theta, length) for key, rope in (("rope_scaling", old),) if rope]
        ropes += [_flat(folder, config, "rope_parameters", new, theta, length)] if new or not ropes else []
        if ropes[0] != ropes[-1]:
            hint = "it disagrees with `rope_parameters`; one of the two is stale"
            raise _refused(folder, "rope_scaling", hint, "rope_scaling")
        return ropes[0]
    if new and not {FULL, SLIDING} & new.keys():
        hint = f"its class has them under `{FULL}` and `{SLIDING}`"
        raise _refused(folder, "rope_parameters", hint, "rope_parameters")
    parts = {kind: dict(_mapping(folder, new.get(kind), "rope_parameters", kind)) for kind in (FULL, SLIDING)}
    full = _flat(folder, config, "rope_parameters", {**parts[FULL], **old}, theta, length)
    # the class takes a base outside the mapping for full attention alone
    sliding = _flat(folder, config, "rope_parameters", {"rope_theta": theta, **parts[SLIDING]}, theta, length)
    if sliding != Rope(full.theta, None):
        hint = f"`{SLIDING}` may not be scaled, and has to have the base of `{FULL}`"
        raise _refused(folder, "rope_parameters", hint, "rope_parameters", SLIDING)
    if full.scaling and parts[FULL].get("truncate", old.get("truncate", True)) is not True:
        what, hint = "rope_parameters: {truncate: …}", "its class does not read it"
        raise _refused(folder, what, hint, "rope_parameters", FULL, "truncate")
    return full


def _flat(
    folder: Path,
    config: Mapping[str, Any],
    key: str,
    rope: Mapping[str, Any],
    theta: float,
    original: Mapping[str, Any],
) -> Rope:
    base = rope.get("rope_theta", config.get("rope_theta"))
    base = theta if base is None else base
    kind = rope.get("rope_type", rope.get("type", "default"))
    if not isinstance(kind, str) or kind not in _NUMBERS:
        stated = "rope_type" if "rope_type" in rope else "type"
        raise _refused(folder, f"{key}: {{rope_type: {kind}}}", _HINT, key, stated)
    if rope.get("rope_type", kind) != rope.get("type", kind):
        raise _refused(folder, f"{key}: {{type: …}}", "it disagrees with `rope_type`", key, "type")
    readable = {"rope_type", "type", "rope_theta", "original_max_position_embeddings", *_NUMBERS[kind]}
    readable |= {*_OPTIONAL.get(kind, ()), *({"truncate"} if kind == "yarn" else ())}
    ignored = {name for names in (*_NUMBERS.values(), *_OPTIONAL.values()) for name in names}
    if rope.get("partial_rotary_factor") == 1:
        ignored.add("partial_rotary_factor")
    strange = sorted(name for name in rope.keys() - readable - ignored if rope[name] is not None)
    if strange:
        raise _refused(folder, f"{key}: {{{strange[0]}: …}}", _HINT, key, strange[0])
    values = {name: rope.get(name) for name in _NUMBERS[kind]}
    if "original_max_position_embeddings" in values and (
        original["stated"] or "original_max_position_embeddings" not in rope
    ):
        values["original_max_position_embeddings"] = original["value"]
    values |= {name: rope[name] for name in _OPTIONAL.get(kind, ()) if rope.get(name) is not None}
    for name, value in {"rope_theta": base, **values}.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            reason = f"`{name}` in its `{CONFIG}` is {json.dumps(value)}"
            keys = (key, name) if name in rope else (name,) if name in config else (key,)
            raise refused_key(folder, reason, "a number above 0 is wanted", *keys)
    if kind == "yarn" and rope.get("truncate", True) is not True:
        values["truncate"] = False
    return Rope(float(base), {"rope_type": kind, **values} if values else None)


def _mapping(folder: Path, rope: Any, *keys: str) -> Mapping[str, Any]:
    if rope is not None and not isinstance(rope, dict):
        reason = f"`{keys[-1]}` in its `{CONFIG}` is no mapping"
        raise refused_key(folder, reason, "as transformers writes it", *keys)
    return rope or {}


def _refused(folder: Path, what: str, hint: str, *keys: str) -> DataError:
    return refused_key(folder, f"`{what}` in its `{CONFIG}` is not supported", hint, *keys)
