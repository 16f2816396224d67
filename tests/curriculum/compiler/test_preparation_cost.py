"""What a plan says of text that is not prepared: core-hours and disk, by what was measured, or that nothing was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from curriculum.compiler.preparation_cost import preparation_costs
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.project import Project
from curriculum.data.preparation_rate import PreparationRate


@pytest.fixture
def unprepared(finished: Path, tmp_path: Path) -> Path:
    """The finished project without its runs and without the text of `code`; its tokenizer is there."""
    root = Path(shutil.copytree(finished, tmp_path / "project"))
    for folder in ("runs", "data/code", "data/rates"):
        shutil.rmtree(root / folder)
    return root


def costs(root: Path) -> list[dict[str, Any]]:
    return preparation_costs(PreparedText.open(Project.find(root), "variant", "full"))


def write(root: Path, dataset: str, **changes: Any) -> None:
    texts = PreparedText.open(Project.find(root), "variant", "full")
    assert texts.loaded_tokenizer is not None
    values: dict[str, Any] = {
        "dataset": dataset,
        "tokenizer": texts.loaded_tokenizer.digest,
        "encoder": "gigatoken 1",
        "whole": False,
        "documents": 10,
        "tokens": 1000,
        "text_bytes": 4000,
        "disk_bytes": 2500,
        "stored_bytes": 4000,
        "total_bytes": 4_000_000,
        "core_seconds": 0.5,
    }
    PreparationRate(**{**values, **changes}).write(root / "data/rates", texts.folder(dataset).name)


def test_the_own_sample_says_size_core_hours_and_disk_and_another_text_only_where_the_size_is_declared(
    unprepared: Path,
) -> None:
    (nothing,) = costs(unprepared)
    assert (nothing["dataset"], nothing["measured_on"], nothing["core_hours"]) == ("code", None, None)
    write(unprepared, "prose", tokens=2000, whole=True)
    (other,) = costs(unprepared)
    assert (other["measured_on"], other["tokens"], other["core_hours"]) == ("prose", None, None)
    sources = unprepared / "sources.yaml"
    declared = sources.read_text().replace("code}, held_out: 25%}", "code}, held_out: 25%, tokens: 7.2B}")
    sources.write_text(declared)
    (other,) = costs(unprepared)
    assert (other["tokens"], other["declared"], other["whole"]) == (7_200_000_000, True, True)
    assert other["core_hours"] == pytest.approx(7.2e9 * 0.5 / 2000 / 3600)
    assert other["disk_bytes"] == 7_200_000_000 * 2500 // 2000
    sources.write_text(declared.replace(", tokens: 7.2B", ""))
    write(unprepared, "code")
    (own,) = costs(unprepared)
    assert (own["measured_on"], own["tokens"], own["declared"]) == ("code", 1_000_000, False)
    assert own["tokens_a_core_second"] == 2000
    write(unprepared, "code", tokenizer="0" * 64)
    assert costs(unprepared)[0]["measured_on"] == "prose"


@pytest.mark.promise(
    "The cost of a corpus in core-hours and disk is estimated from a measured sample before it is paid"
)
def test_a_plan_says_how_to_measure_and_then_what_it_costs(unprepared: Path, curriculum: Callable[..., Any]) -> None:
    shown = curriculum(unprepared, "plan", "variant", "--size", "full").stdout
    assert (
        "what preparing code takes is not measured: `curriculum prepare variant --sample` measures a sample"
        in shown.replace(" --size full", "")
    )
    said = curriculum(unprepared, "prepare", "variant", "--size", "full", "--sample").stdout
    assert "a sample of its text" in said
    plan = json.loads(curriculum(unprepared, "plan", "variant", "--size", "full", "--json").stdout)
    (row,) = plan["preparation"]
    assert (row["dataset"], row["measured_on"], row["whole"]) == ("code", "code", False)
    assert not (unprepared / "data/code").exists() or not list((unprepared / "data/code").glob("*-*"))
    curriculum(unprepared, "prepare", "variant", "--size", "full")
    texts = PreparedText.open(Project.find(unprepared), "variant", "full")
    manifest = texts.manifest("code")
    assert manifest is not None
    assert sum(split.tokens for split in manifest.splits.values()) == row["tokens"]
    assert costs(unprepared) == []
