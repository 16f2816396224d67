"""A run that an earlier version began: continued without consent, to the same bits, and readable by every verb."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest
import torch
from projects import TRUNK, write_small_project

from runner.monitor import hardware

pytestmark = pytest.mark.processes

FULL = ("--size", "full")
OLDER_RUN = Path(__file__).parents[2] / "fixtures/run-of-64ec017.tar.xz"
"""`runs/` and `data/` of `TRUNK` with a smaller model, stopped by Ctrl-C at 2,048 of 12,288 tokens."""
WEIGHTS = {
    "basic": "da52cc412f14ae51b785220d86ec76d346c235c1804d96b71aaf2b2468cbfaac",
    "continual": "93f43c040758647f7b018beac08016760066d1038ea179c27e9cf4d7f113b37d",
    "cooldown": "d6621f2cbed6477fd38312e9cbb33723db1c4eba9d1e31e5437cb868c5c4d4f2",
}
"""What 64ec017 itself ended with from there."""
LOSSES = {"basic": 2.434, "continual": 2.229, "cooldown": 2.219}
SMALLER = {
    "hidden_size: 32, num_hidden_layers: 2": "hidden_size: 16, num_hidden_layers: 1",
    "num_attention_heads: 4, num_key_value_heads: 2": "num_attention_heads: 2, num_key_value_heads: 1",
    "intermediate_size: 64": "intermediate_size: 32",
}


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    """The environment in which the run was started."""
    with tarfile.open(OLDER_RUN) as archive:
        file = archive.extractfile("runs/full/trunk/basic/attempts/0001/environment.json")
        assert file is not None
        value: dict[str, Any] = json.load(file)
    return value


def here() -> dict[str, Any]:
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "processor": hardware.processor()[0],
        "device": hardware.device_name(torch.device("cpu")),
    }


@pytest.fixture(scope="module")
def continued(tmp_path_factory: pytest.TempPathFactory, recorded: dict[str, Any]) -> Path:
    """The project of that run, run to its end by this version, as if it had been started on this machine."""
    project = write_small_project(tmp_path_factory.mktemp("older") / "project")
    trunk = TRUNK
    for larger, smaller in SMALLER.items():
        trunk = trunk.replace(larger, smaller)
    (project / "stages/trunk.yaml").write_text(trunk)
    (project / "sizes.yaml").write_text("full: {}\n")  # as it was then
    with tarfile.open(OLDER_RUN) as archive:
        archive.extractall(project, filter="data")
    environment = project / "runs/full/trunk/basic/attempts/0001/environment.json"
    environment.write_text(json.dumps(recorded | here()))
    done = commands.run("run", "trunk", *FULL, folder=project)
    assert done.returncode == 0, done.stderr
    assert "2,048 tokens" in done.stdout
    return project


def test_a_run_of_an_earlier_version_ends_in_the_same_bits_without_any_consent(
    continued: Path, recorded: dict[str, Any]
) -> None:
    same_machine = here().items() <= recorded.items()
    for stage, loss in LOSSES.items():
        folder = continued / "runs/full/trunk" / stage
        done = json.loads((folder / "DONE").read_text())
        last = json.loads((folder / f"evaluations/{done['checkpoint']}.json").read_text())
        assert last["sets"]["prose"]["loss"] == pytest.approx(loss, abs=6e-4)
        if same_machine:  # another processor may add up in another order
            assert done["weights"] == WEIGHTS[stage]


def test_nothing_of_the_training_code_is_said_to_have_changed_since_then(continued: Path) -> None:
    second = json.loads((continued / "runs/full/trunk/basic/attempts/0002/environment.json").read_text())
    assert second["accepted"] == []
    assert second["changed"].keys() <= {"code", "platform", "python", "threads"}


@pytest.mark.parametrize(
    "words",
    [
        ("status", *FULL),
        ("compare", "trunk", "variant", *FULL, "--no-fill"),
        ("report", "trunk", *FULL),
        ("verify", "trunk", *FULL),
        ("diff", "trunk", *FULL),
        ("trace", "trunk", "--source", "prose", "--shard", "0", *FULL),
        ("export", "trunk@4096", "--to", "out", *FULL),
    ],
    ids=lambda words: words[0],
)
def test_every_verb_reads_what_the_earlier_version_wrote(continued: Path, words: tuple[str, ...]) -> None:
    done = commands.run(*words, folder=continued)
    assert done.returncode == 0, done.stderr
