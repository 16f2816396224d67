"""The reference is what the program does: generated pages are fresh, and the Python that is shown runs."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import commands
import pytest
import typer

from curriculum.cli import app
from curriculum.schema.entry import Entry

ROOT = Path(__file__).resolve().parents[1]
GENERATED: dict[str, str] = runpy.run_path(str(ROOT / "docs" / "generate.py"))["files"]()


@pytest.mark.parametrize("path", GENERATED)
def test_a_generated_page_is_what_the_code_says_now(path: str) -> None:
    assert (ROOT / path).read_text() == GENERATED[path], "run `make docs`"


def test_every_key_and_every_verb_is_in_the_reference() -> None:
    tables = "".join(text for path, text in GENERATED.items() if path.endswith(".md"))
    for model in Entry.__subclasses__():
        for name, field in model.model_fields.items():
            assert (
                f"| `{field.alias or name}` | {(field.description or '').split('; as in')[0].rstrip('.')}"
                in tables
            ), f"{model}.{name}"
    for verb in typer.main.get_command(app).commands:
        assert f"\n## {verb}\n" in tables


def blocks(page: str) -> str:
    """The Python blocks of a page, one after the other, each on the lines where the page has it."""
    lines, inside = [], False
    for line in (ROOT / page).read_text().splitlines():
        if line.startswith("```"):
            inside = line == "```python"
            lines.append("")
        else:
            lines.append(line if inside else "")
    return "\n".join(lines)


@pytest.mark.processes
def test_the_notebook_page_runs_as_it_is_shown(small_project: Path) -> None:
    """In a project of a few seconds whose files bear the shipped names."""
    project = small_project
    for old, new in (("trunk", "v1.1"), ("variant", "v1.1-math-code")):
        text = (project / "stages" / f"{old}.yaml").read_text().replace("from: trunk", "from: v1.1")
        (project / "stages" / f"{new}.yaml").write_text(text)
        (project / "stages" / f"{old}.yaml").unlink()
    (project / "sizes.yaml").write_text("rehearsal: {}\n")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    commands.run("run", "v1.1-math-code", folder=project, check=True)
    code = blocks("docs/how-to/notebook.md")
    assert code.count("curriculum.open(") == 1
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "the tokens read" in done.stdout
    assert "did you mean `v1.1-math-code`?" in done.stdout
    assert "Empty DataFrame" not in done.stdout
