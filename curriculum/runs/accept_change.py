"""What an edit may still change once a stage has begun: nothing it has trained; what lies ahead, when asked to.

Three cases (design: only begun stages are frozen): a stage that has not begun follows the files freely; a change
strictly ahead of a begun stage's last checkpoint is accepted on request, the old plan kept; any other is refused.
"""

from __future__ import annotations

from curriculum import fs
from curriculum.artifacts import checkpoints
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.compiler.compile import Compiled
from curriculum.config.project import Project
from curriculum.errors import Busy, Drift
from curriculum.plan.stage import StagePlan
from curriculum.runs.drift import PlanDrift, describe, find_drift
from curriculum.runs.folders import address_at, stage_folder
from curriculum.units import show_exact


def check_started(
    project: Project, compiled: Compiled, *, accept: bool = False, prepared: bool = True
) -> None:
    """Compare every begun stage's stored plan with the files; Drift shows the difference and the way out.

    Before the text is `prepared`, what it decides is left out of the comparison and nothing is accepted yet: so
    an edit is refused before hours of preparation, and data that is merely not here is no difference.
    """
    for departure in find_drift(project, compiled, prepared=prepared):
        if departure.saved is None:
            if prepared:  # nothing was saved under the old plan: nothing is lost with it
                _replace(project, compiled, departure)
            continue
        if not (departure.ahead and accept):
            raise _drift(project, compiled, departure, departure.saved)
        if not prepared:
            return  # what follows is compared once the change is carried out
        _replace(project, compiled, departure)


def _drift(project: Project, compiled: Compiled, departure: PlanDrift, saved: int) -> Drift:
    stage, compared = departure.stage, departure.compared()
    if compared.same:  # the parameters have parted, the functions have not, as far as anyone can see
        return Drift(
            f"`{stage.name}` has started with a plan that other numbers describe now, though no step was found to "
            "differ",
            place=stage.setting.place("mixture"),
            hint="put the files back as they were; `curriculum diff` shows both",
        )
    first = compared.parts[0]
    moved = [entry for entry in compared.moved if entry.difference]
    after = "".join(
        f"{'; after it ' if number == 0 else ', '}{entry.source} {entry.difference:+,} tokens"
        for number, entry in enumerate(sorted(moved, key=lambda e: -abs(e.difference))[:3])
    )
    if departure.ahead:
        hint = "the change lies ahead of the last checkpoint: `--accept-change` resumes with it and keeps the old plan"
    else:
        hint = _way_out(compiled, departure, stage_folder(project, compiled, stage), first.same_until)
    return Drift(
        f"`{stage.name}` has started with another plan: {describe(compared, ' would change')}{after}. It is saved up "
        f"to {show_exact(saved)} tokens",
        place=departure.place(project),
        hint=hint,
    )


def _way_out(compiled: Compiled, departure: PlanDrift, folder: StageFolder, position: int) -> str:
    """Put the files back, or branch where the change begins, naming the nearest kept checkpoint before it."""
    stage, stored = departure.stage, departure.stored
    kept = [c.position for c in checkpoints.list_checkpoints(folder) if c.position <= position]
    if kept and max(kept) > stored.start:
        point = address_at(stage.setting, stored, max(kept), compiled.scale)
        at = f"the checkpoint at {show_exact(max(kept))} tokens (`from: {point}`)"
    elif stage.parent is not None:
        parent = stage.parent
        point = address_at(parent.setting, parent.plan, parent.stop, compiled.scale)
        at = f"where this stage begins (`from: {point}`)"
    else:
        name = stage.setting.curriculum
        return f"put the files back, or give the edited curriculum a new name beside `{name}` (stages/NEW-NAME.yaml)"
    return f"put the files back, or give the change a curriculum of its own that branches from {at}"


def _replace(project: Project, compiled: Compiled, departure: PlanDrift) -> None:
    """Put the stage's plan in the place of the one that was compared, while nobody supervises or trains it."""
    stage = departure.stage
    folder = stage_folder(project, compiled, stage)
    watching = fs.Lock(folder.supervised, f"`{stage.name}`")
    watching.acquire(wait_seconds=1.0)
    with watching, fs.Lock(folder.lock, f"`{stage.name}`"):
        if StagePlan.load(folder.plan).fingerprint != departure.stored.fingerprint:
            raise Busy(
                f"another process has just put another plan for `{stage.name}` in place",
                hint="say the same command again",
            )
        _replace_plan(folder, stage.plan)


def _replace_plan(folder: StageFolder, plan: StagePlan) -> None:
    """Keep the old plan under a number and put `plan` in its place; at no instant is there none."""
    old = fs.read_bytes(folder.plan)
    kept = folder.replaced_plans()
    if not kept or fs.read_bytes(kept[-1]) != old:  # a kill may have come between the two
        fs.write_bytes(folder.replaced_plan(len(kept)), old)
    plan.save(folder.plan, replace=True)
