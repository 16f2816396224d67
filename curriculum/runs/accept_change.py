"""Which edits of the files a started stage accepts: only what its training has not reached, and only on request.

A stage that has not started follows the files. A change strictly after a started stage's last checkpoint is accepted
on request, and the old plan is kept. Any other change is refused, but of an arm of a study, which is trained again on
request: its run is kept apart.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Final

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

REPLACED: Final = ".replaced"
"""The folder beside the arms of a study that keeps the runs of other plans."""


def check_started(
    project: Project, compiled: Compiled, *, accept: bool = False, prepared: bool = True, of_study: bool = False
) -> None:
    """Compare every started stage's stored plan with the files; Drift shows the difference and what to do.

    Before the text is `prepared`, what depends on it is not compared and nothing is accepted yet: an edit is refused
    before hours of preparation, and missing data is no difference. A curriculum `of_study` is an arm's: its own stages
    start again from where they leave the others.
    """
    for drift in find_drift(project, compiled, prepared=prepared):
        if drift.saved is None:
            if prepared:  # without a checkpoint nothing is lost with the old plan
                _replace(project, compiled, drift)
            continue
        again = of_study and not drift.ahead and drift.stage.setting.curriculum == compiled.curriculum
        if again and accept:
            if prepared:
                _set_aside(project, compiled, drift)
            continue
        if not (drift.ahead and accept):
            raise _refusal(project, compiled, drift, drift.saved, again=again)
        if not prepared:
            return  # later stages are compared once the change is accepted
        _replace(project, compiled, drift)


def _refusal(project: Project, compiled: Compiled, drift: PlanDrift, saved: int, *, again: bool) -> Drift:
    stage, compared = drift.stage, drift.compared()
    if compared.same:  # other parameters of, as far as can be shown, the same functions
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
    if drift.ahead:
        hint = "the change is ahead of the last checkpoint: `--accept-change` resumes with it and keeps the old plan"
    elif again:
        hint = f"put the files back; or `--accept-change` trains it again, and keeps this run in {REPLACED}/"
    else:
        hint = _way_out(compiled, drift, stage_folder(project, compiled, stage), first.same_until)
    return Drift(
        f"`{stage.name}` has started with another plan: {describe(compared, ' would change')}{after}. It is saved up "
        f"to {show_exact(saved)} tokens",
        place=drift.place(project),
        hint=hint,
    )


def _way_out(compiled: Compiled, drift: PlanDrift, folder: StageFolder, position: int) -> str:
    """The hint: put the files back, or branch where the change begins, at the nearest kept checkpoint before it."""
    stage, stored = drift.stage, drift.stored
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
        return f"put the files back, or give the edited curriculum a name other than `{name}` (stages/NEW-NAME.yaml)"
    return f"put the files back, or give the change a curriculum of its own that branches from {at}"


def _replace(project: Project, compiled: Compiled, drift: PlanDrift) -> None:
    """Replace the stage's stored plan; Busy as `_untrained` raises it."""
    with _untrained(project, compiled, drift) as folder:
        _replace_plan(folder, drift.stage.plan)


def _set_aside(project: Project, compiled: Compiled, drift: PlanDrift) -> None:
    """Move the run folder of an arm's stage to where no run is looked for; Busy as `_untrained` raises it."""
    with _untrained(project, compiled, drift) as folder:
        kept, name = folder.path.parent / REPLACED, folder.path.name
        number = next(at for at in itertools.count(1) if not (kept / f"{name}-{at:04d}").exists())
        fs.move(folder.path, kept / f"{name}-{number:04d}")


@contextlib.contextmanager
def _untrained(project: Project, compiled: Compiled, drift: PlanDrift) -> Iterator[StageFolder]:
    """The stage's run folder, while no process supervises or trains it; Busy when one does, or changed its plan."""
    stage = drift.stage
    folder = stage_folder(project, compiled, stage)
    supervised = fs.Lock(folder.supervised, f"`{stage.name}`")
    supervised.acquire(wait_seconds=1.0)
    with supervised, fs.Lock(folder.lock, f"`{stage.name}`"):
        if StagePlan.load(folder.plan).fingerprint != drift.stored.fingerprint:
            raise Busy(
                f"another process has just put another plan for `{stage.name}` in place",
                hint="run the same command again",
            )
        yield folder


def _replace_plan(folder: StageFolder, plan: StagePlan) -> None:
    """Keep the old plan under a number and replace it by `plan`; at every instant there is one."""
    old = fs.read_bytes(folder.plan)
    kept = folder.replaced_plans()
    if not kept or fs.read_bytes(kept[-1]) != old:  # a kill may come between the two writes
        fs.write_bytes(folder.replaced_plan(len(kept)), old)
    plan.save(folder.plan, replace=True)
