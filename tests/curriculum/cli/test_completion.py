"""Shell completion, asked for as a shell does: the command in a process of its own with the half-typed line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import commands
import pytest

from curriculum.config.init import init

pytestmark = pytest.mark.processes

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = [sys.executable, "-c", "from curriculum.__main__ import command; command()"]  # what the console script holds


def complete(
    line: str, folder: Path, command: list[str] | None = None, shell: str = "bash"
) -> subprocess.CompletedProcess[str]:
    """What `python -m curriculum` offers, or `command` as a shell starts it."""
    words = line.split()
    asked = {
        "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - (not line.endswith(" ")))},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    environment = {**os.environ, "_CURRICULUM_COMPLETE": f"complete_{shell}", **asked}
    if command is None:
        return commands.run(folder=folder, environment=environment)
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shipped") / "project"
    init(folder)
    return folder


@pytest.mark.promise("Shell completion offers existing names and loads neither pydantic nor numpy")
@pytest.mark.parametrize("command", [None, SCRIPT], ids=["module", "script"])
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("curriculum plan v1", ["v1.1", "v1.1-chinese", "v1.1-math-code", "v1.1-math-code-control"]),
        ("curriculum plan s", ["smollm3"]),
        ("curriculum run v1.1-ch", ["v1.1-chinese"]),
        ("curriculum compare v1.1 v1.1-ch", ["v1.1-chinese"]),
        ("curriculum export v1.1/b", ["v1.1/basic"]),
        ("curriculum plan v1.1 --size ", ["full", "pilot", "rehearsal"]),
        ("curriculum run v1.1 --machine a", ["a100-40g-16x4"]),
        ("curriculum branch v1.1/", ["v1.1/basic", "v1.1/continual", "v1.1/cooldown"]),
        ("curriculum branch v1.1/basic mine --mixture ma", ["math-code"]),
        ("curriculum branch smollm3/d", ["smollm3/decay"]),
        ("curriculum prepare v1.1 --source sl", ["slimpajama", "slimpajama-6b"]),
        ("curriculum diff v1.1 v1.1-c", ["v1.1-chinese"]),
        ("curriculum ver", ["verify"]),
    ],
)
def test_a_shell_is_offered_the_project_s_own_names(
    project: Path, line: str, offered: list[str], command: list[str] | None
) -> None:
    done = complete(line, project / "stages", command)
    assert done.stdout.split() == offered
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_is_offered_them(project: Path, shell: str) -> None:
    done = complete("curriculum plan v1.1-m", project, shell=shell)
    assert "v1.1-math-code" in done.stdout
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("line", ["curriculum plan ", "curriculum plan v1.1 --size ", "curriculum branch v1.1/"])
def test_outside_a_project_and_in_a_broken_one_nothing_is_offered_or_said(tmp_path: Path, line: str) -> None:
    (tmp_path / "stages").mkdir()
    for _ in range(2):
        done = complete(line, tmp_path)
        assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
        (tmp_path / "mixtures").mkdir(exist_ok=True)
        (tmp_path / "sizes.yaml").write_text("{not: [yaml\n")
        (tmp_path / "stages" / "README.md").write_text("no curriculum\n")


@pytest.mark.promise("Shell completion offers existing names and loads neither pydantic nor numpy")
def test_completing_loads_neither_pydantic_nor_numpy(project: Path) -> None:
    code = (
        "import sys; from curriculum.cli import completion; "
        "print(completion.machines(''), completion.addresses('v1.1/'), "
        "[m for m in ('pydantic', 'numpy', 'torch', 'rich.table') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    assert "a100-40g-16x4" in done.stdout
    assert "v1.1/cooldown" in done.stdout
    assert done.stdout.rstrip().endswith("[]")


def test_what_install_completion_installs_completes_in_a_real_bash(project: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    command = home / "bin" / "curriculum"
    command.parent.mkdir(parents=True)
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m curriculum "$@"\n')
    command.chmod(0o755)
    script = (
        'curriculum --install-completion > /dev/null && source ~/.bashrc && cd "$1" && '
        "COMP_WORDS=(curriculum plan v1.1-ch) COMP_CWORD=2 && "
        "_curriculum_completion curriculum && echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(
        ["bash", "-c", script, "bash", str(project)],
        capture_output=True,
        text=True,
        env={**os.environ, "HOME": str(home), "PATH": f"{command.parent}:{os.environ['PATH']}"},
    )
    assert (done.returncode, done.stdout.split()) == (0, ["v1.1-chinese"]), done.stderr
