"""One `run` resolves its names once and compiles its lineage once for each state of the prepared text."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest

from curriculum.compiler import compile as compiler, lineage
from curriculum.config.project import Project
from curriculum.execution.request import Listener, RunRequest
from curriculum.execution.run import run

STAGES = 3
"""Of `variant`: one of its trunk and two of its own."""


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "project"))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the stages compiled and resolved, and the look-ups of mixtures."""
    counts: Counter[str] = Counter()

    def count(owner: Any, name: str, label: Callable[..., str]) -> None:
        counted = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            counts[label(*arguments)] += 1
            return counted(*arguments, **options)

        monkeypatch.setattr(owner, name, call)

    count(compiler, "_compile_stage", lambda curriculum, *_: f"compiled {curriculum.name}")
    count(lineage, "_stages", lambda _, name, below: f"resolved {name}" if not below else "resolved a parent")
    count(Project, "mixture", lambda _, name: f"mixture {name}")
    return counts


def run_once(project: Path) -> None:
    listener = create_autospec(Listener, instance=True)
    result = run(RunRequest(project=Project(project), curriculum="variant", size="full", listener=listener))
    assert not result.stopped
    assert not listener.stage_started.called


def test_a_run_resolves_and_compiles_its_lineage_once(project: Path, calls: Counter[str]) -> None:
    run_once(project)
    assert calls == {
        "compiled variant": STAGES,
        "resolved variant": 1,
        "resolved a parent": 1,
        "mixture prose-only": 1,
        "mixture mixed": 1,
    }


def test_text_that_a_run_prepares_is_one_more_compilation(project: Path, calls: Counter[str]) -> None:
    shutil.rmtree(project / "data" / "code")
    run_once(project)
    assert calls["compiled variant"] == 2 * STAGES
    assert (calls["resolved variant"], calls["mixture mixed"]) == (1, 1)
