"""A project of three trained variants, which the tests of `compare` and of claims share."""

from __future__ import annotations

import shutil
from pathlib import Path

import commands
import pytest
from comparisons import CONTROL, FULL, NAMES
from projects import BuiltOnce


@pytest.fixture(scope="session")
def three(finished: Path, built_once: BuiltOnce) -> Path:
    """A project whose trunk, variant and control are trained; read only."""

    def build(root: Path) -> None:
        shutil.copytree(finished, root)  # its variant is trained
        (root / "stages/control.yaml").write_text(CONTROL)
        for name in NAMES:
            commands.run("run", name, *FULL, folder=root, check=True)

    return built_once("three", build)


@pytest.fixture
def copy(three: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(three, tmp_path / "copy"))


@pytest.fixture(scope="session")
def filled(three: Path, built_once: BuiltOnce) -> Path:
    """The same, its gaps filled by one `compare`; read only."""

    def build(root: Path) -> None:
        shutil.copytree(three, root)
        commands.run("compare", *NAMES, *FULL, folder=root, check=True)

    return built_once("filled", build)
