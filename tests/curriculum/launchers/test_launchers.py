"""The queue of Slurm, pretended: what is submitted once, what its answers mean, and which launcher a machine has."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
from slurm_cluster import wait_for

from curriculum.cli.progress import RunDisplay
from curriculum.compiler.compile import Compiled
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.project import Project
from curriculum.errors import Busy, PlanError
from curriculum.execution import benchmark, lm_eval
from curriculum.execution.fill import FillResult
from curriculum.execution.machine import launcher_for
from curriculum.execution.request import RunRequest
from curriculum.execution.run import outline
from curriculum.execution.slurm import batch_main, benchmark as slurm_benchmark, submission
from curriculum.execution.stop import stop as stop_lineage
from curriculum.launchers import process as subprocess_launcher, slurm, slurm_record, torchrun

# A queue in a file: each command is this script under its own name. `queue.json` holds the jobs.
PRETEND = """\
#!{python} -IS
import json, sys
from pathlib import Path
from typing import NoReturn
folder = Path({folder!r})
name, words = Path(sys.argv[0]).name, sys.argv[1:]
with (folder / "said.txt").open("a") as file:
    print(name, *words, file=file)
refuse = folder / f"{{name}}.refuse"
if refuse.exists():
    sys.exit(refuse.read_text())
path = folder / "queue.json"
jobs = json.loads(path.read_text()) if path.exists() else {{}}
if name == "sbatch":
    number = str(len(jobs) + 1)
    jobs[number] = "PENDING|Priority|"
    print(number)
elif name == "squeue":
    number = next(word.partition("=")[2] for word in words if word.startswith("--jobs="))
    if number not in jobs:
        sys.exit("slurm_load_jobs error: Invalid job id specified")
    print(jobs[number])
elif name == "scancel" and "--batch" not in words:
    for number in words:
        jobs[number] = "CANCELLED|None|"
elif name == "sinfo":
    print("main")
path.write_text(json.dumps(jobs))
"""


class Pretend:
    """Slurm's commands, pretended: their arguments, and what they know of jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("sbatch", "squeue", "scancel", "scontrol", "sinfo"):
            path = folder / name
            path.write_text(PRETEND.format(python=sys.executable, folder=str(folder)))
            path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def now(self, job: str, line: str | None) -> None:
        known = json.loads((self.folder / "queue.json").read_text())
        known.pop(job) if line is None else known.update({job: line})
        (self.folder / "queue.json").write_text(json.dumps(known))

    def refuse(self, command: str, words: str) -> None:
        (self.folder / f"{command}.refuse").write_text(words)

    def obey(self, command: str) -> None:
        (self.folder / f"{command}.refuse").unlink()

    def called(self, command: str) -> list[str]:
        path = self.folder / "said.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.startswith(f"{command} ")]


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretend:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return Pretend(folder)


@pytest.fixture(scope="module")
def prepared(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with its text prepared and nothing trained."""
    root = tmp_path_factory.mktemp("prepared") / "project"
    shutil.copytree(finished, root, ignore=shutil.ignore_patterns("runs"))
    (root / "machines.yaml").write_text(
        "local: {launcher: process, device: cpu, threads: 1}\n"
        "far: {launcher: slurm, nodes: 2, device: cpu, slurm: {partition: main, setup: module load python}}\n"
        "more: {launcher: slurm, nodes: 4, device: cpu}\n"
    )
    return root


@pytest.fixture
def project(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "project"))


def request(root: Path, machine: str, name: str = "trunk", **more: object) -> RunRequest:
    from rich.console import Console

    listener = RunDisplay(Console(file=open(os.devnull, "w")))  # noqa: SIM115
    return RunRequest(
        project=Project.find(root), curriculum=name, size="full", machine=machine, listener=listener, **more
    )  # type: ignore[arg-type]


def queue(root: Path, machine: str = "far", name: str = "trunk") -> tuple[submission.QueuedJob, ...]:
    from curriculum.execution.run import run

    return run(request(root, machine, name)).queued


# --- commands --------------------------------------------------------------------------------------------


def test_the_machine_file_chooses_the_launcher(small_project: Path) -> None:
    (small_project / "machines.yaml").write_text(
        "a: {device: cpu, threads: 1}\n"
        "b: {launcher: torchrun, processes: 2, threads: 1}\n"
        "c: {launcher: torchrun, nodes: 2, threads: 1, address: node0}\n"
    )
    assert launcher_for(request(small_project, "a")) == subprocess_launcher.ProcessLauncher(1, 1)
    assert launcher_for(request(small_project, "b")) == subprocess_launcher.ProcessLauncher(2, 1)
    with pytest.raises(PlanError, match="the number of this one is not given"):
        launcher_for(request(small_project, "c"))
    assert launcher_for(request(small_project, "c", node_rank=1, address="other:7")) == torchrun.TorchrunLauncher(
        nodes=2, node_rank=1, address="other:7", processes=1, threads=1
    )
    with pytest.raises(PlanError, match="is one node"):
        launcher_for(request(small_project, "b", node_rank=1))


# --- the queue -------------------------------------------------------------------------------------------


@pytest.mark.promise(
    "A stop cancels queued jobs; an unknown partition is refused before anything is prepared; nothing is queued twice"
)
def test_a_chain_is_queued_once_each_stage_behind_the_one_before(project: Path, pretend: Pretend) -> None:
    queued = queue(project)
    assert [(job.label, job.job, job.fresh) for job in queued] == [
        ("trunk/basic", "1", True),
        ("trunk/continual", "2", True),
        ("trunk/cooldown", "3", True),
    ]
    scripts = [Path(line.split()[-1]).read_text() for line in pretend.called("sbatch")]
    assert "--dependency" not in scripts[0]
    assert "--dependency=afterok:1\n" in scripts[1]
    assert "--dependency=afterok:2\n" in scripts[2]
    assert not any(job.fresh for job in queue(project))
    assert len(pretend.called("sbatch")) == 3
    # A variant of the stage that waits goes behind its job.
    variant = queue(project, name="variant")
    assert [(job.label, job.fresh) for job in variant][:2] == [("trunk/basic", False), ("variant/continual", True)]
    assert "--dependency=afterok:1\n" in Path(pretend.called("sbatch")[3].split()[-1]).read_text()


def test_the_job_of_an_average_waits_for_those_of_its_checkpoints(project: Path, pretend: Pretend) -> None:
    for seed in (1, 2):
        own = f"{{name: own, until: 6656, data_seed: {seed}}}"
        (project / f"stages/side-{seed}.yaml").write_text(f"from: trunk/basic\nstages: [{own}]\n")
    (project / "stages/soup.yaml").write_text("from: {average: [side-1, side-2, trunk/basic]}\n")
    shown = "\n".join(outline(request(project, "far", "soup"), *compile_all(project, "soup")))
    assert "#SBATCH --dependency=afterok:JOB-OF-side-1/own:JOB-OF-side-2/own\n" in shown
    queued = queue(project, name="soup")
    assert {job.label: job.job for job in queued} == {
        "trunk/basic": "1",
        "side-1/own": "2",
        "side-2/own": "3",
        "soup/average": "4",
    }
    assert queued[-1].message == "Slurm job 4, after jobs 2 and 3"
    assert "--dependency=afterok:2:3\n" in Path(pretend.called("sbatch")[3].split()[-1]).read_text()
    (job,) = project.glob("runs/full/soup/average/slurm/*/job.json")
    members = [Path(path).parent.parent.name for path in json.loads(job.read_bytes())["averages"]]
    assert members == ["own", "own", "basic"]
    assert not any(job.fresh for job in queue(project, name="soup"))


def test_a_dry_run_shows_exactly_the_script_that_is_then_submitted(project: Path, pretend: Pretend) -> None:
    shown = "\n".join(outline(request(project, "far"), *compile_all(project)))
    assert not (project / "runs").exists()
    assert not pretend.called("sbatch")
    queue(project)
    place = project / "runs" / "full" / "trunk" / "basic" / "slurm" / "0001"
    for line in (place / "submit.sh").read_text().splitlines():
        assert line in shown
    for file in place.iterdir():
        assert str(file) in shown
    assert f"sbatch --parsable {place / 'submit.sh'}" in shown
    assert "#SBATCH --dependency=afterok:JOB-OF-trunk/basic" in shown


def compile_all(root: Path, name: str = "trunk") -> tuple[Compiled, PreparedText]:
    texts = PreparedText.open(Project.find(root), name, "full")
    return texts.compiled, texts


def test_a_job_that_slurm_refuses_leaves_those_before_it_and_the_same_command_goes_on(
    project: Path, pretend: Pretend
) -> None:
    queue(project)
    basic = project / "runs" / "full" / "trunk" / "basic"
    pretend.now("1", "FAILED|NonZeroExitCode|")
    for job in ("2", "3"):
        pretend.now(job, "CANCELLED|DependencyNeverSatisfied|")
    pretend.refuse("sbatch", "sbatch: error: Batch job submission failed: Job violates accounting policy")
    with pytest.raises(PlanError, match="Job violates accounting policy"):
        queue(project)
    pretend.obey("sbatch")
    assert [job.job for job in queue(project, "more")] == ["4", "5", "6"]
    allocation = json.loads((basic / "slurm" / "0003" / batch_main.ALLOCATION).read_text())
    assert (allocation["nodes"], allocation["join_limit"]) == (4, 600)


@pytest.mark.parametrize(
    ("line", "outcome", "state", "message"),
    [
        ("PENDING|Resources|", None, "queued", "Slurm job 1 waits: Resources"),
        ("RUNNING|None|n[1-2]", None, "running", "Slurm job 1 on n[1-2]"),
        ("TIMEOUT|TimeLimit|n1", None, "failed", "Slurm job 1 ended without an outcome (TIMEOUT: TimeLimit)"),
        (None, None, "failed", "Slurm job 1 ended without an outcome"),
        (None, {"outcome": "failed", "message": "it broke"}, "failed", "Slurm job 1 failed: it broke"),
        (None, {"outcome": "stopped"}, "ended", "Slurm job 1 saved and ended"),
    ],
)
def test_a_stage_elsewhere_is_known_by_the_queue_and_when_it_is_forgotten_by_its_files(
    project: Path, pretend: Pretend, line: str | None, outcome: dict[str, str] | None, state: str, message: str
) -> None:
    queue(project)
    pretend.now("1", line)
    folder = project / "runs" / "full" / "trunk" / "basic"
    if outcome is not None:
        (folder / "slurm/0001/outcome.json").write_text(json.dumps(outcome))
    status = slurm_record.status_of(folder)
    assert status is not None
    assert (status.state, status.message) == (state, message)


def test_a_queue_that_does_not_answer_loses_nothing_and_frees_nothing(project: Path, pretend: Pretend) -> None:
    queue(project)
    pretend.refuse("squeue", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    folder = project / "runs" / "full" / "trunk" / "basic"
    status = slurm_record.status_of(folder)
    assert status is not None
    assert status.live
    with pytest.raises(slurm.Unreachable):
        slurm_record.stop(folder)
    with pytest.raises(Busy, match="Slurm is not reachable from here"):
        queue(project, "local")
    assert not any(job.fresh for job in queue(project))
    assert not pretend.called("scancel")


def test_a_job_that_saved_queues_again_only_while_nothing_else_ends_it(
    pretend: Pretend, capsys: pytest.CaptureFixture[str]
) -> None:
    (pretend.folder / "queue.json").write_text('{"1": "RUNNING|None|n1", "2": "COMPLETING|None|n1"}')
    submission.queue_again("1")
    submission.queue_again("2")
    submission.queue_again("3")
    assert pretend.called("scontrol") == ["scontrol requeue 1"]
    pretend.refuse("scontrol", "Job is not requeueable")
    submission.queue_again("1")
    assert "not queued again: Job is not requeueable" in capsys.readouterr().out


@pytest.mark.processes
def test_ranks_are_ended_through_srun_which_ends_them_on_every_node(tmp_path: Path) -> None:
    said = tmp_path / "said"
    code = (
        "import signal, sys, time; from pathlib import Path; "
        "signal.signal(signal.SIGTERM, lambda *_: (Path(sys.argv[1]).write_text('asked'), sys.exit(9))); "
        "Path(sys.argv[1]).write_text('up'); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(said)], start_new_session=True)
    wait_for("the process", lambda: said.exists() and said.read_text() == "up")
    slurm.SrunLauncher(nodes=1, processes=1, threads=1).kill(process)
    assert (process.returncode, said.read_text()) == (9, "asked")


def test_a_shorter_job_that_waits_is_no_stand_in_for_a_longer_one(project: Path, pretend: Pretend) -> None:
    (project / "stages" / "early.yaml").write_text(
        "about: leaves the trunk early\nfrom: trunk@2048\nstages:\n  - {name: continual, until: 9216, mixture: mixed}\n"
    )
    queue(project, name="early")
    with pytest.raises(Busy, match="to 2,048 tokens only, and this needs 6,144"):
        queue(project)


# --- tasks of a cadence ----------------------------------------------------------------------------------


@pytest.fixture
def asking(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project, its last stage asking for a task; the harness is taken for installed."""
    stages = project / "stages/trunk.yaml"
    text = stages.read_text()
    stages.write_text(text.replace("32 sequences}", "32 sequences, every: {tasks: {verse: 3k}}}"))
    assert stages.read_text() != text
    monkeypatch.setattr(lm_eval, "installed", lambda: True)
    return project


def scripts(pretend: Pretend) -> list[str]:
    return [Path(line.split()[-1]).read_text() for line in pretend.called("sbatch")]


@pytest.mark.promise("Scheduled benchmarks are measured on Slurm by a job of their own that survives a requeue")
def test_a_stage_that_asks_for_tasks_is_measured_by_a_small_job_behind_its_own(asking: Path, pretend: Pretend) -> None:
    shown = "\n".join(outline(request(asking, "far"), *compile_all(asking)))
    assert "trunk/cooldown, its tasks: as one batch job of one process" in shown
    assert "#SBATCH --dependency=afterok:JOB-OF-trunk/cooldown" in shown
    queued = queue(asking)
    assert [(job.label, job.message) for job in queued][-1] == ("trunk/cooldown, its tasks", "Slurm job 4, after job 3")
    written = scripts(pretend)[-1]
    assert "--nodes=1\n" in written
    assert "--ntasks-per-node=1\n" in written
    assert "--dependency=afterok:3\n" in written
    assert "#SBATCH --requeue\n" in written
    place = asking / "runs/full/trunk/cooldown/measuring/slurm/0001"
    for file in place.iterdir():
        assert str(file) in shown
    assert not any(job.fresh for job in queue(asking))
    assert len(pretend.called("sbatch")) == 4


def test_the_measuring_goes_behind_a_training_that_was_submitted_again(asking: Path, pretend: Pretend) -> None:
    queue(asking)
    pretend.now("1", "FAILED|NonZeroExitCode|")
    for job in ("2", "3"):
        pretend.now(job, "CANCELLED|DependencyNeverSatisfied|")
    again = queue(asking)
    assert again[-1].message == "Slurm job 8, after job 7"
    assert "scancel 4" in pretend.called("scancel")
    assert stop_lineage(Project.find(asking), "trunk", "full")[1].startswith("trunk/cooldown: took Slurm job 7")
    assert "scancel 8" in pretend.called("scancel")


def test_without_the_harness_training_is_queued_and_the_measuring_is_said_to_be_left(
    asking: Path, pretend: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    from curriculum.execution.run import run

    monkeypatch.setattr(lm_eval, "installed", lambda: False)
    result = run(request(asking, "far"))
    assert len(result.queued) == 3
    assert "the tasks of trunk/cooldown: lm-evaluation-harness is not installed" in result.unmeasured[0]


@pytest.mark.promise("Scheduled benchmarks are measured on Slurm by a job of their own that survives a requeue")
@pytest.mark.parametrize(
    ("ended", "stopping", "code", "requeued", "outcome"),
    [
        (FillResult(False, 1, ()), False, 0, False, "done"),
        (FillResult(False, 0, ("verse: gone",)), False, 1, False, "failed"),
        (FillResult(True, 0, ()), False, 3, True, None),
        (FillResult(True, 0, ()), True, 3, False, "stopped"),
    ],
)
def test_a_measuring_that_is_taken_away_queues_again_and_one_that_is_stopped_does_not(
    asking: Path,
    pretend: Pretend,
    monkeypatch: pytest.MonkeyPatch,
    ended: FillResult,
    stopping: bool,
    code: int,
    requeued: bool,
    outcome: str | None,
) -> None:
    queue(asking)
    folder = asking / "runs/full/trunk/cooldown/measuring"
    pretend.now("4", "RUNNING|None|n1")
    if stopping:
        assert "asked Slurm job 4" in (slurm_record.stop(folder) or "")
    of: list[str | None] = []

    def catch_up(*_: object, only: str | None) -> FillResult:
        of.append(only)
        return ended

    monkeypatch.setattr(benchmark, "catch_up", catch_up)
    monkeypatch.setattr("sys.argv", ["taskjobs", str(folder / "slurm/0001")])
    monkeypatch.setenv("SLURM_JOB_ID", "4")
    assert slurm_benchmark.main() == code
    assert of == ["trunk/cooldown"]
    assert bool(pretend.called("scontrol")) == requeued
    written = folder / "slurm/0001/outcome.json"
    assert (json.loads(written.read_text())["outcome"] if written.exists() else None) == outcome


@pytest.mark.parametrize(
    ("module", "successor"),
    [
        ("curriculum.batch", "curriculum.execution.slurm.batch_main"),
        ("curriculum.taskjobs", "curriculum.execution.slurm.benchmark"),
        ("curriculum.launchers.rank", "curriculum.launchers.srun_rank"),
    ],
)
def test_a_batch_script_that_an_earlier_version_queued_starts(
    module: str, successor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def main() -> NoReturn:
        sys.exit(5)

    monkeypatch.setattr(f"{successor}.main", main)
    with pytest.raises(SystemExit, match="5"):
        runpy.run_module(module, run_name="__main__")
