"""What `compare` and `report` say of scores: like is held against like, with its noise."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pretend_runs import pretend
from projects import write_small_project
from rich.console import Console

from curriculum import fs
from curriculum.analysis import benchmarks
from curriculum.analysis.compare import compare
from curriculum.artifacts import benchmarks as artifacts_benchmarks
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.cli.view.benchmarks import scores_view, tasks_view
from curriculum.cli.view.compare import compare_view
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.project import Project
from curriculum.errors import DataError
from curriculum.report.html.write import render
from curriculum.runs.measurements import by_point

RIGHT = [1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0] * 8
BETTER = [1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0] * 8


def task(values: Sequence[float], **changed: Any) -> dict[str, Any]:
    mean = sum(values) / len(values)
    error = math.sqrt(mean * (1 - mean) / (len(values) - 1))
    return {
        "version": 1.0,
        "num_fewshot": 0,
        "definition": "words",
        "documents": len(values),
        "of": len(values),
        "digest": "documents",
        "metrics": {"acc,none": {"value": mean, "error": error, "higher_is_better": True}},
        "preferred": "acc,none",
        "per_document": list(values),
        **changed,
    }


def record(
    name: str, tasks: dict[str, Any], position: int = 12288, generation: int = 0, limit: int | None = None
) -> dict[str, Any]:
    grouped = set(tasks) != {name}
    return {
        "task": name,
        "generation": generation,
        "position": position,
        "asked": {"num_fewshot": None, "limit": limit},
        "harness": {"lm_eval": "0.4.13"},
        "tasks": tasks,
        "groups": {name: {"members": list(tasks), "metrics": {}, "preferred": None}} if grouped else {},
    }


def put(folder: Path, value: dict[str, Any]) -> None:
    name = f"g{value['generation']}-{value['position']:016d}"
    path = artifacts_benchmarks.path_of(StageFolder(folder), name, value["task"], None, value["asked"]["limit"])
    fs.make_directory(path.parent)
    fs.write_json(path, value)


def score(values: Sequence[float], **changed: Any) -> artifacts_benchmarks.Score:
    (found,) = artifacts_benchmarks.scores([record("quiz", {"quiz": task(values, **changed)})]).values()
    return found


def test_every_way_of_asking_has_a_file_of_its_own() -> None:
    def path(*words: Any) -> str:
        return artifacts_benchmarks.path_of(StageFolder(Path("s")), "g0-1", *words).as_posix()

    assert path("quiz") == "s/benchmarks/g0-1/quiz.json"
    assert path("quiz", 5, 16) == "s/benchmarks/g0-1/quiz.5-shot.first-16.json"
    assert path("a/b") != path("a:b") != path("a-b")
    assert path("../../x").count("/") == 3


@pytest.mark.promise(
    "Scores are compared only with scores of the same task version, document by document; code that the "
    "model wrote runs only with consent"
)
def test_two_models_are_compared_document_by_document() -> None:
    found = benchmarks.difference(score(BETTER), score(RIGHT))
    assert found is not None
    assert found.mean == pytest.approx(1 / 8)
    assert found.shown
    assert found.error < math.hypot(score(BETTER).error or 0, score(RIGHT).error or 0) / 1.5


@pytest.mark.promise(
    "Scores are compared only with scores of the same task version, document by document; code that the "
    "model wrote runs only with consent"
)
@pytest.mark.parametrize("key", ["version", "num_fewshot", "definition", "digest"])
def test_scores_of_another_task_are_not_taken_from_each_other(key: str) -> None:
    other = score(RIGHT, **{key: 7})
    assert benchmarks.difference(score(BETTER), other) is None
    assert benchmarks.mismatch(score(BETTER), other) is not None


def test_a_group_without_a_figure_of_its_own_is_the_mean_of_its_members_and_so_is_its_difference() -> None:
    mine = artifacts_benchmarks.scores([record("both", {"quiz": task(BETTER), "riddle": task(RIGHT)})])
    base = artifacts_benchmarks.scores([record("both", {"quiz": task(RIGHT), "riddle": task(RIGHT)})])
    assert list(mine) == ["both", "quiz", "riddle"]
    assert mine["both"].metric == "mean of 2"
    assert mine["both"].value == pytest.approx((mine["quiz"].value + mine["riddle"].value) / 2)
    errors = [mine[name].error or 0 for name in ("quiz", "riddle")]
    assert mine["both"].error == pytest.approx(math.hypot(*errors) / 2)
    found = benchmarks.difference(mine["both"], base["both"])
    quiz = benchmarks.difference(mine["quiz"], base["quiz"])
    assert found is not None
    assert quiz is not None
    assert (found.mean, found.error) == (pytest.approx(1 / 16), pytest.approx(quiz.error / 2))


def test_of_a_large_group_its_own_figure_is_shown_alone() -> None:
    many = {f"part-{n}": task(RIGHT) for n in range(artifacts_benchmarks.MEMBERS_SHOWN + 1)}
    assert list(artifacts_benchmarks.scores([record("all", many)])) == ["all"]


def test_a_first_few_documents_are_no_whole_task(tmp_path: Path) -> None:
    put(tmp_path, record("quiz", {"quiz": task(RIGHT)}))
    put(tmp_path, record("quiz", {"quiz": task(BETTER, num_fewshot=5)}, limit=1600))
    assert sorted(artifacts_benchmarks.scores(artifacts_benchmarks.records(StageFolder(tmp_path))[12288])) == [
        "quiz",
        "quiz, 5-shot, first 1,600",
    ]


def test_where_a_history_was_cut_back_the_newest_counts(tmp_path: Path) -> None:
    put(tmp_path, record("quiz", {"quiz": task(RIGHT)}, position=4096))
    put(tmp_path, record("quiz", {"quiz": task(RIGHT)}))
    put(tmp_path, record("riddle", {"riddle": task(BETTER)}, generation=1))
    found = artifacts_benchmarks.records(StageFolder(tmp_path))
    assert [(at, [r["task"] for r in here]) for at, here in found.items()] == [(4096, ["quiz"]), (12288, ["riddle"])]


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    put(tmp_path, record("quiz", {"quiz": task(RIGHT)}))
    path = next(tmp_path.rglob("quiz.json"))
    path.write_text("{")
    with pytest.raises(DataError, match=r"quiz\.json cannot be read"):
        artifacts_benchmarks.records(StageFolder(tmp_path))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    root = write_small_project(tmp_path / "project")
    sources = root / "sources.yaml"
    sources.write_text(sources.read_text().replace("held_out: 25%", "held_out: 25%, tokens: 8192"))
    for name, values in (("trunk", RIGHT), ("variant", BETTER)):
        pretend(root, name)
        for folder in (root / "runs/full").glob("*/*/evaluations"):
            shutil.rmtree(folder)
        put(root / "runs/full" / name / "cooldown", record("quiz", {"quiz": task(values)}))
    put(root / "runs/full/trunk/basic", record("quiz", {"quiz": task(RIGHT)}, position=6144))
    return Project(root)


def texts(project: Project) -> list[PreparedText]:
    return [PreparedText.open(project, name, "full") for name in ("trunk", "variant")]


def test_compare_shows_variants_side_by_side_on_every_task_with_the_noise_of_the_difference(project: Project) -> None:
    comparison = compare(texts(project))
    table = benchmarks.side_by_side(project, comparison)
    assert [(line.label, line.row.ends, line.position) for line in table.lines] == [
        ("quiz", "basic", 6144),
        ("quiz", "cooldown", 12288),
    ]
    trunk, end = table.lines
    assert trunk.scores[0] is trunk.scores[1]  # one checkpoint, one measurement
    assert table.difference(trunk, 1) is None
    found = table.difference(end, 1)
    assert found is not None
    assert found.mean == pytest.approx(1 / 8)
    console = Console(width=80, record=True)
    console.print(compare_view(comparison, [], table.mismatches(), 80, tasks_view(table, 80)))
    text = console.export_text()
    assert all(len(line.rstrip()) <= 80 for line in text.split("\n"))
    assert f"+0.1250 ±{found.error:.4f} *" in text
    assert benchmarks.to_json(table)[1]["variants"]["variant"]["difference"]["mean"] == pytest.approx(1 / 8)


def test_compare_says_why_two_scores_are_not_compared(project: Project) -> None:
    path = next((project.root / "runs/full/variant/cooldown").rglob("quiz.json"))
    fs.write_json(path, record("quiz", {"quiz": task(BETTER, version=2.0)}), replace=True)
    table = benchmarks.side_by_side(project, compare(texts(project)))
    assert table.difference(table.lines[1], 1) is None
    assert "quiz of variant at 12,288 tokens is not compared with trunk" in table.mismatches()[0]


def test_a_report_tells_the_scores(project: Project) -> None:
    html = render(project, ["trunk", "variant"], "full")
    assert '<section id="tasks"' in html
    assert "Scores of tasks" in html
    assert "0.7500" in html
    assert "lm-eval 0.4.13" in html


def test_scores_of_one_lineage_fit_a_terminal(project: Project) -> None:
    known = by_point(project, [texts(project)[0].compiled], artifacts_benchmarks.read_scores)
    console = Console(width=80, record=True)
    console.print(scores_view(list(known.items())))
    text = console.export_text()
    assert "trunk/cooldown at 12,288 tokens" in text
    assert "0.6250 ±" in text
