"""What an edit may still change once a stage has begun: nothing it has trained; what lies ahead, when asked to.

Three cases (design: only begun stages are frozen): a stage that has not begun follows the files freely; a change
strictly ahead of a begun stage's last checkpoint is accepted on request, the old plan kept; any other is refused.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from curriculum import checkpoints, diff, durable
from curriculum.errors import Busy, Drift, Place, PlanError
from curriculum.plan import StagePlan
from curriculum.planner import Compiled, CompiledStage
from curriculum.project import Project
from curriculum.runs import DONE, LOCK, PLAN, SUPERVISED, stage_folder
from curriculum.units import show_exact


def check_begun(project: Project, compiled: Compiled, *, accept: bool = False, prepared: bool = True) -> None:
    """Compare every begun stage's stored plan with the files; Drift shows the difference and the way out.

    Before the text is `prepared`, what it decides is left out of the comparison and nothing is accepted yet: so
    an edit is refused before hours of preparation, and data that is merely not here is no difference.
    """
    for stage in compiled.stages:
        folder = stage_folder(project, compiled, stage)
        path = folder / PLAN
        checkpoints.refuse_links(folder)
        if not path.exists():
            continue
        stored = StagePlan.load(path)
        plan = stage.plan if prepared else _as_if_prepared(stage.plan, stored)
        if stored.fingerprint == plan.fingerprint:
            continue
        last = checkpoints.latest(folder / "checkpoints")
        if last is None:
            if prepared:
                _replace(
                    folder, stage, stored
                )  # nothing was saved under the old plan: nothing is lost with it
            continue
        if stage.stop <= last.position and _same_until(stored, plan, min(last.position, stage.stop)):
            continue  # this lineage leaves the stage before the change
        ahead = _same_until(stored, plan, last.position) and not (folder / DONE).exists()
        if not (ahead and accept):
            raise _drift(project, compiled, stage, stored, plan, last.position, ahead)
        if not prepared:
            return  # what follows is compared once the change is carried out
        _replace(folder, stage, stored)


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


def _drift(
    project: Project,
    compiled: Compiled,
    stage: CompiledStage,
    stored: StagePlan,
    plan: StagePlan,
    saved: int,
    ahead: bool,
) -> Drift:
    old, new = diff.Stretch(stage.name, stored, stored.end), diff.Stretch(stage.name, plan, plan.end)
    compared = diff.compare((old,), (new,))
    if compared.same:  # the parameters have parted, the functions have not, as far as anyone can see
        return Drift(
            f"`{stage.name}` has begun with a plan that other numbers describe now, though no step was found to "
            "differ",
            place=stage.setting.place("mixture"),
            hint="put the files back as they were; `curriculum diff` shows both",
        )
    first = compared.parts[0]
    labels = ", ".join(part.what for part in compared.parts)
    moved = [entry for entry in compared.moved if entry.difference]
    after = "".join(
        f"{'; after it ' if number == 0 else ', '}{entry.source} {entry.difference:+,} tokens"
        for number, entry in enumerate(sorted(moved, key=lambda e: -abs(e.difference))[:3])
    )
    wording = "from" if first.exact else "at the latest from"
    if ahead:
        hint = "the change lies ahead of the last checkpoint: `--accept-change` goes on with it and keeps the old plan"
    else:
        hint = _way_out(compiled, stage, stage_folder(project, compiled, stage), first.same_until)
    return Drift(
        f"`{stage.name}` has begun with another plan: {labels} would change {wording} step "
        f"{show_exact(first.step)} on ({show_exact(first.position)} tokens){after}. It is saved up to "
        f"{show_exact(saved)} tokens",
        place=_place(project, stage, stored, plan, first.what),
        hint=hint,
    )


def _way_out(compiled: Compiled, stage: CompiledStage, folder: Path, position: int) -> str:
    """Put the files back, or branch where the change begins, naming the nearest kept checkpoint before it."""
    kept = [c.position for c in checkpoints.found(folder / "checkpoints") if c.position <= position]
    name = stage.setting.curriculum
    if kept and kept[-1] > stage.plan.start:
        at = f"the checkpoint at {show_exact(kept[-1])} tokens (`from: {name}@{int(kept[-1] / compiled.scale)}`)"
    elif stage.parent is not None:
        at = f"where this stage begins (`from: {stage.parent.name}`)"
    else:
        return f"put the files back, or give the edited curriculum a new name beside `{name}` (stages/NEW-NAME.yaml)"
    return f"put the files back, or give the change a curriculum of its own that branches from {at}"


def _place(project: Project, stage: CompiledStage, stored: StagePlan, plan: StagePlan, what: str) -> Place:
    """Where the first thing that differs is written."""
    setting = stage.setting
    if what == diff.TOKENS:
        if (
            stored.labels.get("mixture") == setting.mixture
            and stored.blends[-1].weights != plan.blends[-1].weights
        ):
            return project.mixture(setting.mixture)[1].place(("weights",))
        if stored.blends[0].ramp != plan.blends[0].ramp:
            return setting.place("ramp")
    keys = {
        diff.RATE: "learning_rate",
        diff.BATCH: "batch",
        diff.END: "until",
        diff.TOKENS: "mixture",
        diff.RESET: "optimizer",
        diff.HISTORY: "from",
        diff.WEIGHTS: "from",
        "document masking": "mask_documents",
        "the sequence length": "sequence_length",
    }
    return setting.place(keys.get(what, what.removeprefix("the ")))


def _same_until(stored: StagePlan, new: StagePlan, position: int) -> bool:
    try:
        return stored.history(position) == new.history(position)
    except PlanError:  # one of the two has no step boundary there
        return False


def _replace(folder: Path, stage: CompiledStage, stored: StagePlan) -> None:
    """Put the stage's plan in the place of the one that was compared, while nobody supervises or trains it."""
    watching = durable.Lock(folder / SUPERVISED, f"`{stage.name}`")
    watching.acquire(wait_seconds=1.0)
    with watching, durable.Lock(folder / LOCK, f"`{stage.name}`"):
        if StagePlan.load(folder / PLAN).fingerprint != stored.fingerprint:
            raise Busy(
                f"another process has just put another plan for `{stage.name}` in place",
                hint="say the same command again",
            )
        _replace_plan(folder, stage.plan)


def _replace_plan(folder: Path, plan: StagePlan) -> None:
    """Keep the old plan under a number and put `plan` in its place; at no instant is there none."""
    old = durable.read_bytes(folder / PLAN)
    kept = sorted(folder.glob("plan-*.json"))
    if not kept or durable.read_bytes(kept[-1]) != old:  # a kill may have come between the two
        durable.write_bytes(folder / f"plan-{len(kept):03d}.json", old)
    plan.save(folder / PLAN, replace=True)
