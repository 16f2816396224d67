"""Every published figure's command still runs, at toy size, and names everything that it compares."""

from __future__ import annotations

import json
import os
from pathlib import Path

import commands
import pytest

pytestmark = [pytest.mark.processes, pytest.mark.promise("The command of every published figure still runs")]

ROOT = Path(__file__).resolve().parents[1]


def run(folder: Path, *words: str) -> tuple[str, dict[str, list[dict[str, object]]]]:
    """What `python -m WORDS` prints and writes; it and what it starts are forked."""
    out, printed = folder / "out.json", folder / "printed"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with printed.open("w") as file:
        streams = {"out": file.fileno(), "err": file.fileno()}
        started = commands.start_python(
            "-m", *words, "--toy", "--json", str(out), folder=ROOT, environment=environment, **streams
        )
        code = started.wait(300)
    said = printed.read_text()
    assert code == 0, said
    return said, json.loads(out.read_text())


@pytest.mark.parametrize(
    ("command", "tables", "goals"),
    [
        ("bench.plan", 1, 3),
        ("bench.order", 3, 3),
        ("bench.save", 5, 4),
        ("bench.update", 1, 1),
        ("bench.studies", 1, 1),
        ("bench.documents", 1, 1),
        ("bench.overlap", 1, 1),
    ],
)
def test_a_figure_is_measured_in_turns_beside_its_limit_with_median_and_spread(
    tmp_path: Path, command: str, tables: int, goals: int
) -> None:
    said, found = run(tmp_path, command)
    assert len(found) == tables
    assert said.count("goal: ") == goals
    for rows in found.values():
        assert len({len(row["values"]) for row in rows}) == 1, "all took as many turns"  # type: ignore[arg-type]
        for row in rows:
            assert str(row["name"]) in said
    first = next(iter(found.values()))
    assert any(word in str(row["name"]) for row in first for word in ("limit", "RandomSampler", "torch's"))


def test_reading_is_measured_beside_peers_and_an_absent_one_is_named(tmp_path: Path) -> None:
    peers = "datatrove folder dataset (nanotron),Megatron-core"
    said, found = run(tmp_path, "bench.reader", "--peers", peers)
    (rows,) = found.values()
    by_name = {str(row["name"]): row for row in rows}
    for name in ("limit: bare gather, widened", "ours, read ahead by a thread", peers.split(",")[0]):
        assert by_name[name]["values"], by_name[name]
    absent = by_name["Megatron-core"]
    assert absent["values"] or "not measured: " in said


def test_a_model_is_trained_killed_resumed_exported_and_measured_by_transformers(tmp_path: Path) -> None:
    said, _ = run(tmp_path, "bench.full_size")
    assert said.count("goal: ") == said.count(": kept") == 3


def test_laws_are_ranked_beside_a_linear_one_and_trees_that_may_be_absent(tmp_path: Path) -> None:
    said, found = run(tmp_path, "bench.laws")
    (rows,) = found.values()
    ranks = {str(row["name"]): row["values"] for row in rows}
    assert ranks["log-linear"] > ranks["linear"]
    assert ranks["LightGBM"] or "not measured: " in said


def test_planted_shares_are_looked_for_in_the_intervals_of_both_laws(tmp_path: Path) -> None:
    said, found = run(tmp_path, "bench.planted")
    (rows,) = found.values()
    assert [row["name"] for row in rows] == ["log-linear", "own-share-power"]
    assert all(len(row["values"]) == 3 for row in rows), "one share of each source"  # type: ignore[arg-type]
    assert said.count("goal: ") == 1


@pytest.mark.parametrize(
    ("command", "planned"), [("bench.trial", "17 runs and 1 more trunk"), ("bench.forecast", "constant")]
)
def test_what_the_trial_and_the_forecast_would_train_is_planned(tmp_path: Path, command: str, planned: str) -> None:
    said, _ = run(tmp_path, command, "--folder", str(tmp_path / "project"))
    assert planned in said
    assert not (tmp_path / "project/runs").exists()


def test_the_stream_is_measured_beside_our_trainer_s_reader_and_a_loader_of_as_many_workers(tmp_path: Path) -> None:
    said, found = run(tmp_path, "bench.stream")
    assert said.count("goal: ") == 6
    assert [len(rows) for rows in found.values()] == [3, 3, 5, 1]
    assert all(row["values"] for rows in found.values() for row in rows)
