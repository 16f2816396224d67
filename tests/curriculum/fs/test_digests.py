"""Sealed objects: what was sealed is read back, and what could not be is refused before it is written."""

from __future__ import annotations

import json
from pathlib import Path
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


def test_a_sealed_file_is_read_as_it_was_written_and_refused_once_it_was_changed(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    fs.write_sealed(path, {"loss": 4.071})
    assert fs.read_sealed(path) == {"loss": 4.071}
    path.write_text(path.read_text().replace("4.071", "4.070"))
    with pytest.raises(ValueError, match="does not match its seal"):
        fs.read_sealed(path)
    path.write_text('{"loss": 4.071}')
    assert fs.read_sealed(path, ("loss",)) == {"loss": 4.071}  # of a version before seals
    with pytest.raises(ValueError, match="its seal is missing"):
        fs.read_sealed(path)
