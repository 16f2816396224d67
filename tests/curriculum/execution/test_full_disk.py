"""A disk that fills while text is prepared, as a person meets it: a real limit of the system, one screen, go on."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import commands
import pytest
from projects import write_small_project

from curriculum.data.manifest import Manifest

pytestmark = pytest.mark.promise(
    "A disk that fills during preparation loses nothing; the same command ends in the same bytes"
)

MOST_BYTES = 64 * 1024


WORDS = ("prepare", "variant", "--size", "full")


def prepare_on_full_disk(project: Path) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_BYTES, MOST_BYTES))

    return subprocess.run(
        [sys.executable, "-m", "curriculum", *WORDS],
        cwd=project,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
        preexec_fn=limit,
        check=False,
    )


def test_a_disk_that_fills_is_one_screen_and_the_same_command_ends_in_the_same_bytes(
    tmp_path: Path, finished: Path
) -> None:
    project = write_small_project(tmp_path / "project")
    (project / "data").mkdir()
    shutil.copytree(finished / "data/tokenizers", project / "data/tokenizers")
    full = prepare_on_full_disk(project)
    assert full.returncode == 1
    assert "Traceback" not in full.stderr
    said = " ".join(full.stderr.split())
    assert "data/code/" in "".join(full.stderr.split())  # a path longer than a line is cut anywhere
    assert "cannot be written: the file would be larger than is allowed here" in said
    assert "then the same command resumes" in said
    assert not list(project.glob("data/code/*/manifest.json"))
    commands.run(*WORDS, folder=project, check=True)
    for source in ("code", "prose"):
        ours, whole = (next(root.glob(f"data/{source}/*/manifest.json")).parent for root in (project, finished))
        assert Manifest.load(ours).digest == Manifest.load(whole).digest
