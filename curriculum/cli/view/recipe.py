"""What `recipe` prints: the stages it wrote, and what the foreign files do not state or what it left out of them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from curriculum.cli.view.tables import table
from curriculum.config.recipes.project_files import Draft
from curriculum.config.recipes.recipe import Recipe
from curriculum.units import show_exact


def draft_view(recipe: Recipe, draft: Draft) -> RenderableType:
    """The stages written from a recipe, notes, what it leaves to be assumed, and what of it has no key here."""
    drawn = table("stage", "mixture", "#sources", "#steps", "batch", "#tokens")
    for stage in draft.stages:
        steps = "" if stage.steps is None else show_exact(stage.steps)
        drawn.add_row(stage.name, stage.mixture, str(stage.sources), steps, stage.batch, show_exact(stage.tokens))
    if len(draft.stages) > 1:
        drawn.add_row("all", "", "", "", "", show_exact(sum(stage.tokens for stage in draft.stages)))
    others = len([path for path in draft.files if path.startswith("mixtures/")])
    what = f"{others} mixture{'s' * (others != 1)}, {draft.sources} new source{'s' * (draft.sources != 1)}"
    return Group(
        Text(f"{recipe.trainer}: wrote stages/{draft.name}.yaml, {what} in sources.yaml"),
        drawn,
        *_lines("notes", recipe.notes),
        *_lines("not stated there, so ours, for you to edit", draft.assumed),
        *_lines("left out", recipe.left_out),
    )


def _lines(title: str, lines: Sequence[str]) -> list[RenderableType]:
    shown: list[RenderableType] = [Text(f"  {line}", overflow="ignore", no_wrap=True) for line in lines]
    return [Text(f"\n{title}", style="bold"), *shown] if lines else []
