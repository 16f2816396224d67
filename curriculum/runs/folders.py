"""What lies in the folders of runs: how far each stage is, and its checkpoints. Nothing is changed here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction

from curriculum import config
from curriculum.artifacts import checkpoints, timing
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.compiler.lineage import Address, Setting
from curriculum.config.machines import SlurmEntry
from curriculum.config.project import Project
from curriculum.errors import CheckpointError
from curriculum.plan.stage import OPEN, StagePlan


def stage_folder(project: Project, compiled: Compiled, stage: CompiledStage) -> StageFolder:
    """The run folder of a stage at the lineage's size, which need not exist."""
    path = project.stage_folder(compiled.size_name, stage.setting.curriculum, stage.setting.stage)
    return StageFolder.open(path)


def started_stages(
    project: Project, compiled: Compiled, *, prepared: bool = False
) -> Iterator[tuple[CompiledStage, StagePlan, StagePlan]]:
    """Every begun stage of a lineage, root first: the plan that ran, and the one that the files ask for.

    Unless all text is `prepared`, what only that can tell is taken from what ran: text that is merely not here is no
    difference. Nor is the history that follows from it, of stages or of an import that is not read yet.
    """
    asked: dict[str, StagePlan] = {}
    for stage in compiled.stages:
        folder = stage_folder(project, compiled, stage)
        checkpoints.refuse_links(folder)
        if not folder.plan.exists():
            continue
        ran = StagePlan.load(folder.plan)
        plan = stage.plan if prepared else _with_text_of(stage, ran, asked)
        asked[stage.name] = plan
        yield stage, ran, plan


def _with_text_of(stage: CompiledStage, ran: StagePlan, asked: Mapping[str, StagePlan]) -> StagePlan:
    plan, before = stage.plan.with_text_of(ran), stage.parent
    if plan.parent is None:
        return plan
    if before is not None and before.name in asked:
        history = asked[before.name].history(before.stop)
    elif ran.parent is not None and (before is not None or plan.parent.fingerprint == OPEN):
        history = ran.parent.fingerprint  # nothing is left of what it grew from, or nothing is read yet
    else:
        return plan
    return replace(plan, parent=replace(plan.parent, fingerprint=history))


def is_reached(folder: StageFolder, stage: CompiledStage) -> bool:
    """Whether the stage's checkpoint at the position where this lineage leaves it is there."""
    return any(c.position == stage.stop for c in checkpoints.list_checkpoints(folder))


def is_finished(folder: StageFolder, stage: CompiledStage) -> bool:
    """Whether nothing is left to do here: reached, and where that is the stage's own end, said so in `DONE`."""
    return is_reached(folder, stage) and (stage.stop < stage.plan.end or folder.done.exists())


def checkpoint_at(folder: StageFolder, position: int) -> checkpoints.Checkpoint | None:
    """The checkpoint at exactly `position`, of the newest generation that has one."""
    exact = [c for c in checkpoints.list_checkpoints(folder) if c.position == position]
    return exact[-1] if exact else None


def branch_point(project: Project, compiled: Compiled, stage: CompiledStage) -> checkpoints.Checkpoint | None:
    """The checkpoint at which this lineage leaves `stage`; None while the stage has not come so far.

    CheckpointError naming the nearest before and after when the stage went past it without keeping one.
    """
    folder = stage_folder(project, compiled, stage)
    there = checkpoint_at(folder, stage.stop)
    if there is not None:
        return there
    kept = sorted({c.position for c in checkpoints.list_checkpoints(folder)})
    if not kept or kept[-1] < stage.stop:
        return None
    before = [position for position in kept if position < stage.stop][-1:]
    after = min(position for position in kept if position > stage.stop)
    start = stage.parent.stop if stage.parent else None
    nearest = [
        *([f"{before[0]:,} before"] if before else [f"{start:,} before, its start"] if start else []),
        f"{after:,} after",
    ]
    at = {position: address_at(stage.setting, stage.plan, position, compiled.scale) for position in kept}
    if stage.parent:
        parent = stage.parent
        at[parent.stop] = address_at(parent.setting, parent.plan, parent.stop, compiled.scale)
    last = compiled.stages[-1].declared_end
    left = [position for position in at if position < last]  # beyond it, nothing would be left to train
    proposed = f"branch at one of these, as in `{at[nearest_position(left, stage.stop)]}`; " if left else ""
    scale = f", in tokens of size `{compiled.size_name}`" if compiled.scaled else ""
    raise CheckpointError(
        f"`{stage.name}` was trained past {stage.stop:,} tokens and kept no checkpoint there; "
        f"the nearest: {' and '.join(nearest)}{scale}",
        hint=f"{proposed}`every: {{checkpoint: …}}` in the stage file says how often one is taken",
    )


def nearest_position(kept: list[int], position: int) -> int:
    return min(kept, key=lambda other: (abs(other - position), other))


def address_at(setting: Setting, plan: StagePlan, position: int, scale: Fraction) -> Address:
    """What a person writes for the step boundary at `position` of a stage: the stage's end, or a full-size position.

    Of all positions whose step boundary it is, that is the one with the fewest digits: people write `1.2T`.
    """
    if position == plan.end:
        return Address(setting.curriculum, setting.stage)
    most, beyond = int(position / scale), (position - plan.batch_tokens) / scale
    rounded = (most - most % 10**digits for digits in range(len(str(most)), -1, -1))
    return Address(setting.curriculum, position=next(each for each in rounded if each > beyond))


def grace_of(entry: config.MachineEntry) -> float | None:
    """Seconds from being asked to end to being killed on a machine; None where nothing says."""
    if entry.launcher == "slurm":
        return float((entry.slurm or SlurmEntry()).grace)
    return float(entry.grace) if entry.grace is not None else None


def insufficient_grace(project: Project, compiled: Compiled, entry: config.MachineEntry) -> str | None:
    """Why a run of this lineage that is ended on a machine cannot save first, where that was measured."""
    for stage in reversed(compiled.stages):
        folder = stage_folder(project, compiled, stage)
        if (save_timing := timing.measured(folder)) is not None:
            return save_timing.insufficient_grace(grace_of(entry))
    return None
