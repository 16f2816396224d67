"""Sealed objects: what was sealed is read back, and what could not be is refused before it is written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from curriculum import fs


@pytest.mark.parametrize("value", [{}, {"a": None, "digest": [1]}, {"files": {fs.SEAL: "of another"}}])
def test_whatever_is_sealed_is_read_back_as_it_was(value: dict[str, Any]) -> None:
    sealed = json.loads(json.dumps(fs.seal(value)))
    assert fs.unseal(sealed, ()) == value
    with pytest.raises(ValueError, match="does not match its seal"):
        fs.unseal({**sealed, "a": "changed"}, ())


def test_a_value_with_a_key_of_the_seals_name_is_refused_before_it_is_written() -> None:
    with pytest.raises(ValueError, match=f"has no key `{fs.SEAL}` of its own"):
        fs.seal({"a": 1, fs.SEAL: "of a file"})
