"""The files of a project that are missing, or that a link names and that are not there, are named at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from projects import write_small_project

from curriculum.compiler.compile import compile_curriculum
from curriculum.config.project import Project
from curriculum.errors import ConfigError


@pytest.mark.parametrize(
    ("files", "message", "hint"),
    [
        (["sources.yaml"], "`sources.yaml` is missing from the project", "shows one"),
        (["sources.yaml", "sizes.yaml"], "`sources.yaml`, `sizes.yaml` are missing from the project", "shows them"),
        (
            ["sources.yaml", "sizes.yaml", "machines.yaml"],
            "`sources.yaml`, `sizes.yaml`, `machines.yaml` are missing from the project",
            "shows them",
        ),
    ],
)
def test_all_missing_files_are_named_at_once(tmp_path: Path, files: list[str], message: str, hint: str) -> None:
    project = write_small_project(tmp_path, texts=False)
    for name in files:
        (project / name).unlink()
    with pytest.raises(ConfigError) as refused:
        compile_curriculum(Project(project), "trunk", "full")
    assert refused.value.what.startswith(message)
    assert hint in str(refused.value.hint)


@pytest.mark.parametrize(
    "file", ["stages/trunk.yaml", "stages/recipes/mine.yaml", "mixtures/mixed.yaml", "sources.yaml"]
)
def test_a_link_to_a_file_that_is_gone_is_named_with_its_target(tmp_path: Path, file: str) -> None:
    project = write_small_project(tmp_path, texts=False)
    link = project / file
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to("../elsewhere/gone.yaml")
    name = "mine" if "mine" in file else "variant"
    with pytest.raises(ConfigError) as refused:
        compile_curriculum(Project(project), name, "full")
    assert refused.value.what.startswith(
        f"`{file}` is a link to `../elsewhere/gone.yaml`, which cannot be followed: No such"
    )
    assert refused.value.hint == "put the file there again, or remove the link"
    if file.startswith("stages"):
        assert Path(file).stem in Project(project).names("stages")
