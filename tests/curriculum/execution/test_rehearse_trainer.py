"""`curriculum rehearse-trainer`: what a trainer that keeps its state shows, and one that forgets it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from projects import write_small_project

pytestmark = pytest.mark.processes

TRAINER = """
import time
from pathlib import Path
from curriculum.stream import join
from curriculum.stream import witness

with join() as stage:
    total = 0
    if stage.resume.folder is not None{FORGETS}:
        total = int(Path(stage.resume.folder, "total").read_text())
    for batch in stage.batches():
        time.sleep(0.02)  # as long as a step of a small model, so that the kill comes in time
        total += int(batch.tokens.sum())
        stage.took(batch.step, loss=total % 1009{WITNESS})
        if stage.should_save():
            with stage.checkpoint() as folder:
                (folder / "total").write_text(str(total))
"""
MACHINES = "mine:\n  {device: cpu, threads: 1, trainer: {name: mine, run: [python, train.py]}}\n"


@pytest.mark.promise("`rehearse-trainer` proves or refutes that a trainer resumes bitwise and reads what it is offered")
@pytest.mark.parametrize("sound", [True, False], ids=["sound", "forgets"])
def test_a_trainer_is_shown_to_resume_to_the_same_bits_or_not_to(
    sound: bool, tmp_path: Path, curriculum: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    project = write_small_project(tmp_path / "project", texts=False)
    (project / "machines.yaml").write_text(MACHINES)
    script = TRAINER.replace("{FORGETS}", "" if sound else ' and stage.resume.origin == "parent"')
    script = script.replace("{WITNESS}", ", witness=witness(batch.inputs)" if sound else "")
    (project / "train.py").write_text(script)
    done = curriculum(project, "rehearse-trainer", "mine", check=False)
    assert done.returncode == (0 if sound else 1), done.stdout + done.stderr
    if sound:
        assert "every step's witness is the plan's" in done.stdout
        assert "2 files of two ends are equal after 2 kills" in done.stdout
    else:
        assert "not shown, it reports no witness" in done.stdout
        assert "does not resume to the same bits: the loss of step" in done.stdout
        assert "another file at the end of first: total" in done.stdout
    assert not (project / "runs").exists()


def test_the_log_that_a_failure_names_is_kept(
    tmp_path: Path, curriculum: Callable[..., subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = write_small_project(tmp_path / "project", texts=False)
    (project / "machines.yaml").write_text(MACHINES)
    (project / "train.py").write_text("raise ValueError('a fault of the trainer')")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    done = curriculum(project, "rehearse-trainer", "mine", check=False, fresh=True)
    assert done.returncode == 1
    assert "a fault of the trainer" in done.stderr
    named = "".join(done.stderr.partition("the whole log:")[2].split())  # a terminal's lines break a long path
    assert "a fault of the trainer" in Path(named).read_text()
