"""Every published figure's command still runs, at toy size, and names everything that it compares."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.processes, pytest.mark.promise("The command of every published figure still runs")]

ROOT = Path(__file__).resolve().parents[1]


def run(folder: Path, *words: str) -> tuple[str, dict[str, list[dict[str, object]]]]:
    out = folder / "out.json"
    done = subprocess.run(
        [sys.executable, "-m", *words, "--toy", "--json", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(out.read_text())


@pytest.mark.parametrize(
    ("command", "tables", "goals"),
    [("bench.plan", 1, 3), ("bench.order", 3, 3), ("bench.save", 4, 3), ("bench.update", 1, 1)],
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
        peers = ("limit", "RandomSampler", "torch's")
        assert any(peer in str(row["name"]) for row in rows for peer in peers)


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


def test_the_stream_is_measured_beside_our_trainer_s_reader_and_a_loader_of_as_many_workers(tmp_path: Path) -> None:
    said, found = run(tmp_path, "bench.stream")
    assert said.count("goal: ") == 6
    assert [len(rows) for rows in found.values()] == [3, 3, 5, 1]
    assert all(row["values"] for rows in found.values() for row in rows)
