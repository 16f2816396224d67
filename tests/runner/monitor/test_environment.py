"""What an attempt runs in: compared with the attempt before, refused where it changes bits without consent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from curriculum.artifacts.stage_folder import Attempt
from curriculum.errors import RunFailed
from runner.monitor import code_digest, environment

NOW = {"torch": "2.13.0", "numpy": "2.4", "processor": "this", "threads": 2, "code": "c", "python": "3.11"}


def attempt_after(folder: Path, **changed: object) -> Attempt:
    (folder / "0001").mkdir()
    (folder / "0001/environment.json").write_text(json.dumps({**NOW, **changed}))
    return Attempt(folder / "0002")


@pytest.mark.promise("Another torch, numpy, processor or training code under a started run needs consent")
@pytest.mark.parametrize("name", ["torch", "numpy", "processor"])
def test_what_changes_bits_is_refused_named_and_let_pass_with_consent(tmp_path: Path, name: str) -> None:
    differing = environment.changes(attempt_after(tmp_path, **{name: "other"}), NOW)
    assert differing == {name: ["other", NOW[name]]}
    with pytest.raises(RunFailed, match=f"{name} other -> {NOW[name]}") as refusal:
        environment.check("trunk/basic", differing, "cpu", accept=False)
    assert "--accept-environment" in str(refusal.value.hint)
    assert environment.check("trunk/basic", differing, "cpu", accept=True) == [name]


def test_where_and_how_may_change_and_so_may_code_that_computes_no_step(tmp_path: Path) -> None:
    differing = environment.changes(attempt_after(tmp_path, threads=1, code="d", python="3.12"), NOW)
    assert differing.keys() == {"threads", "code", "python"}
    assert environment.check("trunk/basic", differing, "cpu", accept=False) == []


def test_the_processor_beside_a_gpu_is_not_asked_about(tmp_path: Path) -> None:
    differing = environment.changes(attempt_after(tmp_path, processor="other"), NOW)
    assert environment.check("trunk/basic", differing, "cuda", accept=False) == []


def test_what_an_older_version_did_not_write_down_is_no_difference(tmp_path: Path) -> None:
    assert environment.changes(attempt_after(tmp_path), {**NOW, "training_code": "new"}) == {}


@pytest.mark.promise("Training code that was only moved or renamed is no change to a started run")
def test_code_that_was_moved_or_renamed_since_is_no_difference(tmp_path: Path) -> None:
    listed = sorted(code_digest.EQUIVALENT[-1])
    attempt = attempt_after(tmp_path, training_code=listed[0])
    assert len(listed) > 1
    assert environment.changes(attempt, {**NOW, "training_code": listed[1]}) == {}
    assert environment.changes(attempt, {**NOW, "training_code": "edited"}) == {"training_code": [listed[0], "edited"]}
    with pytest.raises(RunFailed, match="training_code"):
        environment.check("trunk/basic", {"training_code": [listed[0], "edited"]}, "cpu", accept=False)
