"""What a display says of a job that trains nothing, from the lines of progress that the job has appended."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest
from rich.console import Console

from curriculum.cli.progress import RunDisplay


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def line(tokens: int, *, task: int | None = 0, **more: object) -> str:
    """A line of progress: compressed files do not say how much they hold."""
    counts = {"documents": 9, "tokens": tokens, "bytes": 4 * tokens, "total_bytes": None, "done": task is None}
    return json.dumps({"task": task, **counts, **more}) + "\n"


def test_a_preparation_ends_with_its_tokens_over_all_its_time(tmp_path: Path, clock: list[float]) -> None:
    path, out = tmp_path / "progress.jsonl", io.StringIO()
    display = RunDisplay(Console(file=out, width=200))
    display.job_started("a", path)
    clock[0] += 2
    path.write_text(line(6000))
    display.tick()
    clock[0] += 4
    other = {"ending in .rst": (2, "x.rst")}
    found = {"unread": {"empty": (1, "v.txt")}, "other_endings": other, "repeated_ids": {"train": (1200, "a/1")}}
    path.write_text(line(6000) + line(6000, task=None, **found))
    display.job_done("a")
    assert "6k tokens, 6.0 s, 1k tokens/s" in out.getvalue().replace("6 s", "6.0 s")
    assert " 0 tokens/s" not in out.getvalue()
    assert "a: left out, since they are no text: 1 empty (the first: v.txt)\n" in out.getvalue()
    assert "a: not read, as `files` does not name them: 2 ending in .rst (the first: x.rst)\n" in out.getvalue()
    assert "a: 1,200 documents of train have an id that an earlier one has, as `a/1`; all are kept" in out.getvalue()


def test_a_job_without_a_document_yet_says_how_long_it_takes(tmp_path: Path, clock: list[float]) -> None:
    out = io.StringIO()
    display = RunDisplay(Console(file=out, width=200))
    display.job_started("tokenizer small", None)
    display.tick()
    clock[0] += 7
    display.tick()
    assert out.getvalue().splitlines() == ["preparing tokenizer small", "  tokenizer small: 7 s"]


def test_a_preparation_says_how_much_is_read_what_is_expected_and_how_long_it_takes(
    tmp_path: Path, clock: list[float]
) -> None:
    path, out = tmp_path / "progress.jsonl", io.StringIO()
    display = RunDisplay(Console(file=out, width=300), every_seconds=0)
    display.job_started("a", path)
    path.write_text(line(1000, total_bytes=40_000))
    display.tick()
    clock[0] += 10
    path.write_text(line(3000, total_bytes=40_000))
    display.tick()
    first, second = out.getvalue().splitlines()[1:]
    assert first.startswith("  a: 9 documents, 1k tokens, 4 kB of 40 kB (10%) read, ")
    assert " left" not in first  # nothing is known of its pace
    assert second == (
        "  a: 9 documents, 3k tokens, 12 kB of 40 kB (30%) read, 10 s, 200 tokens/s; "
        "of about 30 documents, 10k tokens, 35 s left"
    )
