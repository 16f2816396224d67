"""What an attempt runs in: compared with the attempt before, refused where it changes bits and nobody consented."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from curriculum.errors import RunFailed
from runner import surroundings

NOW = {"torch": "2.13.0", "numpy": "2.4", "processor": "this", "threads": 2, "code": "c", "python": "3.11"}


def attempt_after(folder: Path, **changed: object) -> Path:
    (folder / "0001").mkdir()
    (folder / "0001/environment.json").write_text(json.dumps({**NOW, **changed}))
    return folder / "0002"


@pytest.mark.parametrize("name", ["torch", "numpy", "processor"])
def test_what_changes_bits_is_refused_named_and_let_pass_with_consent(tmp_path: Path, name: str) -> None:
    differing = surroundings.changed(attempt_after(tmp_path, **{name: "other"}), NOW)
    assert differing == {name: ["other", NOW[name]]}
    with pytest.raises(RunFailed, match=f"{name} other -> {NOW[name]}") as refusal:
        surroundings.check("trunk/basic", differing, "cpu", accept=False)
    assert "--accept-environment" in str(refusal.value.hint)
    assert surroundings.check("trunk/basic", differing, "cpu", accept=True) == [name]


def test_where_and_how_may_change_and_so_may_code_that_computes_no_step(tmp_path: Path) -> None:
    differing = surroundings.changed(attempt_after(tmp_path, threads=1, code="d", python="3.12"), NOW)
    assert differing.keys() == {"threads", "code", "python"}
    assert surroundings.check("trunk/basic", differing, "cpu", accept=False) == []


def test_the_processor_beside_a_gpu_is_not_asked_about(tmp_path: Path) -> None:
    differing = surroundings.changed(attempt_after(tmp_path, processor="other"), NOW)
    assert surroundings.check("trunk/basic", differing, "cuda", accept=False) == []


def test_what_an_older_version_did_not_write_down_is_no_difference(tmp_path: Path) -> None:
    assert surroundings.changed(attempt_after(tmp_path), {**NOW, "training_code": "new"}) == {}


def test_comments_and_docstrings_are_no_other_training_code(tmp_path: Path) -> None:
    one, other, third = (tmp_path / f"{name}.py" for name in ("one", "other", "third"))
    one.write_text('"""A."""\n\ndef f(x):\n    """B."""\n    return x + 1\n')
    other.write_text('"""C."""\ndef f(x):\n    # why\n    return (x + 1)\n')
    third.write_text('"""A."""\n\ndef f(x):\n    """B."""\n    return x + 2\n')
    assert surroundings._meaning(one) == surroundings._meaning(other) != surroundings._meaning(third)


def test_every_file_that_the_training_code_names_is_there() -> None:
    root = Path(surroundings.__file__).parents[1]
    assert all(list(root.glob(pattern)) for pattern in surroundings.TRAINING_CODE)


def test_every_room_that_computes_a_step_counts_as_training_code() -> None:
    root = Path(surroundings.__file__).parents[1]
    listed = {path for pattern in surroundings.TRAINING_CODE for path in root.glob(pattern)}
    for pattern in surroundings.TRAINING_CODE:
        assert list(root.glob(pattern)), pattern
    reached, left = set(), [root / "runner/step.py", root / "runner/assembly.py", root / "runner/state.py"]
    while left:
        reached.add(path := left.pop())
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "runner":
                inside = (node.module or "").split(".")[1:] or [alias.name for alias in node.names]
                left += {root / f"runner/{name}.py" for name in inside} - reached
    assert reached <= listed
