"""The reference is what the program does: generated pages are fresh, and the Python that is shown runs."""

from __future__ import annotations

import functools
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import commands
import pytest
import typer
import yaml

from curriculum.cli.app import app
from curriculum.config.entry import Entry

ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def generated() -> dict[str, str]:
    """What `make docs` would write now; a second of work, which collecting the tests does not need."""
    files: dict[str, str] = runpy.run_path(str(ROOT / "docs" / "generate.py"))["files"]()
    return files


@pytest.mark.promise(
    "The JSON schemas for editors accept everything that the program accepts, and refuse what one file "
    "suffices to refuse except arithmetic; reference and key tables are generated from the code"
)
def test_every_generated_page_is_what_the_code_says_now() -> None:
    stale = [path for path, text in generated().items() if (ROOT / path).read_text() != text]
    assert not stale, "run `make docs`"


def test_every_key_and_every_verb_is_in_the_reference() -> None:
    tables = "".join(text for path, text in generated().items() if path.endswith(".md"))
    for model in Entry.__subclasses__():
        for name, field in model.model_fields.items():
            assert (
                f"| `{field.alias or name}` | {(field.description or '').split('; as in')[0].rstrip('.')}" in tables
            ), f"{model}.{name}"
    for verb in typer.main.get_command(app).commands:
        assert f"\n## {verb}\n" in tables


README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("path", ["stages/v1.1-math-code.yaml", "mixtures/math-code.yaml"])
def test_a_file_that_the_readme_shows_is_the_shipped_one(path: str) -> None:
    shown = re.search(rf"^```yaml\n# {path}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert shown is not None
    assert yaml.safe_load(shown[1]) == yaml.safe_load((ROOT / path).read_text())


def test_the_readme_fits_150_lines_and_its_tree_has_every_package() -> None:
    assert len(README.splitlines()) <= 150
    tree = README.split("## The tree")[1]
    packages = {path.parent for path in ROOT.glob("curriculum/*/__init__.py")}
    listed = re.findall(r"^  ([a-z]+)/", tree, re.MULTILINE)
    assert sorted(listed) == sorted(package.name for package in packages)
    for package in ROOT.glob("runner/*/__init__.py"):
        assert re.search(rf"^runner/ .*\b{package.parent.name}\b", tree, re.MULTILINE), package


def test_the_losses_that_the_readme_shows_are_those_of_the_page_on_the_rehearsal() -> None:
    page = (ROOT / "docs/rehearsal.md").read_text()
    losses = re.search(r"^held-out loss .*?^```", README, re.MULTILINE | re.DOTALL)
    assert losses is not None
    assert losses[0].removesuffix("```") in page


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    listed = re.findall(r"([\w/.-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(page.relative_to(ROOT / "docs").as_posix() for page in ROOT.glob("docs/**/*.md"))


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


@pytest.mark.promise("A notebook gets flat tables; a refusal has its hint there too")
@pytest.mark.processes
def test_the_notebook_page_runs_as_it_is_shown(small_project: Path) -> None:
    """In a project of a few seconds whose files bear the shipped names."""
    project = small_project
    for old, new in (("trunk", "v1.1"), ("variant", "v1.1-math-code")):
        text = (project / "stages" / f"{old}.yaml").read_text().replace("from: trunk", "from: v1.1")
        (project / "stages" / f"{new}.yaml").write_text(text)
        (project / "stages" / f"{old}.yaml").unlink()
    (project / "sizes.yaml").write_text("rehearsal: {}\n")
    (project / "studies").mkdir()
    (project / "studies/domains.yaml").write_text(
        "for: v1.1-math-code/continual\nvary: {list: [mixed, prose-only]}\ngoal: {lower: {code: 1}}\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    commands.run("run", "v1.1-math-code", folder=project, check=True)
    code = blocks("docs/how-to/notebook.md")
    assert code.count("curriculum.open(") == 1
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "the tokens read" in done.stdout
    assert "did you mean `v1.1-math-code`?" in done.stdout
    assert "Empty DataFrame" not in done.stdout
