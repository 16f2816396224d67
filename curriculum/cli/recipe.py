"""The verb `recipe`: write a curriculum from the files of another trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from curriculum.cli.options import AsJson, open_console, print_json


def recipe(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="the files of one run: of several, in the order of its stages"),
    ],
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="the new curriculum's name")],
    tokens: Annotated[str, typer.Option(help="how long a stage is whose length no file states, as in 10B")] = "10B",
    as_json: AsJson = False,
) -> None:
    """Write a curriculum from a recipe of another trainer.

    It reads nanotron's stages, Megatron-LM's blends and phases, OLMo-core's source mixtures and TinyLlama's weights,
    and writes stages/, mixtures/ and entries of sources.yaml: into the project around this folder, or a new one in it.
    What no file states and what is left out of them is printed, a line each.
    """
    from curriculum.cli.view.recipe import draft_view
    from curriculum.config.recipes import project_files
    from curriculum.config.recipes.convert import read_recipe
    from curriculum.errors import PlanError
    from curriculum.units import parse_length

    try:
        length = parse_length(tokens)
    except ValueError as error:
        raise PlanError(f"`--tokens`: {error}", hint="as in `--tokens 10B`") from None
    source_recipe = read_recipe(files)
    draft = project_files.draft(source_recipe, name, length, Path.cwd())
    written = project_files.write(draft)
    if as_json:
        print_json(
            {
                "trainer": source_recipe.trainer,
                "written": [str(path.relative_to(draft.project.root)) for path in written],
                "stages": [
                    {"name": stage.name, "mixture": stage.mixture, "steps": stage.steps, "tokens": stage.tokens}
                    for stage in draft.stages
                ],
                "notes": list(source_recipe.notes),
                "assumed": list(draft.assumed),
                "left_out": list(source_recipe.left_out),
            }
        )
        return
    open_console().print(draft_view(source_recipe, draft))
    print(f"next: curriculum plan {name}{draft.project.options('full')}")
