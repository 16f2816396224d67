"""Canonical JSON, SHA-256 digests of it, and objects sealed with their own digest."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from curriculum.fs.records import fields_of

SEAL = "sha256"


def canonical_json(value: Any) -> bytes:
    """The one spelling of `value` that digests are taken of: sorted keys, no spaces, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True, default=fields_of
    ).encode()


def digest(value: Any) -> str:
    """SHA-256 (hexadecimal) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """`value` with the digest of all of it under `SEAL`, so that no part can change unseen."""
    plain: dict[str, Any] = json.loads(canonical_json(value))
    return {**plain, SEAL: digest(plain)}


def parsed(data: bytes | str) -> Any:
    """JSON that somebody else may have written; ValueError for what is none, also for what nests without end."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it nests without end") from None


def unsealed(value: Any, without_seal: Iterable[str]) -> dict[str, Any]:
    """What `sealed` was given. ValueError when a part was changed.

    Written before seals were, a value has none: then its keys are exactly `without_seal`.
    """
    if not isinstance(value, dict):
        raise ValueError("it is not an object")
    if SEAL not in value:
        if value.keys() != set(without_seal):
            raise ValueError("its seal is missing")
        return value
    plain = {key: entry for key, entry in value.items() if key != SEAL}
    if digest(plain) != value[SEAL]:
        raise ValueError("it was changed after it was written: it does not match its seal")
    return plain


def finite(value: Any) -> Any:
    """`value` as JSON can hold it: numbers that are not finite become their names, as texts."""
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
