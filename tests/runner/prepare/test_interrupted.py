"""Preparation that is killed, stopped, shared or runs out of disk goes on, and ends in the same bytes."""

from __future__ import annotations

import errno
import gzip
import json
import os
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import commands
import pytest
from texts import digests, write_texts

import runner.prepare.job
import runner.prepare.shard_writer
from curriculum import fs
from curriculum.artifacts import jobs
from curriculum.artifacts.stage_folder import new_attempt
from curriculum.data.manifest import HELD_OUT, TRAIN, text_hash
from curriculum.data.progress import read_progress
from curriculum.errors import Busy, DataError
from curriculum.launchers.process import ProcessLauncher
from runner.prepare.job import prepare


@pytest.mark.promise(
    "Preparation writes the same bytes with any number of workers, repeats no finished task, and resumes "
    "after a kill to the same bytes"
)
def test_finished_work_is_not_touched_again(tmp_path: Path, request_for: Any) -> None:
    write_texts(tmp_path / "texts", 40)
    request = request_for()
    prepare(request)
    stats = {path: path.stat() for path in sorted(Path(request.output).rglob("*"))}
    (tmp_path / "texts" / "0000.txt").unlink()
    prepare(request)
    assert {path: path.stat() for path in sorted(Path(request.output).rglob("*"))} == stats


def start(code: str, *words: str, folder: Path, out: int = 1) -> commands.Started:
    return commands.start_python("-c", code, *words, folder=folder, environment=os.environ, out=out, err=2)


KILLED = """
import json, sys
from curriculum import fs
from curriculum.data.requests import PrepareRequest
from runner.prepare.job import prepare
print("ready", flush=True)
prepare(fs.from_json(PrepareRequest, json.load(open(sys.argv[1]))))
"""


@pytest.mark.promise(
    "Preparation writes the same bytes with any number of workers, repeats no finished task, and resumes "
    "after a kill to the same bytes"
)
@pytest.mark.processes
def test_killed_half_way_it_goes_on_and_ends_in_the_same_bytes(tmp_path: Path, request_for: Any) -> None:
    write_texts(tmp_path / "texts", 60, words=6000)
    request = request_for(tasks=20, workers=2)
    (tmp_path / "request.json").write_text(json.dumps(asdict(request)))
    partial = Path(f"{request.output}.partial")
    process = start(KILLED, str(tmp_path / "request.json"), folder=tmp_path)
    while process.poll() is None and len(list(partial.glob("completions/*"))) < 3:
        time.sleep(0.002)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    assert not Path(request.output).exists()
    done = sorted(path.name for path in partial.glob("completions/*"))
    assert 3 <= len(done) < 20
    finished = {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns)
        for name in done
        for path in (partial / "tasks" / name / TRAIN).glob("*.ds")
    }
    prepare(request)
    for name, (inode, changed) in finished.items():
        after = (Path(request.output) / TRAIN / name).stat()
        assert (after.st_ino, after.st_mtime_ns) == (inode, changed)
    uninterrupted = replace(request, output=str(tmp_path / "uninterrupted"))
    prepare(uninterrupted)
    assert digests(request.output) == digests(uninterrupted.output)


def test_a_half_written_task_is_started_again(tmp_path: Path, request_for: Any) -> None:
    write_texts(tmp_path / "texts", 40)
    request, whole = request_for(), request_for(output=str(tmp_path / "whole"))
    prepare(whole)
    partial = Path(f"{request.output}.partial")
    (tmp_path / "texts" / "0001.txt").rename(tmp_path / "kept.txt")
    (tmp_path / "texts" / "0001.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError):
        prepare(request)
    (tmp_path / "texts" / "0001.txt").unlink()
    (tmp_path / "kept.txt").rename(tmp_path / "texts" / "0001.txt")
    leftover = partial / "tasks" / "00001" / TRAIN
    leftover.mkdir(parents=True)
    (leftover / "00001.ds").write_bytes(b"half")
    prepare(request)
    assert digests(request.output) == digests(whole.output)


def test_a_failed_task_says_which_file_and_mending_it_costs_only_that_task(tmp_path: Path, request_for: Any) -> None:
    write_texts(tmp_path / "texts", 9)
    broken = tmp_path / "texts" / "broken.jsonl.gz"
    broken.write_bytes(b"not packed")
    request = request_for(tasks=10, held_out=None)
    stale = {"task": None, "documents": 9, "tokens": 9, "bytes": 9, "total_bytes": 9, "done": True}
    Path(request.progress).parent.mkdir()
    Path(request.progress).write_text(json.dumps(stale) + "\n")
    with pytest.raises(DataError, match=r"broken\.jsonl\.gz` cannot be read to its end"):
        prepare(request)
    partial = Path(f"{request.output}.partial")
    done = {path.name: path.stat().st_ino for path in partial.glob("tasks/*/*/*.ds")}
    assert len(list(partial.glob("completions/*"))) == 9
    progress = read_progress(Path(request.progress))
    assert (progress.done, progress.documents) == (False, 9)
    broken.write_bytes(gzip.compress(b'{"text": "mended"}\n'))
    prepare(request)
    made = {path.name: path.stat().st_ino for path in Path(request.output).rglob("*.ds")}
    assert len(made) == 10
    assert made.items() > done.items()


def test_a_task_whose_files_changed_is_done_again(tmp_path: Path, request_for: Any) -> None:
    write_texts(tmp_path / "texts", 10, words=2000)
    broken = tmp_path / "texts" / "broken.parquet"
    broken.write_bytes(b"PAR1")
    request = request_for(tasks=11)
    with pytest.raises(DataError, match=r"broken\.parquet"):
        prepare(request)
    broken.unlink()
    (tmp_path / "texts" / "0000.txt").write_text("another text of another length")
    prepare(request)
    fresh = replace(request, output=str(tmp_path / "fresh"))
    prepare(fresh)
    assert digests(request.output) == digests(fresh.output)


@pytest.mark.parametrize("changed", [False, True])
def test_a_stop_while_the_shards_are_brought_together_loses_and_mixes_nothing(
    tmp_path: Path, request_for: Any, monkeypatch: pytest.MonkeyPatch, changed: bool
) -> None:
    write_texts(tmp_path / "texts", 40)
    request = request_for(tasks=4)
    moved = []
    original = os.rename

    def rename(source: Any, target: Any) -> None:
        moved.append(target)
        if len(moved) > 31:  # all of train, and the first of what is held out
            raise KeyboardInterrupt
        original(source, target)

    monkeypatch.setattr(runner.prepare.job.os, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        prepare(request)
    monkeypatch.undo()
    assert Path(f"{request.output}.partial", "data", HELD_OUT, "00000.ds").exists()
    if changed:  # the first task no longer holds anything out
        below = request.held_out_share * 2**64
        texts = (text for n in range(1000) if text_hash((text := f"text {n}").encode()) >= below)
        for path in sorted((tmp_path / "texts").iterdir())[::4]:
            path.write_text(next(texts))
    prepare(request)
    whole = replace(request, output=str(tmp_path / "whole"))
    prepare(whole)
    assert digests(request.output) == digests(whole.output)


def test_two_processes_do_not_prepare_the_same_folder_at_once(tmp_path: Path, request_for: Any) -> None:
    write_texts(tmp_path / "texts", 40)
    request = request_for()
    partial = Path(f"{request.output}.partial")
    partial.mkdir(parents=True)
    with fs.Lock(partial / "lock", "the test"), pytest.raises(Busy, match="preparing `texts`"):
        prepare(request)
    prepare(request)


HELPING = """
import sys
from pathlib import Path
from curriculum import fs
from curriculum.data.requests import PrepareRequest
import json, runner.prepare.shard_writer as writer
if len(sys.argv) > 2:  # hold a task half-way for ever
    real = writer.ShardWriter._write
    def hold(self, batch):
        real(self, batch)
        print("half-way", flush=True)
        import time
        time.sleep(600)
    writer.ShardWriter._write = hold
from runner.prepare.job import help_to_prepare
help_to_prepare(fs.from_json(PrepareRequest, json.loads(Path(sys.argv[1]).read_text())))
"""


@pytest.mark.promise("Slurm jobs, local processes and a single process prepare the same bytes")
@pytest.mark.processes
def test_helpers_share_the_tasks_a_killed_one_s_task_is_done_again_alone_and_the_bytes_are_the_same(
    tmp_path: Path, request_for: Any
) -> None:
    write_texts(tmp_path / "texts", 40)
    plain = request_for(tasks=4, output=str(tmp_path / "data" / "alone"))
    prepare(plain)
    request = request_for(tasks=4)
    path = tmp_path / "request.json"
    path.write_text(json.dumps(asdict(request)))
    with (tmp_path / "said").open("w+") as said:
        held = start(HELPING, str(path), "hold", folder=tmp_path, out=said.fileno())
        while held.poll() is None and "half-way" not in (tmp_path / "said").read_text():
            time.sleep(0.01)
    commands.python("-c", HELPING, str(path), folder=tmp_path, check=True)  # leaves the held task alone
    partial = Path(f"{request.output}.partial")
    finished = {p.name for p in (partial / "completions").iterdir()}
    assert len(finished) == 3
    stamps = {name: (partial / "tasks" / name / "task.json").stat().st_mtime_ns for name in finished}
    with pytest.raises(Busy, match="held by another process"):
        prepare(request)
    held.kill()
    assert held.wait(60) == -signal.SIGKILL
    assert {n: (partial / "tasks" / n / "task.json").stat().st_mtime_ns for n in finished} == stamps
    prepare(request)
    assert not partial.exists()
    same = digests(plain.output)
    assert digests(request.output) == same


@pytest.mark.promise("A stop ends the preparation of text within two seconds, also in the middle of a long word")
@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_asked_to_stop_in_native_work_it_ends_at_once_and_goes_on_later(
    tmp_path: Path, request_for: Any, number: signal.Signals
) -> None:
    write_texts(tmp_path / "texts", 40)
    (tmp_path / "texts" / "9999.txt").write_text("acgt" * 20_000_000)
    request = request_for(tasks=2, held_out=None)
    attempt = new_attempt(tmp_path / "attempts")
    jobs.save(jobs.PrepareJob(attempt_folder=str(attempt), request=request), attempt.job)
    process = ProcessLauncher(1, 1).start(attempt)
    while process.poll() is None and not Path(f"{request.output}.partial", "tasks", "00000").exists():
        time.sleep(0.01)
    time.sleep(0.5)
    asked = time.monotonic()
    process.send_signal(number)
    assert process.wait(timeout=60) == -number
    assert time.monotonic() - asked < 2
    (tmp_path / "texts" / "9999.txt").write_text("acgt" * 100)
    prepare(request)
    prepare(alone := request_for(tasks=2, held_out=None, output=str(tmp_path / "data" / "alone")))
    assert digests(request.output) == digests(alone.output)


def test_a_disk_that_fills_costs_the_task_that_met_it_and_the_same_request_goes_on(
    tmp_path: Path, request_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_texts(tmp_path / "texts", 40)
    request = request_for(tasks=4)
    real = runner.prepare.shard_writer._Part.add

    def full(self: Any, *words: Any) -> None:
        if self.path.name == "00002.ds":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, *words)

    with monkeypatch.context() as patch:
        patch.setattr(runner.prepare.shard_writer._Part, "add", full)
        with pytest.raises(OSError, match="No space left"):
            prepare(request)
    partial = Path(f"{request.output}.partial")
    finished = {p.name for p in (partial / "completions").iterdir()}
    assert "00002" not in finished
    assert finished >= {"00000", "00001"}
    stamps = {n: (partial / "tasks" / n / "task.json").read_bytes() for n in finished}
    assert all(stamps.values())
    prepare(request)
    prepare(request_for(tasks=4, output=str(tmp_path / "data" / "alone")))
    assert digests(request.output) == digests(tmp_path / "data" / "alone")
