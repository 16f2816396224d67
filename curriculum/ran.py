"""What begun stages were trained by, where the files describe them otherwise by now. Nothing is changed here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from curriculum import checkpoints
from curriculum.errors import PlanError
from curriculum.plan import StagePlan
from curriculum.planner import Compiled, CompiledStage
from curriculum.project import Project
from curriculum.runs import DONE, PLAN, stage_folder
from curriculum.units import show_exact

if TYPE_CHECKING:
    from curriculum import diff


@dataclass(frozen=True, slots=True)
class Departure:
    """A begun stage whose files ask for another plan than the `stored` one; None is `saved` while nothing is.

    `ahead` is whether the two agree up to the last checkpoint, at `saved` tokens, and the stage is not done.
    """

    stage: CompiledStage
    stored: StagePlan
    plan: StagePlan
    saved: int | None
    ahead: bool

    def compared(self) -> diff.Comparison:
        """The stored plan beside the files'."""
        from curriculum import diff  # where nothing departs, answers come sooner without

        old = diff.Stretch(self.stage.name, self.stored, self.stored.end)
        return diff.compare((old,), (diff.Stretch(self.stage.name, self.plan, self.plan.end),))

    def words(self) -> str:
        """In what the files part from what ran, and where; the stage's name goes before it."""
        plan = f"was {'begun' if self.ahead else 'trained'} by another plan than the files describe now"
        compared = self.compared()
        if compared.same:
            return f"{plan}, though no step was found to differ"
        first = compared.parts[0]
        return (
            f"{plan}; they part in {', '.join(part.what for part in compared.parts)}"
            f"{'' if first.exact else ', at the latest'} at step {show_exact(first.step)} "
            f"({show_exact(first.position)} tokens)"
        )


def departures(project: Project, compiled: Compiled, *, prepared: bool = False) -> Iterator[Departure]:
    """Every begun stage of a lineage that the files describe otherwise before the lineage leaves it, root first.

    Unless all text is `prepared`, what only that can tell is left out of the comparison: data that is merely not
    here is no difference.
    """
    for stage in compiled.stages:
        folder = stage_folder(project, compiled, stage)
        checkpoints.refuse_links(folder)
        if not (folder / PLAN).exists():
            continue
        stored = StagePlan.load(folder / PLAN)
        plan = stage.plan if prepared else _as_if_prepared(stage.plan, stored)
        if stored.fingerprint == plan.fingerprint:
            continue
        last = checkpoints.latest(folder / "checkpoints")
        if last is None:
            yield Departure(stage, stored, plan, None, ahead=True)
            continue
        if stage.stop <= last.position and _same_until(stored, plan, min(last.position, stage.stop)):
            continue  # this lineage leaves the stage before the change
        ahead = _same_until(stored, plan, last.position) and not (folder / DONE).exists()
        yield Departure(stage, stored, plan, last.position, ahead)


def as_trained(project: Project, compiled: Compiled) -> tuple[Compiled, tuple[str, ...]]:
    """The lineage with the plans that were trained in the place of those that the files put there since.

    And a line for every stage that is concerned, with what is shown of it.
    """
    departed = {each.stage.name: each for each in departures(project, compiled) if each.saved is not None}
    if not departed:
        return compiled, ()
    stages, lines = [], []
    for stage in compiled.stages:
        departure = departed.get(stage.name)
        if departure is not None and departure.ahead:
            lines.append(f"`{stage.name}` {departure.words()}. Shown is what the files ask for")
        elif departure is not None:
            lines.append(f"`{stage.name}` {departure.words()}. Shown is what was trained")
            stored = departure.stored
            early = stage.stop < stage.plan.end and stage.stop <= stored.end
            stage = replace(stage, plan=stored, stop=stage.stop if early else stored.end)
        stages.append(stage)
    return replace(compiled, stages=tuple(stages)), tuple(lines)


def with_notes(project: Project, compiled: Compiled) -> Compiled:
    """The lineage as the files ask for it, with a note at every stage that something else was trained for."""
    words = {
        each.stage.name: each.words() for each in departures(project, compiled) if each.saved is not None
    }
    stages = (
        replace(stage, notes=(*stage.notes, words[stage.name])) if stage.name in words else stage
        for stage in compiled.stages
    )
    return replace(compiled, stages=tuple(stages)) if words else compiled


def _as_if_prepared(plan: StagePlan, stored: StagePlan) -> StagePlan:
    """`plan` with what only prepared text can tell taken from the plan that ran.

    Its history too: the stages before were compared already, each with its own plan.
    """
    sources = {
        name: stored.sources[name]
        if name in stored.sources and any(segment.digest is None for segment in source.segments)
        else source
        for name, source in plan.sources.items()
    }
    tokenizer = plan.tokenizer if plan.tokenizer.get("digest") else stored.tokenizer
    parent = stored.parent if plan.parent and stored.parent else plan.parent
    return replace(plan, sources=sources, tokenizer=tokenizer, parent=parent)


def _same_until(stored: StagePlan, new: StagePlan, position: int) -> bool:
    try:
        return stored.history(position) == new.history(position)
    except PlanError:  # one of the two has no step boundary there
        return False
