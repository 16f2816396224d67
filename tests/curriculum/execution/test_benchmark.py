"""Checkpoints measured by the real lm-evaluation-harness without network, on tasks that lie in the project."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from rich.console import Console
from slurm_cluster import ask, begin_again, wait_for

from curriculum.__main__ import main
from curriculum.cli import progress
from curriculum.config.project import Project
from curriculum.execution import benchmark, lm_eval, run
from curriculum.execution.request import RunRequest

Curriculum = Callable[..., "CompletedProcess[str]"]

TASK = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {name}.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
doc_to_choice: "{{{{choices}}}}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""
QUESTIONS = {
    "prose": [("the sea was " * 40, ["calm", "lambda ("], 0), ("ships went", ["yield =", "slowly home"], 1)],
    "code": [("for x", ["in y", "sea"], 0), ("the grey", ["return", "ships"], 1), ("under", ["rain", "+ y"], 0)],
}
RECORD = "benchmarks/g0-0000000000012288/verse.json"


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    """The finished project, with two tasks and a group of its own; its variant's cooldown asks for the group."""
    root = shutil.copytree(finished, tmp_path / "project")
    (root / "tasks").mkdir()
    for name, questions in QUESTIONS.items():
        (root / f"tasks/{name}.yaml").write_text(TASK.format(name=name))
        lines = [json.dumps({"question": q, "choices": c, "answer": a}) for q, c, a in questions]
        (root / f"tasks/{name}.jsonl").write_text("\n".join(lines) + "\n")
    (root / "tasks/verse.yaml").write_text("group: verse\ntask: [prose, code]\n")
    stages = root / "stages/variant.yaml"
    stages.write_text(stages.read_text().replace("32 sequences}", "32 sequences, every: {tasks: {verse: 12k}}}"))
    return root


@pytest.mark.promise(
    "A checkpoint is measured by the real lm-evaluation-harness without network; the record is stored in "
    "the stage's run folder, and compare and report show it"
)
def test_a_run_measures_what_its_stages_ask_for_and_every_view_shows_it(
    project: Path, curriculum: Curriculum, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    plan = curriculum(project, "plan", "variant", "--size", "full").stdout
    assert "cooldown: verse every 12k tokens, at 1 checkpoint that is kept" in plan
    said = curriculum(project, "run", "variant", "--size", "full").stdout  # all is trained: only measuring is left
    assert "preparing verse at variant/cooldown" in said
    assert "not measured" not in said
    folder = project / "runs/full/variant/cooldown"
    record = json.loads((folder / RECORD).read_bytes())
    assert record["harness"].keys() == {"lm_eval", "transformers", "datasets", "torch"}
    assert (record["position"], record["step"], record["asked"]) == (12288, 39, {"num_fewshot": None, "limit": None})
    assert record["history"]
    tasks = record["tasks"]
    assert {name: (task["documents"], task["num_fewshot"], task["version"]) for name, task in tasks.items()} == {
        "prose": (2, 0, 1.0),
        "code": (3, 0, 1.0),
    }
    assert (tasks["prose"]["cut"], tasks["code"]["cut"]) == (1, 0)
    assert tasks["prose"]["metrics"]["acc,none"]["value"] == sum(tasks["prose"]["per_document"]) / 2
    assert not list((folder / "attempts").glob("*/model"))  # the exported weights are gone

    again = curriculum(project, "eval", "variant", "--size", "full")
    assert "preparing" not in again.stdout
    assert "mean of 2" in again.stdout
    rows = {line.split()[0]: " ".join(line.split()[2:5]) for line in again.stdout.splitlines() if " acc" in line}
    assert (rows["prose"], rows["code"].split()[0]) == ("2, 1 cut", "3")
    assert "cut: longer than the model's context" in again.stdout
    listed = json.loads(curriculum(project, "eval", "variant", "--tasks", "verse", "--size", "full", "--json").stdout)
    assert [(score["task"], score["cut"]) for score in listed["scores"]] == [("verse", 1), ("prose", 1), ("code", 0)]
    shutil.copytree(folder / "benchmarks", project / "runs/full/trunk/cooldown/benchmarks")
    compared = curriculum(project, "compare", "trunk", "variant", "--size", "full", "--no-fill").stdout
    assert "lm-evaluation-harness, on its own scales" in compared
    assert "+0.0000 ±0.0000" in compared
    assert "prose: 1 of 2 documents were longer than the model's context and cut: trunk, variant" in compared
    curriculum(project, "report", "variant", "--size", "full", "--to", "report.html")
    html = (project / "report.html").read_text()
    assert "Scores of tasks" in html
    assert "2, 1 cut" in html


def request(project: Path) -> RunRequest:
    listener = progress.RunDisplay(Console(quiet=True))
    return RunRequest(project=Project(project), curriculum="variant", size="full", listener=listener)


def test_without_the_harness_a_run_ends_well_and_says_what_is_not_measured(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lm_eval, "installed", lambda: False)
    monkeypatch.chdir(project)

    def command(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["curriculum", *words, "--size", "full"])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    code, out, _ = command("plan", "variant")
    assert code == 0
    assert "lm-evaluation-harness is not installed here" in out
    code, out, _ = command("run", "variant")
    assert code == 0
    assert "not measured: verse at 1 checkpoints: lm-evaluation-harness is not installed" in out
    assert "to measure the rest: curriculum eval variant" in out
    code, _, err = command("eval", "variant", "--tasks", "verse")
    assert code == 2
    assert "hint: `pip install 'curriculum[eval]'`" in err
    assert not (project / "runs/full/variant/cooldown/benchmarks").exists()


def test_what_fails_takes_no_other_task_with_it_and_stops_no_run(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The measuring itself is replaced: it refuses one task, also where it stands beside another."""
    from curriculum.errors import RunFailed

    stages = project / "stages/variant.yaml"
    stages.write_text(stages.read_text().replace("{verse: 12k}", "{gone: 3k, verse: 3k}"))
    measured: list[tuple[int, tuple[str, ...]]] = []

    def measure(request: RunRequest, found: object, asked: benchmark.BenchmarkRequest, stop: object) -> bool:
        if "gone" in asked.tasks:
            raise RunFailed("`gone` is not there", hint="spell it")
        measured.append((found.position, asked.tasks))  # type: ignore[attr-defined]
        return True

    monkeypatch.setattr(benchmark, "measure", measure)
    result = run.run(request(project))
    assert not result.stopped
    assert measured == [(12288, ("verse",))]
    assert result.unmeasured == ("gone, from 12,288 tokens on: `gone` is not there; spell it",)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("variant@5k", "--tasks", "verse"), "no checkpoint at 5,120 tokens; the nearest:"),
        (("unknown", "--tasks", "verse"), "unknown curriculum `unknown`"),
        (("trunk",), "no stage of `trunk` asks for tasks"),
        (("variant/cooldown",), "without `--tasks`, what the stage file asks for is measured"),
        (("variant", "--tasks", "verse", "--tasks-from", "nowhere"), "`nowhere` is not a directory"),
    ],
)
def test_what_cannot_be_measured_is_reported_before_anything_starts(
    project: Path,
    words: tuple[str, ...],
    what: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(project)
    if "5k" in words[0]:
        for path in (project / "runs/full/trunk/basic/checkpoints").glob("g0-*5120"):
            shutil.rmtree(path)
    before = sorted((project / "runs").rglob("attempts/*"))
    monkeypatch.setattr("sys.argv", ["curriculum", "eval", *words, "--size", "full"])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr().err
    assert ended.value.code == 2
    assert what in " ".join(printed.split())
    assert "hint:" in printed
    assert sorted((project / "runs").rglob("attempts/*")) == before


@pytest.mark.promise("Scheduled benchmarks are measured on Slurm by a job of their own that survives a requeue")
def test_on_slurm_a_job_of_its_own_measures_is_queued_again_and_leaves_the_same_record(
    project: Path, slurm: Path, monkeypatch: pytest.MonkeyPatch, curriculum: Curriculum
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (project / "machines.yaml").write_text("far: {launcher: slurm, nodes: 2, device: cpu, threads: 1}\n")
    words = ("run", "variant", "--size", "full", "--machine", "far")
    said = curriculum(project, *words).stdout
    folder = project / "runs/full/variant/cooldown"
    job = str(json.loads((folder / "measuring/slurm.json").read_bytes())["job"])
    assert f"variant/cooldown, its tasks  Slurm job {job}\n" in said
    assert said.count("Slurm job") == 1  # all is trained
    log = folder / f"measuring/slurm/0001/{job}.log"
    wait_for("the export to begin", lambda: log.exists() and "started:" in log.read_text())
    ask("scancel", "--signal=USR1", "--batch", job)
    begin_again(job)
    wait_for("the record", (folder / RECORD).exists, 120)
    assert "saved; asks to be queued again" in log.read_text()
    record = json.loads((folder / RECORD).read_bytes())
    assert record["tasks"]["prose"]["documents"] == 2
    outcome = folder / "measuring/slurm/0001/outcome.json"
    wait_for("the job to end", outcome.exists)
    assert json.loads(outcome.read_bytes())["outcome"] == "done"
    wait_for(
        "its job to be gone",
        lambda: "its tasks" not in curriculum(project, "status", "variant", "--size", "full").stdout,
    )
    assert "Slurm job" not in curriculum(project, *words).stdout
