"""What torchrun hides or cannot do, the supervisor knows from files and does itself."""

from __future__ import annotations

import json
import subprocess
import sys
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
