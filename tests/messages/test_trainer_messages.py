"""What a faulty trainer gets: for every pair in tests/messages/trainers, the trainer and, to the letter, the refusal.

`NAME.py` is the trainer, with a line `# layout: hf` where its entry says so; `NAME.txt` is what `curriculum run` prints
at last. `pytest tests/messages/test_trainer_messages.py --rewrite` rewrites them, to be read in the diff.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from projects import MACHINES

from curriculum.artifacts import checkpoints
from curriculum.artifacts.stage_folder import StageFolder

pytestmark = pytest.mark.processes

MESSAGES = Path(__file__).parent / "trainers"
NAMES = sorted(path.stem for path in MESSAGES.glob("*.py"))
SOUND = """
from curriculum.stream import join

with join() as stage:
    for batch in stage.batches():
        stage.took(batch.step, loss=1.0)
        if stage.should_save():
            with stage.checkpoint() as folder:
                (folder / "config.json").write_text("{}")
                (folder / "model.safetensors").write_text("w")
"""


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    """The small project with its text prepared, nothing trained, and a trainer."""
    shutil.copytree(finished, tmp_path / "project", ignore=shutil.ignore_patterns("runs"))
    return tmp_path / "project"


def machine(layout: str) -> str:
    return (
        f"{MACHINES}mine:\n  {{device: cpu, threads: 1, trainer: {{name: mine, run: [python, train.py], "
        f"layout: {layout}}}}}\n"
    )


def written(error: str) -> str:
    """The refusal without what differs from run to run and from line to line of our own code."""
    told = re.sub(r"\n +", " ", error[error.index("error: ") :])
    told = re.sub(r"line \d+", "line N", re.sub(r"the whole log: .*", "the whole log: …", told))
    told = re.sub(r"/\S*/train\.py", "train.py", told)
    return re.sub(r'File "[^"]*/fork_server\.py".*?(?=File "train\.py")', "", told)  # of a trainer that tests fork


@pytest.mark.promise("A trainer that breaks the stage contract is refused by name, and nothing saved is lost")
@pytest.mark.parametrize("name", NAMES)
def test_a_faulty_trainer_is_refused_and_nothing_that_was_saved_is_lost(
    name: str, project: Path, curriculum: Callable[..., CompletedProcess[str]], pytestconfig: pytest.Config
) -> None:
    script = (MESSAGES / f"{name}.py").read_text()
    (project / "train.py").write_text(script)
    layout = "hf" if "# layout: hf" in script else "opaque"
    (project / "machines.yaml").write_text(machine(layout))
    done = curriculum(project, "run", "trunk", "--size", "full", "--machine", "mine", check=False)
    if pytestconfig.getoption("--rewrite"):
        (MESSAGES / f"{name}.txt").write_text(written(done.stderr))
    assert written(done.stderr) == (MESSAGES / f"{name}.txt").read_text()
    assert done.returncode in (1, 2)
    assert sum(line.startswith("hint: ") for line in done.stderr.splitlines()) == 1

    folder = StageFolder(project / "runs/full/trunk/basic")
    kept = checkpoints.list_checkpoints(folder)
    for checkpoint in kept:
        checkpoints.verify(checkpoint.path)
    assert not folder.done.exists()
    if name == "dies-in-checkpoint":  # the same command resumes, with the trainer corrected
        assert [checkpoint.position for checkpoint in kept] == [1024]
        (project / "train.py").write_text(SOUND)
        curriculum(project, "run", "trunk", "--size", "full", "--machine", "mine")
        assert StageFolder(project / "runs/full/trunk/cooldown").done.exists()


def test_every_faulty_trainer_has_its_message_and_every_message_its_trainer() -> None:
    assert sorted(path.stem for path in MESSAGES.glob("*.txt")) == NAMES
