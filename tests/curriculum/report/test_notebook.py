"""A project as tables: flat rows that frames take as they are, and the same numbers as the packages below give."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pytest

import curriculum
from curriculum import fs
from curriculum.analysis import batch
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.project import Project
from curriculum.errors import CurriculumError, NotFound
from curriculum.report.notebook import PlanTables, ProjectTables

FLAT = (str, int, float, bool, type(None))


@pytest.fixture(scope="module")
def project(finished: Path) -> ProjectTables:
    return curriculum.open(finished / "stages")


@pytest.fixture(scope="module")
def plan(project: ProjectTables) -> PlanTables:
    return project.plan("variant", size="full")


def tables(project: ProjectTables, plan: PlanTables) -> dict[str, list[dict[str, Any]]]:
    return {
        "stages": plan.stages,
        "sources": plan.sources,
        "lr": plan.lr(),
        "batch": plan.batch(0, text=True),
        "documents": plan.documents(0),
        "trace": plan.trace(document=plan.documents(0)[0]["id"]),
        "status": project.status(size="full"),
        "metrics": project.metrics("variant", size="full"),
        "evaluations": project.evaluations("variant", size="full"),
        "diff": project.diff("trunk", "variant", size="full"),
        "moved": project.moved("trunk", "variant", size="full"),
    }


@pytest.mark.promise("A notebook gets flat tables; a refusal has its hint there too")
def test_every_table_is_flat_and_of_one_shape_and_frames_take_it(project: ProjectTables, plan: PlanTables) -> None:
    for name, table in tables(project, plan).items():
        assert table, name
        for row in table:
            assert row.keys() == table[0].keys(), name
            assert all(isinstance(value, FLAT) for value in row.values()), (name, row)
        assert len(pandas.DataFrame(table)) == len(table)
        assert pyarrow.Table.from_pylist(table).num_rows == len(table)


def test_the_tables_of_a_plan_are_the_plan_s_numbers(finished: Path, plan: PlanTables) -> None:
    texts = PreparedText.open(Project(finished), "variant", "full")
    compiled = texts.compiled
    assert [row["stage"] for row in plan.stages] == [stage.name for stage in compiled.stages]
    assert [row["steps"] for row in plan.stages] == [stage.steps_run for stage in compiled.stages]
    assert plan.steps == sum(row["steps"] for row in plan.stages)
    assert sum(row["tokens"] for row in plan.sources) == sum(row["tokens"] for row in plan.stages)
    last = plan.steps - 1
    slots = batch.batch(compiled, texts, last)["slots"]
    assert [(row["slot"], row["source"], row["window"]) for row in plan.batch(last)] == [
        (slot["slot"], slot["source"], slot["window"]) for slot in slots
    ]
    assert [row["id"] for row in plan.documents(last)] == [d["id"] for s in slots for d in s["documents"]]


def test_a_trace_finds_the_very_slot_that_a_batch_shows(plan: PlanTables) -> None:
    slot = plan.batch(5)[3]
    document = next(row["id"] for row in plan.documents(5) if row["slot"] == slot["slot"])
    window = slot["window"]
    for rows in (plan.trace(document=document), plan.trace(source=slot["source"], span=f"{window}:{window + 1}")):
        assert any((row["step"], row["slot"], row["window"]) == (5, slot["slot"], window) for row in rows)
        assert all(row["read"] for row in rows), "the project was trained to its end"
    with pytest.raises(CurriculumError, match="nothing to trace"):
        plan.trace(source="prose")


@pytest.mark.parametrize("points", [1, 2, 7, 10_000])
def test_the_learning_rate_is_the_plan_s_and_shows_both_ends(plan: PlanTables, points: int) -> None:
    rows = plan.lr(points)
    assert len(rows) == min(points, plan.steps)
    assert rows[0]["step"] == 0
    assert points == 1 or rows[-1]["step"] == plan.steps - 1
    for row in rows:
        stage = next(stage for stage in plan.compiled.stages if stage.name == row["stage"])
        assert row["lr"] == stage.plan.lr(row["step"])


def test_metrics_are_the_lineage_s_lines_in_order_with_a_column_for_every_source(
    finished: Path, project: ProjectTables, plan: PlanTables
) -> None:
    rows = project.metrics("variant", size="full")
    assert [row["step"] for row in rows] == list(range(plan.steps))
    assert rows[-1]["position"] == plan.stages[-1]["ends_at"]
    assert {"loss/prose", "loss/code", "tokens/prose", "tokens/code"} <= rows[0].keys()
    assert rows[0]["loss/code"] is None
    lines = fs.read_json_lines(finished / "runs/full/variant/cooldown/metrics.jsonl")
    assert rows[-1]["loss"] == lines[-1]["loss"]
    assert rows[-1]["loss/code"] == lines[-1]["sources"]["code"]["loss"]
    assert all(row["tokens/prose"] + row["tokens/code"] == row["batch_sequences"] * 32 for row in rows)


def test_a_loss_that_was_not_finite_is_a_number_in_the_table(tmp_path: Path, finished: Path) -> None:
    folder = tmp_path / "p"
    shutil.copytree(finished, folder)
    path = folder / "runs/full/trunk/basic/metrics.jsonl"
    lines = fs.read_json_lines(path)
    lines[3]["grad_norm"] = lines[3]["loss"] = "nan"
    path.write_bytes(b"".join(fs.canonical_json(line) + b"\n" for line in lines))
    row = curriculum.open(folder).metrics("variant", size="full")[3]
    assert math.isnan(row["loss"])
    assert math.isnan(row["grad_norm"])


def test_a_call_reads_the_files_as_they_are_now(small_project: Path) -> None:
    opened = curriculum.open(small_project)
    before = opened.plan("trunk", size="full").steps
    path = small_project / "stages" / "trunk.yaml"
    path.write_text(path.read_text().replace("{name: cooldown, until: 12288", "{name: cooldown, until: 13312"))
    assert opened.plan("trunk", size="full").steps == before + 1
    assert opened.metrics("trunk", size="full") == []
    assert opened.diff("trunk", "trunk", size="full") == []


@pytest.mark.promise("A notebook gets flat tables; a refusal has its hint there too")
def test_a_refusal_says_the_way_out_in_a_notebook_too(project: ProjectTables) -> None:
    with pytest.raises(CurriculumError) as caught:
        project.plan("varient", size="full")
    assert any("did you mean `variant`" in note for note in caught.value.__notes__)
    with pytest.raises(NotFound, match="no project here"):
        curriculum.open("/")
