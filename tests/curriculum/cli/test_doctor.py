"""`curriculum doctor` as a person and a script call it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from curriculum.cli.view.doctor import WIDTH, doctor_lines

Curriculum = Callable[..., "subprocess.CompletedProcess[str]"]

MACHINES = """\
local: {launcher: process, device: cpu, threads: 1}
two: {launcher: torchrun, processes: 2, device: cpu, threads: 1}
gpu: {device: cuda, attention: flash-attn}
"""


@pytest.mark.promise("`doctor` reports what this machine can run, and why it cannot run the rest")
def test_the_doctor_says_what_is_here_and_leaves_the_project_as_it_was(
    small_project: Path, curriculum: Curriculum
) -> None:
    before = sorted(small_project.rglob("*"))
    done = curriculum(small_project, "doctor", fresh=True)
    lines = done.stdout.splitlines()
    assert lines[0] == "machine `local`: can be served here"
    assert max(map(len, lines)) <= WIDTH
    for kernel in ("flash-attn", "sdpa", "sdpa-cudnn", "sdpa-flash", "varlen"):
        assert any(line.strip().startswith(f"{kernel} ") for line in lines), kernel
    assert sorted(small_project.rglob("*")) == before


def test_processes_of_torchrun_are_started_and_counted(small_project: Path, curriculum: Curriculum) -> None:
    (small_project / "machines.yaml").write_text(MACHINES)
    report = json.loads(curriculum(small_project, "doctor", "--machine", "two", "--json").stdout)
    assert report["served"] is True
    assert report["processes"] == {"asked": 2, "counted": 2}


@pytest.mark.promise("`doctor` reports what this machine can run, and why it cannot run the rest")
def test_a_machine_that_cannot_be_served_is_reported_with_every_reason_and_exit_code_two(
    small_project: Path, curriculum: Curriculum
) -> None:
    (small_project / "machines.yaml").write_text(MACHINES)
    done = curriculum(small_project, "doctor", "--machine", "gpu", "--json", check=False)
    assert done.returncode == 2
    report = json.loads(done.stdout)
    said = " ".join(problem["what"] for problem in report["problems"])
    assert "needs a GPU of its own" in said
    assert "attention `flash-attn` cannot serve here" in said
    assert report["versions"]["torch"], "the rest is shown all the same"
    text = list(doctor_lines(report))
    assert sum(line.startswith("problem: ") for line in text) == 2
    assert max(map(len, text)) <= WIDTH
