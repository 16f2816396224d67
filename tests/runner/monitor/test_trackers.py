"""Trackers in real runs of a small project, read back with their own readers; and what happens when they fail."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import commands
import pytest

from curriculum import fs
from curriculum.artifacts import jobs
from curriculum.errors import PlanError
from curriculum.stream.resume import with_resume
from runner.monitor import trackers

pytestmark = pytest.mark.processes

STAGES = ("trunk/basic", "variant/continual", "variant/cooldown")
TAGS = {"train/loss", "train/lr", "train/grad_norm", "train/tokens_per_second"}
Curve = dict[int, float]
TrackioRun = tuple[str, str, list[dict[str, Any]]]
"""Name, id and rows of a run in trackio's database."""


def run(project: Path, names: str, *, home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """`curriculum run variant` with trackers, in an empty home and without a way out to any network."""
    (project / "machines.yaml").write_text(
        f"local: {{launcher: process, device: cpu, threads: 1, trackers: [{names}]}}\n"
    )
    return subprocess.run(
        [sys.executable, "-m", "curriculum", "run", "variant", "--size", "full"],
        cwd=project,
        capture_output=True,
        text=True,
        env=environment(home, **more),
        timeout=600,
    )


def environment(home: Path, **more: str) -> dict[str, str]:
    home.mkdir(exist_ok=True)
    return {**without_network(), "HOME": str(home), **more}


def without_network() -> dict[str, str]:
    nowhere = "http://127.0.0.1:9"
    return {
        **os.environ,
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), nowhere),
        "OMP_NUM_THREADS": "1",
    }


def stage_folder(project: Path, stage: str) -> Path:
    return project / "runs" / "full" / stage


def truth(project: Path, stage: str) -> dict[str, Curve]:
    """The curves that a tracker must show, from metrics.jsonl and the evaluations."""
    folder = stage_folder(project, stage)
    curves: dict[str, Curve] = {}
    for line in fs.read_json_lines(folder / "metrics.jsonl"):
        for key in ("loss", "lr", "grad_norm", "tokens_per_second"):
            curves.setdefault(f"train/{key}", {})[line["position"]] = line[key]
        for name, entry in line["sources"].items():
            curves.setdefault(f"train/loss/{name}", {})[line["position"]] = entry["loss"]
    for path in (folder / "evaluations").glob("*.json"):
        value = read_json(path)
        for name, entry in value["sets"].items():
            curves.setdefault(f"eval/loss/{name}", {})[value["position"]] = entry["loss"]
    return curves


def read_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def weights(project: Path) -> list[str]:
    return [read_json(stage_folder(project, stage) / "DONE")["weights"] for stage in STAGES]


def tensorboard(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def wandb_records(path: Path) -> Iterator[bytes]:
    """The records of a .wandb file, which is a LevelDB log behind a header of seven bytes."""
    data, at, record = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # the rest of a block is padding
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the whole of it, or its last part
            yield record
            record = b""


def wandb(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from wandb.proto import wandb_internal_pb2

    curves: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for data in wandb_records(path):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.HasField("run"):
                assert (record.run.display_name, record.run.run_group) == ("/".join(folder.parts[-2:]), "trunk")
            row = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            for key, value in row.items():
                if "/" in key:
                    curves.setdefault(key, []).append((int(row["tokens"]), float(value)))
    return curves


def trackio(folder: Path, runs: list[TrackioRun] | None = None) -> dict[str, list[tuple[int, float]]]:
    """A stage's run in the database that all runs of the size share, or of `runs` that were read from it."""
    if runs is None:
        runs = trackio_runs(folder.parents[1] / ".trackio")
    curves: dict[str, list[tuple[int, float]]] = {}
    (rows,) = (rows for name, _, rows in runs if name == "/".join(folder.parts[-2:]))
    for row in rows:
        for key, value in row.items():
            if "/" in key:
                curves.setdefault(key, []).append((row["step"], float(value)))
    return curves


def trackio_runs(folder: Path) -> list[TrackioRun]:
    """Every run of the one project in a database, in the order of their beginning."""
    code = (
        "import json; from trackio.sqlite_storage import SQLiteStorage as s; "
        "print(json.dumps([[p, r['name'], r['id'], s.get_logs(p, r['name'], run_id=r['id'])] "
        "for p in s.get_projects() for r in s.get_run_records(p)]))"
    )
    where = {**os.environ, "OMP_NUM_THREADS": "1", "TRACKIO_DIR": str(folder)}
    shown = commands.python("-c", code, folder=folder, environment=where, check=True).stdout
    found = json.loads(shown.splitlines()[-1])
    assert {project for project, *_ in found} == {"trunk"}
    return [(name, number, rows) for _, name, number, rows in found]


READERS: dict[str, Any] = {"tensorboard": tensorboard, "wandb": wandb, "trackio": trackio}


def check_curves(project: Path, name: str, *stages: str, **read: Any) -> None:
    """Compare what the tracker shows of the stages with the truth; `read` is for its reader."""
    for stage in stages:
        wanted = truth(project, stage)
        shown = READERS[name](stage_folder(project, stage), **read)
        assert wanted.keys() >= TAGS
        assert shown.keys() == wanted.keys(), stage
        for tag, curve in wanted.items():
            positions = [position for position, _ in shown[tag]]
            assert sorted(positions) == sorted(curve), (stage, tag)  # every point, and none of them twice
            for position, value in shown[tag]:
                assert value == pytest.approx(curve[position], rel=1e-6), (stage, tag, position)


@pytest.fixture(scope="module")
def undisturbed(finished: Path) -> list[str]:
    return weights(finished)


@pytest.mark.promise("A failing or slow-starting tracker never stops training; `metrics.jsonl` stays complete")
def test_all_trackers_together_show_every_figure_once_and_change_no_bit(
    finished: Path, tmp_path: Path, undisturbed: list[str]
) -> None:
    project = Path(shutil.copytree(finished, tmp_path / "project"))
    shutil.rmtree(project / "runs/full/variant")
    trained = STAGES[1:]
    done = run(project, "tensorboard, wandb, trackio", home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    shared = trackio_runs(project / "runs" / "full" / ".trackio")
    for name in READERS:
        check_curves(project, name, *trained, **({"runs": shared} if name == "trackio" else {}))
    assert [name for name, _, _ in shared] == list(trained)  # in one project, where they can be overlaid
    assert weights(project) == undisturbed
    assert [str(path) for path in (tmp_path / "home").rglob("*") if path.is_file()] == []
    outside = {path.name for path in project.iterdir() if path.name not in ("runs", "data", "texts", "stages")}
    assert outside == {"mixtures", "sources.yaml", "sizes.yaml", "machines.yaml"}
    log = (stage_folder(project, trained[0]) / "attempts/0001/rank0.log").read_text()
    assert "failed and is left out" not in log


class Attempts:
    """Attempts at `trunk/basic` in a copy of a finished project, each a job that is started here, with trackers."""

    def __init__(self, finished: Path, project: Path, *names: str) -> None:
        shutil.copytree(finished, project)
        self.folder = stage_folder(project, STAGES[0])
        job = read_json(self.folder / "attempts/0001/job.json")
        self.job = {
            key: value.replace(str(finished), str(project)) for key, value in job.items() if isinstance(value, str)
        }
        self.job = {**job, **self.job, "machine": {**job["machine"], "trackers": names}}
        for path in self.folder.iterdir():
            if path.name != "plan.json":
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def start(self, number: int, *program: str, output: int) -> commands.Started:
        """`program JOB`, by default that of every job."""
        attempt = self.folder / "attempts" / f"{number:04d}"
        attempt.mkdir(parents=True)
        fs.write_json(attempt / "undecided.json", {**self.job, "attempt_folder": str(attempt)})
        job = jobs.load(attempt / "undecided.json")
        assert isinstance(job, jobs.TrainJob)
        jobs.save(with_resume(job), attempt / "job.json")  # as whoever launches does
        return commands.start_python(
            *(program or ("-m", "runner")),
            str(attempt / "job.json"),
            folder=self.folder.parents[3],
            environment=without_network(),
            out=output,
            err=output,
        )


def test_a_run_that_was_stopped_and_killed_is_shown_as_one_without_a_point_twice(
    finished: Path, tmp_path: Path, undisturbed: list[str]
) -> None:
    project = tmp_path / "project"
    attempts = Attempts(finished, project, *READERS)
    metrics = attempts.folder / "metrics.jsonl"
    with (tmp_path / "output").open("w+") as output:
        for number, (ending, lines) in enumerate(((signal.SIGTERM, 4), (signal.SIGKILL, 11)), start=1):
            process = attempts.start(number, output=output.fileno())
            until = time.monotonic() + 240
            while time.monotonic() < until and not (metrics.exists() and metrics.read_bytes().count(b"\n") >= lines):
                time.sleep(0.002)
            holder = fs.lock_holder(attempts.folder / "lock")
            assert holder is not None, "it ended before it could be stopped"
            os.kill(int(holder["pid"]), ending)
            assert process.wait(120) == (0 if ending == signal.SIGTERM else -signal.SIGKILL)
        assert attempts.start(3, output=output.fileno()).wait(240) == 0, (tmp_path / "output").read_text()
    assert weights(project)[0] == undisturbed[0]
    check_curves(project, "tensorboard", STAGES[0])
    # a database may miss what was in flight when the process was killed, never hold it twice
    for tag, curve in trackio(attempts.folder).items():
        positions = [position for position, _ in curve]
        assert len(positions) == len(set(positions)), tag


STARTED = """\
import sys
from pathlib import Path
from curriculum.artifacts.stage_folder import StageFolder
from runner.monitor import trackers

folder, at = StageFolder(Path(sys.argv[1])), int(sys.argv[2])
run = {"folder": folder, "generation": 0, "lineage": ("trunk/basic",), "resumed_at": at, "config": {}}
started = trackers.start(("trackio",), **run, first=at == 0)
started.evaluated(at, {"prose": {"loss": 3.0}}, new=True)
started.close()
"""


def test_a_stage_started_again_is_a_run_of_its_own_in_trackio_and_one_that_goes_on_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "full" / "trunk" / "basic"

    def attempt(at: int) -> None:
        subprocess.run(
            [sys.executable, "-c", STARTED, str(folder), str(at)],
            check=True,
            capture_output=True,
            env=environment(tmp_path / "home"),
        )

    folder.mkdir(parents=True)
    attempt(0)
    (folder / "evaluations").mkdir()
    (folder / "evaluations" / "g0-0000000000000000.json").write_text("{}")
    attempt(256)
    shutil.rmtree(folder)
    folder.mkdir()
    attempt(0)
    steps = [[row["step"] for row in rows] for _, _, rows in trackio_runs(tmp_path / "runs" / "full" / ".trackio")]
    assert steps == [[0, 256], [0]]


BROKEN = """\
import sys
from runner.monitor import trackers

class Broken:
    done = 0
    def __init__(self, about): {init}
    def log(self, position, values): raise OSError("the disk is full")
    def close(self): raise SystemExit("cannot close")

trackers.KINDS["tensorboard"] = Broken
from runner.__main__ import main
sys.exit(main())
"""


@pytest.mark.promise("A failing or slow-starting tracker never stops training; `metrics.jsonl` stays complete")
@pytest.mark.parametrize("init", ["pass", "raise ValueError('no')", "sys.exit(3)"])
def test_a_tracker_that_fails_in_every_method_is_named_once_and_changes_no_bit(
    finished: Path, tmp_path: Path, init: str, undisturbed: list[str]
) -> None:
    attempts = Attempts(finished, tmp_path / "project", "tensorboard")
    program = tmp_path / "broken.py"
    program.write_text(BROKEN.format(init=init))
    with (tmp_path / "output").open("w+") as output:
        code = attempts.start(1, str(program), output=output.fileno()).wait(120)
    said = (tmp_path / "output").read_text()
    assert code == 0, said
    assert read_json(attempts.folder / "DONE")["weights"] == undisturbed[0]
    assert len(re.findall("the tracker tensorboard failed", said)) == 1


def test_a_tracker_that_is_not_installed_is_refused_before_anything_starts(
    small_project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    absent = tmp_path / "absent"
    absent.mkdir()
    (absent / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'wandb' else find(name, *a)\n"
    )
    path = os.pathsep.join([str(absent), os.environ.get("PYTHONPATH", "")])
    done = run(small_project, "tensorboard, wandb", home=tmp_path / "home", PYTHONPATH=path)
    assert done.returncode == 2
    assert "the tracker `wandb` is not installed" in done.stderr
    assert "machines.yaml:1:77" in done.stderr
    assert "pip install 'curriculum[wandb]'" in done.stderr
    assert not (small_project / "runs").exists()
    assert not (small_project / "data").exists()

    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PlanError, match="not installed"):
        trackers.check(("tensorboard",))
    trackers.check(())


def test_two_processes_log_once(paired: Path) -> None:
    check_curves(paired, "tensorboard", STAGES[1])
    assert len(list(stage_folder(paired, STAGES[1]).glob("tensorboard/events.*"))) == 1
