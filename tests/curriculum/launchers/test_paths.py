"""Paths with any character that a file system allows reach Slurm and the processes of a job as they are."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from projects import write_small_project
from slurm_cluster import wait_for

from curriculum.config.machines import MachineEntry
from curriculum.launchers import slurm

ANY_PATH = pytest.mark.promise("A path with any legal character reaches Slurm, torchrun, readers and shells as it is")
FOLDERS = ("a%jb 100%%", "q\"uote's", "back\\slash%j", "new\nline%j", "#a$HOME;`x`", "-ü,=:é")


@ANY_PATH
@pytest.mark.usefixtures("slurm")
def test_a_real_sbatch_writes_the_log_into_a_folder_of_any_name(tmp_path: Path) -> None:
    machine = MachineEntry.model_validate({"launcher": "slurm"})
    folders = [tmp_path / name for name in FOLDERS]
    for folder in folders:
        folder.mkdir()
        job = slurm.BatchJob(name="n", command=("ls", str(folder)), log=folder / "%j.log")
        (folder / "submit.sh").write_text(slurm.script(job, machine))
        slurm.submit(folder / "submit.sh", job)
    for folder in folders:
        wait_for(f"the log in {folder}", lambda at=folder: any(log.stat().st_size for log in at.glob("*.log")), 60)
        (log,) = folder.glob("*.log")
        assert "submit.sh" in log.read_text()
        assert log.stem.isdecimal() or "\\" in folder.name


@ANY_PATH
@pytest.mark.parametrize(
    ("folder", "line"),
    [
        ("/50%/%j", "#SBATCH --output=/50%%/%%j/%j.log"),
        ('/a "b"', '#SBATCH --output="/a \\"b\\"/%j.log"'),
        ("/a\\%j", '#SBATCH --output="/a\\\\\\\\%j/job.log"'),
        ("/a#b", '#SBATCH --output="/a#b/%j.log"'),
    ],
)
def test_the_folder_of_a_log_is_escaped_for_sbatch(folder: str, line: str) -> None:
    job = slurm.BatchJob(name="n", command=("true",), log=Path(folder) / "%j.log")
    assert line in slurm.script(job, MachineEntry.model_validate({"launcher": "slurm"})).splitlines()
    assert slurm.command(Path(folder) / "submit.sh", job) == ["sbatch", "--parsable", f"{folder}/submit.sh"]


def test_a_log_whose_path_has_a_line_end_is_named_on_the_command_line() -> None:
    job = slurm.BatchJob(name="n", command=("true", "/a\nb"), log=Path("/a\nb%/%j.log"))
    assert "--output" not in slurm.script(job, MachineEntry.model_validate({"launcher": "slurm"}))
    assert "--output=/a\nb%%/%j.log" in slurm.command(Path("/a\nb%/submit.sh"), job)


@ANY_PATH
@pytest.mark.parametrize("name", ["-a'b::\"%j#$HOME ü:,={x}&;\nnew\\n", "a::memory::b%20c~!@^()|<>`x`[y]*?{time}"])
def test_a_project_in_a_folder_of_any_name_prepares_and_trains(
    name: str, tmp_path: Path, curriculum: Callable[..., Any]
) -> None:
    """`::` is a chain of file systems to fsspec, braces are a format to loguru."""
    project = write_small_project(tmp_path / name / "project")
    stage = project / "stages/trunk.yaml"
    stage.write_text(stage.read_text().partition("  - {name: continual")[0].replace("6144", "1024"))
    (project / "texts/prose/000.txt").rename(project / f"texts/prose/{name}.txt")
    for words in (
        ("run", "trunk"),
        ("status",),
        ("batch", "trunk", "--step", "3"),
        ("trace", "trunk", f"--document={name}.txt"),
    ):
        curriculum(project, *words)
    assert (project / "runs/full/trunk/basic/DONE").exists()
    (log,) = project.rglob("datatrove.log")
    assert "reading" in log.read_text()


@ANY_PATH
def test_a_text_file_may_have_a_name_that_is_not_utf_8_but_not_the_folder_of_a_project(
    tmp_path: Path, curriculum: Callable[..., Any]
) -> None:
    name = os.fsdecode(b"a\xffb")
    project = write_small_project(tmp_path / "project")
    (project / "texts/prose/000.txt").rename(project / f"texts/prose/{name}.txt")
    curriculum(project, "prepare", "trunk")
    found = curriculum(project, "trace", "trunk", "--document", f"{name}.txt", "--json").stdout
    assert json.loads(found)["document"] == f"{name}.txt"
    refused = curriculum(project.rename(tmp_path / name), "plan", "trunk", check=False)
    assert refused.returncode == 2
    assert "error: the path of this project is not UTF-8" in refused.stderr
    assert "\\udcff" in refused.stderr
