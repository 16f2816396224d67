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
    """The one encoding of `value` that digests are taken of: sorted keys, no spaces, no NaN; dataclasses by field."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True, default=fields_of
    ).encode()


def digest(value: Any) -> str:
    """SHA-256 (hexadecimal) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def seal(value: Mapping[str, Any]) -> dict[str, Any]:
    """`value` as plain JSON, with the digest of its canonical form under `SEAL`.

    ValueError for a value with a key `SEAL` of its own, which no reader could tell from the seal.
    """
    plain: dict[str, Any] = json.loads(canonical_json(value))
    if SEAL in plain:
        raise ValueError(f"a sealed object has no key `{SEAL}` of its own")
    return {**plain, SEAL: digest(plain)}


def parse_json(data: bytes | str) -> Any:
    """JSON from an untrusted file. ValueError when it is invalid or nests too deeply to be parsed."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it nests too deeply") from None


def unseal(value: Any, without_seal: Iterable[str]) -> dict[str, Any]:
    """The value that `seal` was given; ValueError when its digest does not match.

    Files of versions before seals have none; their keys must be exactly `without_seal`.
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


def finite_json(value: Any) -> Any:
    """`value` with NaN and infinities replaced by their names, which JSON can hold."""
    if isinstance(value, Mapping):
        return {key: finite_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite_json(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
