"""The tokenizer's content digest is part of every shard, plan and checkpoint, and another one's text is refused."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from curriculum.artifacts import jobs
from curriculum.data.manifest import Manifest
from curriculum.errors import DataError
from curriculum.plan.stage import StagePlan
from curriculum.stream.reader import open_sources
from runner.evaluate.held_out import HeldOutSets

pytestmark = pytest.mark.promise("The tokenizer's digest is part of every shard, plan and checkpoint")


def digest_of(project: Path) -> str:
    (file,) = project.glob("data/tokenizers/*/tokenizer.json")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_every_prepared_text_plan_and_checkpoint_says_the_digest_of_the_tokenizers_file(finished: Path) -> None:
    digest = digest_of(finished)
    texts = list(finished.glob("data/*/*/manifest.json"))
    plans = list(finished.glob("runs/full/*/*/plan.json"))
    states = list(finished.glob("runs/full/*/*/checkpoints/g*/state.json"))
    assert len(texts) == 2
    assert len(plans) == 3
    assert len(states) > 3
    for path in texts:
        assert path.parent.name.startswith(digest[:12])
        assert Manifest.load(path.parent).tokenizer.digest == digest
    for path in plans:
        assert json.loads(path.read_bytes())["tokenizer"]["digest"] == digest
    for path in states:
        assert json.loads(path.read_bytes())["tokenizer"] == digest


def test_the_digest_decides_the_identity_of_text_plan_and_checkpoint(finished: Path) -> None:
    other = "0" * 64
    text = Manifest.load(next(finished.glob("data/prose/*/manifest.json")).parent)
    assert replace(text, tokenizer=replace(text.tokenizer, digest=other)).digest != text.digest
    plan = StagePlan.load(finished / "runs/full/variant/cooldown/plan.json")
    changed = replace(plan, tokenizer={**plan.tokenizer, "digest": other})
    assert changed.fingerprint != plan.fingerprint
    assert changed.history(plan.end) != plan.history(plan.end)


def test_text_of_another_tokenizer_is_refused_for_training_and_for_measuring(finished: Path) -> None:
    plan = StagePlan.load(finished / "runs/full/variant/cooldown/plan.json")
    folders = {name: str(next(finished.glob(f"data/{name}/*/manifest.json")).parent) for name in plan.sources}
    assert open_sources(plan, folders)
    other = replace(plan, tokenizer={**plan.tokenizer, "digest": "0" * 64})
    with pytest.raises(DataError, match="was made with another tokenizer"):
        open_sources(other, folders)
    held_out = {"prose": jobs.HeldOut(folder=folders["prose"], windows=8)}
    assert HeldOutSets(plan, held_out)
    with pytest.raises(DataError, match="was made with another tokenizer"):
        HeldOutSets(other, held_out)
