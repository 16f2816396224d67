"""What the run folders of a lineage say: how far each stage is, and its checkpoints. Read only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction

from curriculum import config
from curriculum.artifacts import checkpoints, ledger, timing
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.compiler.lineage import Address, Setting
from curriculum.config.machines import SlurmEntry
from curriculum.config.project import Project
from curriculum.errors import CheckpointError
from curriculum.plan.stage import OPEN, StagePlan
from curriculum.units import Length


def stage_folder(project: Project, compiled: Compiled, stage: CompiledStage) -> StageFolder:
    """The run folder of a stage at the lineage's size, which need not exist."""
    path = project.stage_folder(compiled.size_name, stage.setting.curriculum, stage.setting.stage)
    return StageFolder.open(path)


def started_stages(
    project: Project, compiled: Compiled, *, prepared: bool = False
) -> Iterator[tuple[CompiledStage, StagePlan, StagePlan]]:
    """Every started stage of a lineage, root first, with its stored plan and the plan of the current files.

    Unless all text is `prepared`, what depends on the text is taken from the stored plan: missing text is no
    difference, nor is the history that follows from it, of stages or of an import that is not read yet.
    """
    current: dict[str, StagePlan] = {}
    for stage in compiled.stages:
        folder = stage_folder(project, compiled, stage)
        checkpoints.refuse_links(folder)
        if not folder.plan.exists():
            continue
        stored = StagePlan.load(folder.plan)
        plan = stage.plan if prepared else _with_text_of(stage, stored, current)
        current[stage.name] = plan
        yield stage, stored, plan


def _with_text_of(stage: CompiledStage, stored: StagePlan, current: Mapping[str, StagePlan]) -> StagePlan:
    plan, before = stage.plan.with_text_of(stored), stage.parent
    points = [[(member.position, member.weight, member.ema) for member in each.average] for each in (plan, stored)]
    if points[0] == points[1]:  # what was trained by then depends on text that may be missing
        plan = replace(plan, average=stored.average)
    if plan.parent is None:
        return plan
    if before is not None and before.name in current:
        history = current[before.name].history(before.stop)
    elif stored.parent is not None and (before is not None or plan.parent.fingerprint == OPEN):
        history = stored.parent.fingerprint  # the parent has no plan on disk, or the import is not read yet
    else:
        return plan
    return replace(plan, parent=replace(plan.parent, fingerprint=history))


def is_reached(folder: StageFolder, stage: CompiledStage) -> bool:
    """Whether there is a checkpoint where this lineage leaves the stage."""
    return checkpoint_at(folder, stage.stop) is not None


def is_finished(folder: StageFolder, stage: CompiledStage) -> bool:
    """Whether the stage needs no training: reached and, where the lineage leaves it at its end, marked `DONE`."""
    return is_reached(folder, stage) and (stage.stop < stage.plan.end or folder.done.exists())


def checkpoint_at(folder: StageFolder, position: int) -> checkpoints.Checkpoint | None:
    """The checkpoint at `position` (tokens), of the newest generation that has one."""
    return next((c for c in reversed(checkpoints.list_checkpoints(folder)) if c.position == position), None)


def member_points(project: Project, stage: CompiledStage) -> list[checkpoints.Checkpoint | None]:
    """The checkpoints that an average is of, None for those that training has not reached.

    CheckpointError, with the place of the average in its stage file, for one that was deleted since or never taken.
    """
    document = stage.setting.document
    points: list[checkpoints.Checkpoint | None] = []
    for number, member in enumerate(stage.members):
        try:
            points.append(branch_point(project, member.compiled, member.stage, use="average"))
        except CheckpointError as error:
            paths = (("from", "average", number), ("from", "ema"), ("from", "average"))
            place = next((document.place(path) for path in paths if path in document), None)
            raise CheckpointError(f"`{stage.name}`: {error.what}", place=place, hint=error.hint) from None
    return points


def branch_point(
    project: Project, compiled: Compiled, stage: CompiledStage, *, use: str = "branch at"
) -> checkpoints.Checkpoint | None:
    """The checkpoint at which this lineage leaves `stage`; None while training has not reached it.

    CheckpointError that names the nearest checkpoints when the stage was trained past it and has none there: it was
    deleted since, or the cadence never took one. `use` is what they are proposed for.
    """
    folder = stage_folder(project, compiled, stage)
    checkpoint = checkpoint_at(folder, stage.stop)
    if checkpoint is not None:
        return checkpoint
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
    addresses = {position: address_at(stage.setting, stage.plan, position, compiled.scale) for position in kept}
    if (parent := stage.parent) is not None:
        addresses[parent.stop] = address_at(parent.setting, parent.plan, parent.stop, compiled.scale)
    last = compiled.stages[-1].declared_end
    # a branch has to end past its start; an average trains nothing
    usable = [position for position in addresses if position < last or use == "average"]
    example = addresses[nearest_position(usable, stage.stop)] if usable else None
    proposed = f"{use} one of these, as in `{example}`; " if example else ""
    scale = f", in tokens of size `{compiled.size_name}`" if compiled.scaled else ""
    pruned = any(entry.position == stage.stop for entry in ledger.read(folder))
    address = address_at(stage.setting, stage.plan, stage.stop, compiled.scale)
    keep = f"`keep: {Length(address.position or stage.plan.end, 'tokens')}`, or `every: {{keep: …}}`, in the stage file"
    raise CheckpointError(
        f"`{stage.name}` was trained past {stage.stop:,} tokens and "
        + ("its checkpoint there was pruned since" if pruned else "kept no checkpoint there")
        + f"; the nearest: {' and '.join(nearest)}{scale}",
        hint=proposed
        + (
            f"{keep} would have kept it: of the others the last {checkpoints.KEEP_LAST} stay"
            if pruned
            else f"`every: {{checkpoint: …}}` in the stage file says how often one is taken, and {keep} takes one there"
        ),
    )


def nearest_position(kept: list[int], position: int) -> int:
    return min(kept, key=lambda other: (abs(other - position), other))


def address_at(setting: Setting, plan: StagePlan, position: int, scale: Fraction) -> Address:
    """The address of the step boundary at `position` of a stage: the stage's end, or a full-size position.

    Of all full-size positions with this step boundary it has the one with the fewest digits: people write `1.2T`.
    """
    if position == plan.end:
        return Address(setting.curriculum, setting.stage)
    most, beyond = int(position / scale), (plan.position_before(plan.step_of(position - 1))) / scale
    rounded = (most - most % 10**digits for digits in range(len(str(most)), -1, -1))
    return Address(setting.curriculum, position=next(value for value in rounded if value > beyond))


def insufficient_grace(project: Project, compiled: Compiled, entry: config.MachineEntry) -> str | None:
    """Why a run of this lineage cannot save within a machine's grace, by the newest measurement; None when it can."""
    grace = (entry.slurm or SlurmEntry()).grace if entry.launcher == "slurm" else entry.grace
    for stage in reversed(compiled.stages):
        folder = stage_folder(project, compiled, stage)
        if (save_timing := timing.newest_timing(folder)) is not None:
            return save_timing.insufficient_grace(None if grace is None else float(grace))
    return None
