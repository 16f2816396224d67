"""A run that knows how long it may take to end saves when that suffices, and says beforehand when it does not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import commands
import pytest
from projects import TRUNK
from small import ALONE

from curriculum.artifacts import checkpoints, jobs, timing
from curriculum.artifacts.job_process import StopFlag
from curriculum.artifacts.stage_folder import Attempt, StageFolder
from runner.train.grace import Grace

LONG = (
    TRUNK.partition("stages:")[0] + "stages:\n  - {name: on, until: 4194304, mixture: prose-only, batch: 8 sequences}\n"
)


def steps(stage: Path) -> int:
    path = stage / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def ended_by(project: Path, ready: Callable[[], bool], end: Callable[[commands.Started], None]) -> tuple[int, str]:
    """The exit status of a run that `end` ends once it is `ready`, and what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (project / "printed").open("w+") as out:
        streams = {"out": out.fileno(), "err": out.fileno()}
        process = commands.start("run", "trunk", "--size", "full", folder=project, environment=environment, **streams)
        try:
            deadline = time.monotonic() + 90
            while not ready() and time.monotonic() < deadline:
                time.sleep(0.005)
            end(process)
            code = process.wait(60)
        finally:
            process.kill()
        return code, " ".join((project / "printed").read_text().split())


def terminate(process: commands.Started) -> None:
    process.send_signal(signal.SIGTERM)


@pytest.mark.processes
@pytest.mark.promise(
    "A save that the preemption grace would cut off is not started, and the run announces it beforehand"
)
def test_a_save_that_the_grace_would_cut_off_is_not_started_and_the_run_says_so_before(
    prepared_project: Path, curriculum: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (prepared_project / "stages/trunk.yaml").write_text(LONG)
    (prepared_project / "mixtures/prose-only.yaml").write_text("weights: {prose: 1}\npasses: {prose: 228}\n")
    (prepared_project / "machines.yaml").write_text("local: {launcher: process, device: cpu, threads: 1, grace: 60}\n")
    stage = prepared_project / "runs/full/trunk/on"
    first = stage / "attempts/0001/timing.json"

    code, said = ended_by(prepared_project, lambda: first.exists() and steps(stage) > 11, terminate)
    last = checkpoints.latest(StageFolder(stage))
    assert (code, "not saved" in said) == (130, False), said
    assert last is not None
    assert last.position == json.loads((stage / "metrics.jsonl").read_text().splitlines()[-1])["position"]
    shown = curriculum(prepared_project, "plan", "trunk", "--size", "full").stdout
    assert "the grace is" not in shown

    pace = json.loads(first.read_text())
    assert 0 < pace["save_seconds"] < 60
    first.write_text(json.dumps({**pace, "save_seconds": 500.0}))
    slow = LONG.replace("checkpoint: 1024 tokens", "checkpoint: 2097152 tokens")
    (prepared_project / "stages/trunk.yaml").write_text(slow)
    words = "0 + 500.0 s, and the grace is 60 s: a terminated run resumes from the last checkpoint"
    shown = " ".join(curriculum(prepared_project, "plan", "trunk", "--size", "full").stdout.split())
    assert words.partition(" + ")[2] in shown
    shown = " ".join(curriculum(prepared_project, "status", "trunk", "--size", "full").stdout.split())
    assert words.partition(" + ")[2] in shown

    before = steps(stage)
    code, said = ended_by(prepared_project, lambda: steps(stage) > before + 3, terminate)
    assert code == 130
    assert said.index("the grace is 60 s") < said.index("not saved: of 60 s of grace")
    assert "and a save takes 500.0 s; it resumes from its last checkpoint" in said
    assert checkpoints.latest(StageFolder(stage)) == last

    def ask(_: commands.Started) -> None:  # no kill follows, so there is time
        curriculum(prepared_project, "stop", "trunk", "--size", "full")

    environment = stage / "attempts/0003/environment.json"
    code, said = ended_by(prepared_project, lambda: environment.exists() and steps(stage) > before + 3, ask)
    assert (code, "not saved" in said) == (130, False), said
    newest = checkpoints.latest(StageFolder(stage))
    assert newest is not None
    assert newest.position > last.position


def grace_of(stage: Path, attempt: str, seconds: float | None) -> Grace:
    (folder := stage / "attempts" / attempt).mkdir(parents=True)
    job = jobs.TrainJob(
        plan="none",
        stage_folder=str(stage),
        attempt_folder=str(folder),
        data={},
        held_out={},
        parent_checkpoint=None,
        generation=0,
        checkpoint_every=1024,
        evaluate_every=0,
        machine=jobs.Machine(grace=seconds),
    )
    return Grace(job, ALONE)


def test_the_longest_of_the_last_saves_is_what_the_next_one_takes_also_in_the_next_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    grace, stop = grace_of(tmp_path, "0001", 60.0), StopFlag()
    grace.saved(7.0, copied=True)
    assert timing.newest_timing(StageFolder(tmp_path)) is None, (
        "no step was taken, and a save without one says too little"
    )
    with grace.step():
        clock[0] += 2.5004
    for seconds in (50.25, 41.0, 40.125):
        grace.saved(seconds, copied=False)
    written = timing.SaveTiming(step_seconds=2.5, save_seconds=50.25, every=1024, grace=60.0, copied=False)
    assert timing.of_attempt(Attempt(tmp_path / "attempts/0001")) == written

    again = grace_of(tmp_path, "0002", 60.0)
    assert again.insufficient(stop) is None, "nobody kills"
    stop.receive(signal.SIGTERM)
    for name, limit in (("without", None), ("exact", 50.25)):
        assert grace_of(tmp_path, name, limit).insufficient(stop) is None
    clock[0] += 20.0
    assert again.insufficient(stop) == "of 60 s of grace 40.0 were left, and a save takes 50.2 s"
    grace.saved(40.0, copied=False)  # three later than the longest
    assert grace.insufficient(stop) == "of 60 s of grace 40.0 were left, and a save takes 41.0 s"
    clock[0] += 50.0
    assert again.insufficient(stop) == "of 60 s of grace 0.0 were left, and a save takes 50.2 s"
