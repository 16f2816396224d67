"""Drift: started stages whose stored plan differs from the one that the current files describe. Read only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from curriculum.artifacts import checkpoints
from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.config.project import Project
from curriculum.errors import Place, PlanError
from curriculum.plan.stage import StagePlan
from curriculum.runs import folders
from curriculum.units import show_exact

if TYPE_CHECKING:
    from curriculum.plan.diff import compare


@dataclass(frozen=True, slots=True)
class PlanDrift:
    """A started stage whose current `plan` differs from the `stored` one.

    `saved` is the position of the last checkpoint in tokens, or of the end of a stage that is done and has none, None
    without either. `ahead` is whether the two plans are equal up to there and the stage is not done.
    """

    stage: CompiledStage
    stored: StagePlan
    plan: StagePlan
    saved: int | None
    ahead: bool

    def compared(self) -> compare.PlanDiff:
        """The stored plan compared with the current one."""
        # not at the top: commands start faster, and mostly nothing differs
        from curriculum.plan.diff import compare, timeline

        old, new = (timeline.Span(self.stage.name, plan, plan.end) for plan in (self.stored, self.plan))
        return compare.compare((old,), (new,))

    def words(self) -> str:
        """In what the files differ from what was trained, and where; the caller puts the stage's name before it."""
        plan = f"was {'started' if self.ahead else 'trained'} with another plan than the files describe now"
        compared = self.compared()
        if compared.same:
            return f"{plan}, though no step was found to differ"
        return f"{plan}; they differ in {describe(compared)}"

    def place(self, project: Project) -> Place:
        """The line of the files that causes the first difference."""
        from curriculum.plan.diff import compare

        setting, stored, plan = self.stage.setting, self.stored, self.plan
        parts = self.compared().parts
        what = parts[0].what if parts else compare.TOKENS
        if what == compare.TOKENS:
            if stored.labels.get("mixture") == setting.mixture and stored.blends[-1].weights != plan.blends[-1].weights:
                return project.mixture(setting.mixture)[1].place(("weights",))
            if stored.blends[0].ramp != plan.blends[0].ramp:
                return setting.place("ramp")
        keys = {
            compare.RATE: "learning_rate",
            compare.BATCH: "batch",
            compare.END: "until",
            compare.TOKENS: "mixture",
            compare.RESET: "optimizer",
            compare.HISTORY: "from",
            compare.WEIGHTS: "from",
            "document masking": "mask_documents",
            "the sequence length": "sequence_length",
        }
        return setting.place(keys.get(what, what.removeprefix("the ")))


def describe(compared: compare.PlanDiff, verb: str = "") -> str:
    """In what two plans differ, each with its first step, and the first with its position too."""
    return ", ".join(
        f"{part.what}{verb if number == 0 else ''} {'from' if part.exact else 'at the latest from'} step "
        f"{show_exact(part.step)} on" + (f" ({show_exact(part.position)} tokens)" if number == 0 else "")
        for number, part in enumerate(compared.parts)
    )


def find_drift(project: Project, compiled: Compiled, *, prepared: bool = False) -> Iterator[PlanDrift]:
    """Every started stage of a lineage whose plans differ before the lineage leaves it, root first.

    What is compared when not all text is `prepared`, `folders.started_stages` defines.
    """
    for stage, stored, plan in folders.started_stages(project, compiled, prepared=prepared):
        if stored.fingerprint == plan.fingerprint:
            continue
        folder = folders.stage_folder(project, compiled, stage)
        last, done = checkpoints.latest(folder), folder.done.exists()
        if last is None and not done:
            yield PlanDrift(stage, stored, plan, None, ahead=True)
            continue
        # `prune` may have deleted the weights of a stage that ended
        saved = stored.end if last is None else last.position
        if stage.stop <= saved and _same_until(stored, plan, min(saved, stage.stop)):
            continue  # this lineage leaves the stage before they differ
        yield PlanDrift(stage, stored, plan, saved, ahead=not done and _same_until(stored, plan, saved))


def as_trained(project: Project, compiled: Compiled) -> tuple[Compiled, tuple[str, ...]]:
    """The lineage with the stored plans of trained stages instead of the current ones, as far as they fit together.

    And a line for every stage with drift that says which of the two is shown.
    """
    drifts, lines = saved_drift(project, compiled)
    stages: list[CompiledStage] = []
    for stage in compiled.stages:
        drift = drifts.get(stage.name)
        if drift is not None and drift.ahead:
            lines.append(f"`{stage.name}` {drift.words()}. Shown is what the files ask for")
        elif drift is not None:
            lines.append(f"`{stage.name}` {drift.words()}. Shown is what was trained")
            stored = drift.stored
            early = stage.stop < stage.plan.end and stage.stop <= stored.end
            stage = replace(stage, plan=stored, stop=stage.stop if early else stored.end)
        if stages and stage.plan.start != stages[-1].stop:  # it does not continue the trained plan
            lines.append(f"`{stage.name}` would begin elsewhere than that ended, and is not shown")
            break
        stages.append(_with_its_text(project, compiled, stage))
    return replace(compiled, stages=tuple(stages)), tuple(lines)


def with_notes(project: Project, compiled: Compiled) -> Compiled:
    """The lineage of the current files, with a note at every stage that was trained by another plan."""
    drifts, lines = saved_drift(project, compiled)
    stages = [
        replace(stage, notes=(*stage.notes, drifts[stage.name].words())) if stage.name in drifts else stage
        for stage in compiled.stages
    ]
    stages[-1] = replace(stages[-1], notes=(*stages[-1].notes, *lines))
    return replace(compiled, stages=tuple(stages))


def saved_drift(project: Project, compiled: Compiled) -> tuple[dict[str, PlanDrift], list[str]]:
    """The drift of stages with a checkpoint by stage, and a line on a stored plan that cannot be read.

    After an unreadable plan nothing more is compared.
    """
    drifts: dict[str, PlanDrift] = {}
    try:
        for drift in find_drift(project, compiled):
            if drift.saved is not None:
                drifts[drift.stage.name] = drift
    except PlanError as error:
        return drifts, [f"not compared with what ran: {error.what}"]
    return drifts, []


def _with_its_text(project: Project, compiled: Compiled, stage: CompiledStage) -> CompiledStage:
    """The stage with the digests of its text from the stored plan, where the text is not prepared here."""
    if not any(segment.digest is None for source in stage.plan.sources.values() for segment in source.segments):
        return stage
    path = folders.stage_folder(project, compiled, stage).plan
    return replace(stage, plan=stage.plan.with_text_of(StagePlan.load(path))) if path.exists() else stage


def _same_until(stored: StagePlan, new: StagePlan, position: int) -> bool:
    try:
        return stored.history(position) == new.history(position)
    except PlanError:  # one of the two has no step boundary there
        return False
