"""Recipes of other trainers, converted and planned as a user does it, in a folder of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from curriculum.compiler.compile import Compiled
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.project import Project
from curriculum.config.recipes import project_files
from curriculum.config.recipes.convert import read_recipe
from curriculum.config.recipes.project_files import Draft
from curriculum.config.recipes.recipe import Recipe
from curriculum.units import Length

FIXTURES: Final = Path(__file__).resolve().parents[1] / "fixtures/recipes"


def converted(folder: Path, *files: Path | str, name: str = "mine") -> tuple[Recipe, Draft]:
    """The recipe of `files`, those named by text being fixtures, written into the project of `folder` or a new one."""
    recipe = read_recipe([FIXTURES / file if isinstance(file, str) else file for file in files])
    draft = project_files.draft(recipe, name, Length(10**10, "tokens"), folder)
    project_files.write(draft)
    return recipe, draft


def planned(folder: Path, *files: Path | str, name: str = "mine") -> Compiled:
    """The plan of the written project at full size."""
    converted(folder, *files, name=name)
    return PreparedText.open(Project(folder), name, "full").compiled


def steps(compiled: Compiled) -> list[int]:
    return [stage.plan.steps for stage in compiled.stages]
