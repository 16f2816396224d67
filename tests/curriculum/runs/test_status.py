"""How far everything is, and watching it from elsewhere: the tree, and a follower that harms nothing."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import commands
import pytest
from rich.console import Console
from terminal import on_a_terminal

from curriculum import fs
from curriculum.artifacts import checkpoints, ledger
from curriculum.artifacts.metrics import LiveMetrics, MetricsTail, last_record
from curriculum.artifacts.stage_folder import StageFolder, checkpoint_name
from curriculum.cli.view.status import status_view
from curriculum.cli.view.training import training_line
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.init import init
from curriculum.config.project import Project
from curriculum.runs.status import project_status

Curriculum = Callable[..., "subprocess.CompletedProcess[str]"]
FULL = ("--size", "full")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@dataclass
class Following:
    """A command that runs, and what it shows."""

    process: commands.Started
    shown: IO[str]

    def leave(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


def started(project: Path, *words: str) -> Following:
    reader, writer = os.pipe()
    process = commands.start(*words, folder=project, environment=ENVIRONMENT, out=writer, err=writer)
    os.close(writer)
    return Following(process, open(reader))


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


# --- the tree ------------------------------------------------------------------------------------------------


def test_a_project_in_which_nothing_ran_is_planned_with_its_trunk_counted_once(small_project: Path) -> None:
    now = project_status(Project(small_project), "full")
    assert [branch.name for branch in now.branches] == ["trunk", "variant"]
    assert {stage.state for branch in now.branches for stage in branch.stages} == {"planned"}
    assert now.branches[1].parent == "trunk/basic"
    assert now.branches[1].begins_at == 6144
    assert now.branches[0].stages[0].shared_by == ("trunk", "variant")
    assert (now.planned, now.done, now.saved) == (12288 + 6144, 0, 6144)
    assert not (small_project / "runs").exists()


def test_the_tree_tells_done_from_started_and_planned_with_checkpoints_pins_and_losses(project: Path) -> None:
    cooldown = project / "runs/full/variant/cooldown"
    (cooldown / "DONE").unlink()
    last = checkpoints.latest(StageFolder(cooldown))
    assert last is not None
    shutil.rmtree(last.path)
    pins = project / "runs/full/trunk/basic/pins"
    (pins / f"{6144:016d}").mkdir(parents=True)
    (pins / f"{6144:016d}" / "variant.json").write_text("{}")
    (pins / f"{2048:016d}").mkdir()
    (pins / f"{2048:016d}" / "gone.json").write_text("{}")
    now = project_status(Project(project), "full")
    stages = {stage.name: stage for branch in now.branches for stage in branch.stages}
    assert stages["trunk/basic"].state == "done"
    assert stages["trunk/continual"].state == "planned"
    assert stages["variant/continual"].state == "done"
    started = stages["variant/cooldown"]
    assert started.state == "started"
    assert started.starts_at <= started.position < 12288
    kept = stages["trunk/basic"].checkpoints
    assert kept[-1].position == 6144
    assert kept[-1].pinned_by == ("variant",)
    assert not any(entry.pinned_by for entry in kept[:-1])
    assert stages["trunk/basic"].pins_without_checkpoint == (2048,)
    assert set(stages["trunk/basic"].held_out) == {"code", "prose"}
    assert stages["trunk/basic"].held_out_at == 6144
    assert now.done == started.position
    assert now.saved == 6144


def test_a_named_curriculum_shows_its_lineage_as_far_as_it_goes(project: Path) -> None:
    (project / "stages/early.yaml").write_text("from: trunk@2048\nstages: [{name: own, until: 4096}]\n")
    now = project_status(Project(project), "full", "early")
    assert [branch.name for branch in now.branches] == ["early", "trunk"]
    assert [stage.name for branch in now.branches for stage in branch.stages] == ["early/own", "trunk/basic"]
    assert (now.planned, now.done, now.saved) == (4096, 2048, 0)


def test_work_whose_stage_file_is_gone_and_files_that_are_refused_are_listed(
    project: Path, curriculum: Curriculum
) -> None:
    (project / "stages/variant.yaml").unlink()
    (project / "stages/broken.yaml").write_text("from: nowhere\nstages: [{name: a, until: 1B}]\n")
    now = project_status(Project(project), "full")
    assert [(run.folder, run.position) for run in now.orphaned_runs] == [
        ("runs/full/variant/continual", 9216),
        ("runs/full/variant/cooldown", 12288),
    ]
    (refused,) = now.refused
    assert refused.name == "broken"
    assert "does not exist" in refused.why
    shown = curriculum(project, "status", *FULL).stdout
    assert "runs/full/variant/continual  no stage file names it any more: at 9,216 of 9,216 tokens" in shown
    assert "broken  refused: `broken` branches from `nowhere`, which does not exist (stages/broken.yaml:1:7)" in shown


PLAIN = """\
size full; positions in tokens from the root
trunk
a trunk of three stages
├── basic  done  at 6,144
│   shared by trunk, variant
│   held-out code N  prose N  at 6.144k
│   kept at 4.096k, 5.12k, 6.144k
│   └── variant  from trunk/basic at 6,144
│       a variant that mixes code in
│       ├── continual  done  at 9,216
│       │   held-out code N  prose N  at 9.216k
│       │   kept at 7.168k, 8.192k, 9.216k
│       └── cooldown  done  at 12,288
│           held-out code N  prose N  at 12.29k
│           kept at 10.24k, 11.26k, 12.29k
├── continual  planned  6.144k to 9,216
└── cooldown  planned  9.216k to 12,288
18.43k tokens to train, 12.29k done (66.6%), 6.144k saved by shared stages
"""


def test_at_a_scaled_size_a_kept_checkpoint_bears_the_position_that_takes_it_in_a_command(tmp_path: Path) -> None:
    init(tmp_path / "p")
    saved = tmp_path / "p/runs/rehearsal/v1.1/basic/checkpoints"
    for position in (1_200_128, 1_501_184):
        (saved / checkpoint_name(0, position)).mkdir(parents=True)
        (saved / checkpoint_name(0, position) / checkpoints.MANIFEST).write_text("{}")
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(status_view(project_status(Project(tmp_path / "p"), "rehearsal", "v1.1")))
    assert "kept at 1.2M as @1.2T, 1.501M" in console.export_text()


@pytest.mark.promise("The lineage tree has the same content at 80 and 140 columns and without a terminal")
@pytest.mark.promise("What the commands print is pinned, on terminals of 80 and 140 columns and without one")
@pytest.mark.parametrize("columns", [80, 140, None])
def test_the_tree_reads_the_same_at_80_and_140_columns_and_without_a_terminal(
    finished: Path, curriculum: Curriculum, columns: int | None
) -> None:
    if columns is None:
        shown = curriculum(finished, "status", *FULL).stdout
    else:
        shown = on_a_terminal(finished, columns, "status", *FULL)
    assert re.sub(r"\d+\.\d{3}(?=  )", "N", shown) == PLAIN
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("columns", [80, 140])
def test_a_comparison_fits_the_terminal(finished: Path, columns: int) -> None:
    shown = on_a_terminal(finished, columns, "diff", "trunk", "variant", *FULL)
    lines = shown.splitlines()
    assert max(map(len, lines)) <= columns
    assert "  trunk/basic: 24 steps, all of it" in lines
    assert any(re.fullmatch(r"  the tokens read +\d\d +\d,\d{3}", line.rstrip()) for line in lines)
    assert any(re.match(r"  code +0 +1\.\d+k +\+1\.\d+k", line) for line in lines)
    assert lines[-1].rstrip() == "both end at 12,288"


def test_status_as_json_has_the_tree_s_values(finished: Path, curriculum: Curriculum) -> None:
    value = json.loads(curriculum(finished, "status", *FULL, "--json").stdout)
    assert value["done"] == 12288
    assert value["branches"][0]["stages"][0]["shared_by"] == ["trunk", "variant"]
    assert curriculum(finished, "status", "unknown", *FULL, check=False).returncode == 2


# --- following files ----------------------------------------------------------------------------------------


def line(position: int, loss: float = 1.0) -> dict[str, Any]:
    return {
        "position": position,
        "step": position // 10,
        "tokens_per_second": 100.0,
        "sources": {"a": {"loss": loss, "tokens": 1}},
    }


def test_a_torn_last_record_is_read_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = MetricsTail(path)
    assert lines.read_new() == []
    whole = fs.canonical_json(line(20)) + b"\n"
    path.write_bytes(fs.canonical_json(line(10)) + b"\n" + whole[:9])
    assert [entry["position"] for entry in lines.read_new()] == [10]
    assert lines.read_new() == []
    with path.open("ab") as file:
        file.write(whole[9:])
    assert [entry["position"] for entry in lines.read_new()] == [20]
    assert not lines.restarted
    assert last_record(path) == line(20)


@pytest.mark.parametrize("grown", [0, 1, 50], ids=["shorter", "as long", "longer"])
def test_a_file_that_was_cut_back_and_written_on_is_read_again(tmp_path: Path, grown: int) -> None:
    training, lines = LiveMetrics(StageFolder(tmp_path)), MetricsTail(tmp_path / "metrics.jsonl")
    for position in range(10, 100, 10):
        fs.append_json_line(tmp_path / "metrics.jsonl", line(position, loss=2.0))
    assert training.update()
    assert training.position == 90
    assert len(lines.read_new()) == 9
    ledger.cut_back(tmp_path / "metrics.jsonl", 40)
    for number in range(grown):
        fs.append_json_line(tmp_path / "metrics.jsonl", line(50 + 10 * number, loss=3.0))
    assert training.update()
    assert training.position == (40 + 10 * grown)
    assert [entry["position"] for entry in lines.read_new()] == list(range(10, 50 + 10 * grown, 10))
    assert lines.restarted
    assert training.losses == {"a": 3.0 if grown else 2.0}
    (tmp_path / "metrics.jsonl").unlink()
    assert not training.update()
    assert training.position is None


@pytest.mark.promise("The time that is left counts the evaluations and saves that are due")
def test_the_time_left_counts_the_evaluations_and_saves_that_are_due(tmp_path: Path) -> None:
    training = LiveMetrics(StageFolder(tmp_path), resumed_at=200)
    step = {"tokens_per_second": 50.0, "seconds": 2.0}  # 100 tokens
    saving = {"tokens_per_second": 20.0, "seconds": 5.0, "checkpoint_seconds": 3.0}
    for position, seconds in ((100, {"evaluation_seconds": 7.0} | step), (200, saving)):  # of an earlier attempt
        fs.append_json_line(tmp_path / "metrics.jsonl", line(position) | seconds)
    assert training.update() is False
    assert training.seconds_left(1000, 1, 1) is None
    for position, seconds in ((300, step), (400, saving), (500, step)):
        fs.append_json_line(tmp_path / "metrics.jsonl", line(position) | seconds)
    assert training.update()
    assert training.seconds_left(1000, 0, 0) == pytest.approx(
        10
    )  # five more steps of 2 s, none with the stall of a save
    assert training.seconds_left(1000, 2, 1) == pytest.approx(10 + 2 * 7 + 3)


@pytest.mark.promise("`run` and `status --follow` say when a stage is evaluating")
def test_a_stage_is_shown_as_evaluating_while_losses_that_are_due_are_not_on_record(project: Path) -> None:
    stage = PreparedText.open(Project(project), "variant", "full").compiled.stages[0]
    folder = StageFolder(project / "runs/full/trunk/basic")
    attempt = folder.newest_attempt()
    assert attempt is not None
    attempt.outcome.unlink()
    training = LiveMetrics(folder)
    training.update()

    def cut_back(position: int) -> str:
        ledger.cut_back(folder.metrics, position)
        training.update()
        return training_line(training, stage, "basic")

    def evaluating(position: int) -> str:
        folder.evaluation(0, position).unlink()
        return cut_back(position)

    assert "evaluating  left" in evaluating(6144)  # the stage's end, at no multiple of the cadence
    assert "tok/s  left" in cut_back(4096)
    assert "evaluating  left" in evaluating(4096)
    assert "tok/s  left" in cut_back(3840)  # nothing is due, nothing is on record
    folder.metrics.unlink()
    assert cut_back(0) == ""
    folder.evaluation(0, 0).unlink()
    assert cut_back(0) == "basic  evaluating"
    attempt.environment.unlink()  # it has not started to
    assert cut_back(0) == ""


def test_what_is_no_line_of_metrics_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'\x00\x00\n[]\n{"step": 1}\nnot json\n' + fs.canonical_json(line(30)) + b"\n\n")
    assert [entry["position"] for entry in MetricsTail(path).read_new()] == [30]
    path.write_bytes(b"half")
    assert last_record(path) is None


# --- following a run ------------------------------------------------------------------------------------------


def read_until(following: Following, words: str, seconds: float = 90.0) -> str:
    descriptor, shown, deadline = following.shown.fileno(), "", time.monotonic() + seconds
    while words not in shown:
        assert time.monotonic() < deadline, shown
        if select.select([descriptor], [], [], 1.0)[0]:
            part = os.read(descriptor, 65536).decode()
            assert part, shown
            shown += part
    return shown


@pytest.mark.promise("Followers that join, leave by Ctrl-C or are killed change neither weights nor ledger of the run")
def test_followers_that_come_and_go_leave_a_run_as_it_would_have_been(finished: Path, prepared_project: Path) -> None:
    words = ("status", "variant", "--follow", *FULL)
    staying = started(prepared_project, *words)
    first = read_until(staying, "resumes it; waiting")
    assert "variant is not running: trunk/basic is at 0 of 6,144 tokens" in first
    assert "`curriculum run variant` resumes it" in first
    with (prepared_project / "printed").open("w") as printed:
        streams = {"out": printed.fileno(), "err": printed.fileno()}
        where = {"folder": prepared_project, "environment": ENVIRONMENT, "fresh": True}  # slowly enough to be followed
        run = commands.start("run", "variant", *FULL, **where, **streams)  # type: ignore[arg-type]
    shown = read_until(staying, "trunk/basic runs, attempt 1")
    leaving = started(prepared_project, *words)
    read_until(leaving, "runs, attempt 1")
    assert leaving.leave(signal.SIGINT) == 0
    assert "detached; the run continues" in leaving.shown.read()
    assert run.poll() is None
    killed = started(prepared_project, *words)
    read_until(killed, "runs, attempt 1")
    assert killed.leave(signal.SIGKILL) == -signal.SIGKILL
    shown += read_until(staying, "variant is done, at 12,288 tokens", 180)
    assert run.wait(120) == 0
    assert staying.process.wait(20) == 0
    for stage in ("trunk/basic", "variant/continual", "variant/cooldown"):
        assert f"{stage} is done" in shown
        mine, theirs = (project / "runs/full" / stage for project in (prepared_project, finished))
        assert (mine / "DONE").read_bytes() == (theirs / "DONE").read_bytes()
        assert (mine / "ledger.jsonl").read_bytes() == (theirs / "ledger.jsonl").read_bytes()
        assert sorted(p.name for p in mine.iterdir()) == sorted(
            p.name for p in theirs.iterdir() if p.name != "held-out.svg" or (mine / p.name).exists()
        )
    last = next(row for row in reversed(shown.splitlines()) if row.startswith("variant/cooldown 100.0%"))
    for figure in (
        "tok/s",
        "left 0 s",
        "step 38",
        "learning rate",
        "batch 32 sequences",
        "held-out at",
        "saved at",
        "memory",
    ):
        assert figure in last, last


def test_following_what_is_done_ends_at_once_and_a_name_is_asked_for(finished: Path, curriculum: Curriculum) -> None:
    assert "variant is done, at 12,288 tokens" in curriculum(finished, "status", "variant", "--follow", *FULL).stdout
    refused = curriculum(finished, "status", "--follow", *FULL, check=False)
    assert refused.returncode == 2
    assert "hint: as in `curriculum status trunk --follow`" in refused.stderr


@pytest.mark.parametrize("columns", [80, 140])
def test_the_panel_fits_the_terminal(project: Path, columns: int) -> None:
    """A stage is held by this test as a trainer would, with the metrics of the real run."""
    folder = project / "runs/full/variant/cooldown"
    (folder / "DONE").unlink()
    last = checkpoints.latest(StageFolder(folder))
    assert last is not None
    shutil.rmtree(last.path)
    leader, terminal = pty.openpty()
    with fs.Lock(folder / "lock", "the test"):
        now = project_status(Project(project), "full")
        running = next(s for b in now.branches for s in b.stages if s.name == "variant/cooldown")
        assert running.state == "running"
        assert running.position == 12288  # as the metrics tell, past the last checkpoint
        environment = {**ENVIRONMENT, "COLUMNS": str(columns), "LINES": "40", "TERM": "xterm"}
        words = ("status", "variant", "--follow", *FULL)
        process = commands.start(*words, folder=project, environment=environment, out=terminal, err=terminal)
        os.close(terminal)
        shown = ""
        deadline = time.monotonic() + 60
        while "ago" not in shown and time.monotonic() < deadline:
            if select.select([leader], [], [], 1.0)[0]:
                shown += os.read(leader, 65536).decode()
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        while select.select([leader], [], [], 1.0)[0]:
            try:
                shown += os.read(leader, 65536).decode()
            except OSError:
                break
        assert process.wait(20) == 0
    os.close(leader)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown).replace("\r", "\n")
    assert max(map(len, plain.splitlines())) <= columns
    for words in ("variant/cooldown", "attempt 1", "tok/s", "step", "loss", "held-out", "saved", "100.0%", "B at most"):
        assert words in plain, plain
    assert "detached; the run continues" in plain


def test_a_stage_whose_trainer_starts_is_running_and_can_be_stopped(
    project: Path, curriculum: Curriculum, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its supervisor holds it from before the trainer is started, for as long as torch takes to load."""
    from curriculum.cli.follow import Watch

    folder = StageFolder(project / "runs/full/variant/cooldown")
    folder.done.unlink()
    shutil.rmtree(folder.checkpoints)
    watch = Watch(Project(project), "variant", "full", Console(file=io.StringIO(), width=200))
    with fs.Lock(folder.supervised, "the test"):
        assert watch.poll()
        now = project_status(Project(project), "full")
        assert [s.state for b in now.branches for s in b.stages if s.name == "variant/cooldown"] == ["running"]
        asked: list[int] = []
        before = signal.signal(signal.SIGUSR1, lambda number, _: asked.append(number))  # any thread may get it
        try:
            assert "asked variant/cooldown to save and end" in curriculum(project, "stop", "variant", *FULL).stdout
            until = time.monotonic() + 5
            while not asked and time.monotonic() < until:
                time.sleep(0.01)
            assert asked == [signal.SIGUSR1]
        finally:
            signal.signal(signal.SIGUSR1, before)
    assert watch.poll()
    shown = watch.console.file.getvalue()  # type: ignore[attr-defined]
    assert "not running" not in shown, "for an instant no process holds a stage"
    assert watch.poll()
    assert "variant is not running: variant/cooldown is at 9,216" in watch.console.file.getvalue()  # type: ignore[attr-defined]
