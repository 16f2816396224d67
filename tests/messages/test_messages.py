"""What bad input gets: for every pair in tests/messages, the wrong file and, to the letter, the refusal it earns.

`NAME.yaml` begins with comments that say what is wrong (`# `), which file of the shipped project it replaces
(`# file: `, left out when only the command is wrong), what else is there (`# beside: PATH LINE`, for each line) and the
command (`# $ curriculum …`). `NAME.txt` is what it prints then; `pytest tests/messages/test_messages.py --rewrite`
rewrites them, to be read in the diff.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from curriculum.__main__ import main
from curriculum.errors import LINES_AT_MOST

ROOT = Path(__file__).resolve().parents[2]
MESSAGES = Path(__file__).parent
NAMES = sorted(path.stem for path in MESSAGES.glob("*.yaml"))

PLAIN = re.compile(r"[^!-~]")  # what a line may be shown without: blanks, and what cannot be printed
ABSENT = "tencentcloud-sdk-python"  # treated as not installed, so that the message is the same everywhere


@dataclass(frozen=True, slots=True)
class Case:
    """A wrong file with the command that meets it; `replaces` is None when the command alone is wrong."""

    data: bytes
    replaces: str | None
    command: list[str]
    beside: dict[str, str]

    @classmethod
    def load(cls, name: str) -> Case:
        data = (MESSAGES / f"{name}.yaml").read_bytes()
        head, beside = {}, {}
        for line in data.split(b"\n"):
            if not line.startswith(b"#"):
                break
            text = line.decode("utf-8", "replace")
            if found := re.match(r"# (file:|\$) (.*)", text):
                head[found[1]] = found[2]
            elif found := re.match(r"# beside: (\S+) (.*)", text):
                beside[found[1]] = "\n".join([*([beside[found[1]]] if found[1] in beside else []), found[2]])
        words = shlex.split(head["$"])
        assert words[0] == "curriculum"
        return cls(data, head.get("file:"), words[1:], beside)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the shipped project: its YAML files and nothing else."""
    folder = tmp_path / "project"
    folder.mkdir()
    for path in ("sources.yaml", "sizes.yaml", "machines.yaml"):
        shutil.copy(ROOT / path, folder)
    for path in ("stages", "mixtures"):
        shutil.copytree(ROOT / path, folder / path, ignore=lambda _, names: [n for n in names if n[-5:] != ".yaml"])
    return folder


def put(case: Case, project: Path) -> None:
    for path, content in case.beside.items():
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_text(content + "\n")
    if case.replaces is not None:
        (project / case.replaces).parent.mkdir(exist_ok=True)
        (project / case.replaces).write_bytes(case.data)


def said(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `curriculum COMMAND`, in this process."""
    monkeypatch.setattr(sys, "argv", ["curriculum", *command])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    code = ended.value.code
    assert isinstance(code, int)
    return code, out, err


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.promise(
    "A refusal is one screen with place, line and hint, exit code 2, before any process starts; each has "
    "its exact message on file"
)
@pytest.mark.parametrize("name", NAMES)
def test_a_refusal_is_one_screen_exit_code_two_and_nothing_is_started(
    name: str,
    project: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    pytestconfig: pytest.Config,
) -> None:
    case = Case.load(name)
    put(case, project)
    before = files(project)
    monkeypatch.chdir(project)
    monkeypatch.setattr(subprocess, "Popen", _started)
    distribution = metadata.distribution
    monkeypatch.setattr(metadata, "distribution", lambda package: _absent(distribution, package))
    code, out, err = said(case.command, capsys, monkeypatch)

    if pytestconfig.getoption("--rewrite"):
        (MESSAGES / f"{name}.txt").write_text(err)
    assert err == (MESSAGES / f"{name}.txt").read_text()
    assert code == 2
    assert out == ""
    lines = err.splitlines()
    assert len(lines) <= LINES_AT_MOST
    assert lines[0].startswith("error: ")
    assert sum(line.startswith("hint: ") for line in lines) == 1
    assert "Traceback" not in err
    if case.replaces is not None:
        shown = re.search(r"^  ([a-z0-9./-]+\.(?:yaml|json)):(\d+):(\d+)$", err, re.MULTILINE)
        assert shown is not None, "the refusal does not say where in which file the fault stands"
        number, column = shown[2], int(shown[3])
        text = re.search(rf"^  {number} │ (.*)$\n^  {' ' * len(number)} │ ( *)\^$", err, re.MULTILINE)
        assert text is not None, "the refusal does not show the line"
        dropped = column - 1 - len(text[2])  # where the line is cut at its beginning, for the column to be shown
        assert (dropped > 0) == (text[1].startswith("…"))
        assert len(text[2]) <= len(text[1].removesuffix("…"))
        written = (project / shown[1]).read_bytes().split(b"\n")[int(number) - 1].decode("utf-8", "replace")
        assert PLAIN.sub("", written[dropped + (dropped > 0) :]).startswith(PLAIN.sub("", text[1]))
    assert files(project) == before
    for folder in ("runs", "data"):
        assert (project / folder).exists() == any(path.startswith(f"{folder}/") for path in case.beside)


@pytest.mark.promise(
    "A refusal is one screen with place, line and hint, exit code 2, before any process starts; each has "
    "its exact message on file"
)
def test_every_wrong_file_has_its_message_and_every_message_its_file() -> None:
    assert sorted(path.stem for path in MESSAGES.glob("*.txt")) == NAMES
    assert len(NAMES) >= 50


@pytest.mark.processes
def test_a_refusal_in_a_process_of_its_own_ends_with_code_two_and_without_a_traceback(project: Path) -> None:
    case = Case.load("unknown-key")
    put(case, project)
    done = subprocess.run(
        [sys.executable, "-m", "curriculum", *case.command], cwd=project, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (MESSAGES / "unknown-key.txt").read_text()


MEANT = """\
about: no
seed: 010
model: tinyllama-1.1b
tokenizer: llama-2
sequence_length: 2048
optimizer: {name: adamw, betas: [0.9, 0.95], weight_decay: 0.1}
learning_rate: {shape: cosine, max: 3e-4, min: 3e-5, warmup: 2000 steps, horizon: 2T}
stages:
  - {name: basic, until: 1.5T, mixture: slimpajama, batch: 896 sequences}
  - {name: on, until: 2T}
"""


def test_numbers_and_words_are_read_as_people_mean_them(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "stages" / "v1.1.yaml").write_text(MEANT)
    monkeypatch.chdir(project)
    code, out, err = said(["plan", "v1.1", "--size", "full", "--json"], capsys, monkeypatch)
    assert (code, err) == (0, "")
    summary: dict[str, Any] = json.loads(out)
    assert summary["stages"][0]["ends_at"] == 1_500_001_599_488
    assert summary["stages"][1]["stage"] == "on"

    from curriculum.compiler.compile import compile_curriculum
    from curriculum.config.project import Project

    stages = compile_curriculum(Project(project), "v1.1", "full").stages
    assert stages[0].plan.seed == 10
    assert stages[0].plan.learning_rate.max == 3e-4
    assert stages[0].setting.until == 1_500_000_000_000
    assert Project(project).curriculum("v1.1")[0].about == "no"


def _started(*_: object, **__: object) -> None:
    raise AssertionError("a process was started")


def _absent(distribution: Any, package: str) -> metadata.Distribution:
    if package == ABSENT:
        raise metadata.PackageNotFoundError(package)
    found: metadata.Distribution = distribution(package)
    return found
