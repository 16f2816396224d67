"""Thinning keeps what matters: every extreme, the ends, the same points each time; a million lines in seconds."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from pretend_runs import metrics_line

from curriculum.errors import DataError
from curriculum.report.html.series import thinned as thin, training

LOSSES = st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=1, max_size=400)


def thinned(losses: list[float], buckets: int) -> tuple[tuple[int, float], ...]:
    return thin(range(1, len(losses) + 1), losses, 0, len(losses), buckets)


@given(LOSSES, st.integers(1, 20))
def test_thinning_keeps_the_lowest_the_highest_and_both_ends(losses: list[float], buckets: int) -> None:
    points = thinned(losses, buckets)
    every = list(zip(range(1, len(losses) + 1), losses, strict=True))
    assert set(points) <= set(every)
    assert min(loss for _, loss in points) == min(losses)
    assert max(loss for _, loss in points) == max(losses)
    assert points[0] == every[0]
    assert points[-1] == every[-1]
    assert [position for position, _ in points] == sorted({position for position, _ in points})


@given(LOSSES, st.integers(1, 20))
def test_thinning_keeps_few_of_many_and_all_of_few(losses: list[float], buckets: int) -> None:
    points = thinned(losses, buckets)
    assert len(points) <= 2 * buckets + 2
    if len(losses) <= 2 * buckets:
        assert len(points) == len(losses)


def test_a_spike_of_one_step_among_thousands_is_kept() -> None:
    losses = [3.0] * 50_000
    losses[31_415] = 9.9
    assert (31_416, 9.9) in thinned(losses, 50)


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_line_that_is_not_whole_yet_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "metrics.jsonl", [metrics_line(0, 10, 5.0), metrics_line(1, 20, 4.0)])
    with path.open("a") as file:
        file.write('{"step": 2, "posi')
    found = training(path, start=0, stop=100, buckets=10, window=10)
    assert found.raw == ((10, 5.0), (20, 4.0))
    assert found.seconds == 0.5


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "metrics.jsonl", [metrics_line(0, 10, 5.0), '{"position": "x"}', metrics_line(2, 30, 4.0)])
    with pytest.raises(DataError, match=r"`metrics.jsonl` line 2 of .* is not a record of training"):
        training(path, start=0, stop=100, buckets=10, window=10)


@pytest.mark.parametrize("word", ["nan", "inf"])
def test_a_loss_that_is_no_number_is_counted_and_not_drawn(tmp_path: Path, word: str) -> None:
    lines = [metrics_line(0, 10, 5.0), metrics_line(1, 20, word), metrics_line(2, 30, math.inf)]
    found = training(write(tmp_path / "m.jsonl", lines), start=0, stop=100, buckets=10, window=10)
    assert found.raw == ((10, 5.0),)
    assert (found.lines, found.not_finite, found.last) == (3, 2, 30)


def test_the_smoothed_line_is_a_mean_and_forgets_with_the_window(tmp_path: Path) -> None:
    flat = write(tmp_path / "flat.jsonl", [metrics_line(n, 10 * n + 10, 4.0) for n in range(200)])
    assert all(
        loss == pytest.approx(4.0) for _, loss in training(flat, start=0, stop=2000, buckets=99, window=100).smooth
    )
    stair = write(tmp_path / "stair.jsonl", [metrics_line(n, 10 * n + 10, 4.0 if n < 100 else 3.0) for n in range(200)])
    smooth = dict(training(stair, start=0, stop=2000, buckets=199, window=100).smooth)
    assert smooth[1000] == pytest.approx(4.0)
    # one window past the step down, 1/e of it is left
    assert smooth[1100] == pytest.approx(3.0 + math.exp(-1), abs=0.01)


@pytest.mark.promise("A report stays below a megabyte, also of a run of a million steps")
@pytest.mark.slow
def test_a_million_lines_take_seconds_and_few_points(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    template = metrics_line(-1, -2, -3.5)
    before, middle, rest = (part for cut in [template.partition("-1")] for part in (cut[0], *cut[2].split("-2", 1)))
    between, after = rest.split("-3.5", 1)
    with path.open("w") as file:
        for n in range(1_000_000):
            loss = 1.25 if n == 654_321 else 3 + (n * 7919 % 1000) / 1000
            file.write(f"{before}{n}{middle}{(n + 1) * 2048}{between}{loss}{after}\n")
    started = time.process_time()
    found = training(path, start=0, stop=2_048_000_000, buckets=700, window=20_480_000)
    assert time.process_time() - started < 60  # seconds of one core; about ten
    assert found.lines == 1_000_000
    assert len(found.raw) <= 1402
    assert (654_322 * 2048, 1.25) in found.raw


def test_the_peak_of_memory_is_the_largest_of_all_attempts_and_none_where_no_line_has_it(tmp_path: Path) -> None:
    lines = [metrics_line(step, 10 + 10 * step, 5.0) for step in range(3)]
    assert training(write(tmp_path / "none", lines), start=0, stop=100, buckets=10, window=10).memory is None
    lines[1] = json.dumps(json.loads(lines[1]) | {"memory_bytes": 7 << 30})
    lines[2] = json.dumps(json.loads(lines[2]) | {"memory_bytes": 5 << 30})  # an attempt on another machine
    assert training(write(tmp_path / "some", lines), start=0, stop=100, buckets=10, window=10).memory == 7 << 30
