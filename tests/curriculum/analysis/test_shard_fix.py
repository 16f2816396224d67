"""The edit that leaves a bad shard behind names the file that a person must open, wherever it lies."""

from __future__ import annotations

from pathlib import Path

from curriculum.analysis import shard_fix
from curriculum.compiler.compile import compile_curriculum
from curriculum.config.project import Project


def test_the_mixture_to_edit_is_named_where_it_is(small_project: Path) -> None:
    for folder in ("mixtures", "mixtures/recipes"):
        (small_project / folder).mkdir(exist_ok=True)
        if folder != "mixtures":
            (small_project / "mixtures/prose-only.yaml").rename(small_project / folder / "prose-only.yaml")
        project = Project(small_project)
        compiled = compile_curriculum(project, "trunk", "full")
        asked = (project, compiled, compiled.stages[0], 0, range(1), "prose", 0)
        found = shard_fix.exclusion_edit(*asked, started=False, alone=True)
        assert (found["kind"], found["file"]) == ("replace", f"{folder}/prose-only.yaml")
