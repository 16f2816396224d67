"""The lists of the documentation are complete: packages in the tour and the README, pages in the overview."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = sorted(
    path.parent.name for package in ("curriculum", "runner") for path in ROOT.glob(f"{package}/*/__init__.py")
)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_tour_walks_through_each_package_and_the_readme_names_it(package: str) -> None:
    assert f"\n| `{package}` | " in (ROOT / "docs/tour.md").read_text()
    assert re.search(rf"\b{package}\b", (ROOT / "README.md").read_text().split("## The tree")[1])


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/**/*.md")), ids=lambda path: path.name)
def test_the_overview_and_the_site_list_each_page(page: Path) -> None:
    name = str(page.relative_to(ROOT / "docs"))
    assert name in (ROOT / "mkdocs.yml").read_text()
    assert name == "README.md" or name.startswith("decisions/") or f"({name})" in (ROOT / "docs/README.md").read_text()


def test_the_files_that_contributing_sends_to_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    paths = re.findall(r"`((?:curriculum|runner|tests|docs)/[\w/.-]*)`", text)
    assert len(paths) > 40
    assert not [path for path in paths if not (ROOT / path).exists()]
