"""What torchrun hides or cannot do, the supervisor knows from files and does itself."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from curriculum.launchers import local
from curriculum.supervisor import Launch, StopRequested, supervise


def launches(folder: Path, *outcomes: str | None) -> list[Path]:
    """Attempt folders of processes that all end with code 1, as torchrun does after a signal."""
    attempts = []
    for number, outcome in enumerate(outcomes):
        attempt = folder / f"{number:04d}"
        attempt.mkdir()
        if outcome is not None:
            (attempt / "outcome.json").write_text(json.dumps({"outcome": outcome, "position": number}))
        attempts.append(attempt)
    return attempts


def watched(attempts: list[Path], reached: list[int]) -> tuple[dict[str, object], int]:
    waiting = iter(attempts)
    started = []

    def launch() -> Launch:
        attempt = next(waiting)
        started.append(attempt)
        return Launch(subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"]), attempt)

    outcome = supervise(
        launch,
        stop=StopRequested(),
        ask_to_stop=local.stop,
        kill=local.kill,
        progress=lambda: reached[min(len(started), len(reached) - 1)],
    )
    return outcome, len(started)


def test_a_job_that_saved_and_stopped_is_known_by_its_file_though_torchrun_ends_with_code_1(
    tmp_path: Path,
) -> None:
    outcome, started = watched(launches(tmp_path, "stopped"), [0])
    assert (outcome["outcome"], started) == ("stopped", 1)


def test_a_crash_is_followed_by_a_fresh_launch_in_a_fresh_folder(tmp_path: Path) -> None:
    outcome, started = watched(launches(tmp_path, None, "done"), [0, 10, 20])
    assert (outcome["outcome"], started) == ("done", 2)


def test_torchrun_is_never_asked_to_restart_workers_itself() -> None:
    words = local.command(Path("job.json"), 2)
    assert "torch.distributed.run" in words
    assert not [word for word in words if "restart" in word], "its restarts do not recover on gloo"
    assert "--standalone" in words


def test_a_rank_that_writes_its_stacks_is_ended_with_all_below_it_and_started_again(tmp_path: Path) -> None:
    first, second = launches(tmp_path, None, "done")
    sleeper = tmp_path / "sleeper"
    code = (
        "import os, subprocess, sys, time; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True); "
        f"open({str(sleeper)!r}, 'w').write(str(child.pid)); "
        f"open({str(first / 'stacks-rank1.txt')!r}, 'w').write('Thread 0x1'); time.sleep(60)"
    )
    waiting = iter((first, second))

    def launch() -> Launch:
        attempt = next(waiting)
        words = [sys.executable, "-c", code if attempt == first else "raise SystemExit(0)"]
        return Launch(subprocess.Popen(words, start_new_session=True), attempt)

    began = time.monotonic()
    outcome = supervise(
        launch,
        stop=StopRequested(),
        ask_to_stop=local.stop,
        kill=local.kill,
        progress=lambda: int(time.monotonic() > began),
    )
    assert outcome["outcome"] == "done"
    assert time.monotonic() - began < 30
    stat = Path(f"/proc/{sleeper.read_text()}/stat")
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"
