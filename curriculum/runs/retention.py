"""Which checkpoints are still needed, and why; `curriculum prune` may delete the others.

Kept are a stage's end, its newest ones (to resume from), those that its stage file keeps, every branch point (a pin,
a stage file that leaves the lineage there, a started run that continued from exactly these weights), and those with
tasks to measure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from curriculum.artifacts import checkpoints
from curriculum.artifacts.stage_folder import StageFolder, stage_folders
from curriculum.compiler.lineage import lineage, parse_address, stages_to
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config import layout
from curriculum.config.project import Project
from curriculum.errors import CheckpointError, CurriculumError, NotFound, PlanError, did_you_mean
from curriculum.plan.stage import StagePlan
from curriculum.runs.measurements import due_benchmarks

DECISIONS: Final = "decisions"
"""In a study's folder of runs, the records of what was decided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """A checkpoint with its size on disk and the reasons that keep it; without one it may be deleted."""

    stage: str
    checkpoint: checkpoints.Checkpoint
    bytes: int
    kept_by: tuple[str, ...]


def survey(project: Project, size: str, *, keep_last: int = 1, only: str | None = None) -> list[Retention]:
    """Judge every checkpoint at `size` (of curriculum `only`), oldest first within its stage.

    Of a study that is asked for by name and decided, an arm's end is needed no more. PlanError when a stage file cannot
    be read: its branch points are unknown then.
    """
    if only is not None and not _is_alive(project, only):
        runs = (folder.name for folder in project.runs.glob("*/*") if folder.is_dir())
        raise NotFound(
            f"unknown curriculum `{only}`: there is no stages/{only}.yaml and no run of it",
            hint=did_you_mean(only, {*project.names("stages"), *project.names("studies"), *runs}),
        )
    points, waiting, stated = _branch_points(project, size)
    parents = _parent_histories(project, size)
    verdicts = []
    for folder in _stages(project, size):
        curriculum, stage = folder.curriculum, folder.stage
        if only is not None and curriculum != only:
            continue
        kept = checkpoints.list_checkpoints(folder)
        pins = checkpoints.pinned(folder)
        plan = StagePlan.load(folder.plan) if folder.plan.exists() else None
        left_at = points.get((curriculum, stage), {})
        ended = curriculum == only and folder.done.exists() and is_decided(project, size, curriculum)
        gone = {by for names in pins.values() for by in names if not _is_alive(project, by)}
        for checkpoint in kept:
            reasons = []
            if plan is None or (checkpoint.position == plan.end and not ended):
                reasons.append("its stage's end" if plan else "its stage has no plan")
            if checkpoint in kept[-keep_last:] and not ended:
                reasons.append("among the newest of its stage")
            if {checkpoint.position, None} & stated.get((curriculum, stage), set()):
                reasons.append("kept by its stage file")
            history = _history(checkpoint)
            if history is None:
                reasons.append("it cannot be read: `curriculum verify` says why")
            pinned = {*pins.get(checkpoint.position, ())}
            branched = {
                *(pinned - gone),
                *left_at.get(checkpoint.position, ()),
                *left_at.get(None, ()),
                *parents.get(history or "", ()),
            }
            if others := branched - {curriculum}:
                reasons.append(f"branched from by {', '.join(sorted(others))}")
            if not reasons and curriculum in branched:
                reasons.append("a later stage of its own continued from it")
            reasons += [
                f"pinned by {by}, whose stage file is gone (`curriculum prune --unpin {by}{project.options(size)}` "
                "releases it)"
                for by in sorted(pinned & gone)
            ]
            if tasks := waiting.get((curriculum, stage, checkpoint.position)):
                reasons.append(f"not measured yet: {', '.join(tasks)}")
            verdicts.append(
                Retention(
                    stage=f"{curriculum}/{stage}",
                    checkpoint=checkpoint,
                    bytes=sum(file.stat().st_size for file in checkpoint.path.iterdir()),
                    kept_by=tuple(reasons),
                )
            )
    return verdicts


def is_decided(project: Project, size: str, study: str) -> bool:
    """Whether `study` is a study with a record of a decision at `size`."""
    return study in project.names("studies") and any((project.runs / size / study / DECISIONS).glob("*.json"))


def prune(verdicts: list[Retention]) -> list[Retention]:
    """Delete checkpoints without a reason, unless pinned meanwhile; returns those that were deleted."""
    return [verdict for verdict in verdicts if not verdict.kept_by and checkpoints.discard(verdict.checkpoint)]


def release(project: Project, size: str, name: str) -> dict[str, list[int]]:
    """Release what `name` pins at `size`, by stage; PlanError while it has a stage file or a run folder."""
    pinning = {
        folder: {by for names in checkpoints.pinned(folder).values() for by in names}
        for folder in _stages(project, size)
    }
    released = {}
    for folder, names in pinning.items():
        if name not in names:
            continue
        with checkpoints.pinning(folder):
            reason, way_out = "", ""
            if name in project.names("stages"):
                reason, way_out = _file(project, name), "move that file out of stages/"
            elif run_folders := project.runs_of(name):
                reason = run_folders[0].relative_to(project.root).as_posix()
                way_out = "move that folder out of runs/"
            if reason:
                raise PlanError(
                    f"`{name}` still needs what it pins: there is `{reason}`",
                    hint=f"{way_out} first, if it is not needed",
                )
            released[folder.name] = checkpoints.unpin(folder, name)
    if not released:
        raise NotFound(
            f"`{name}` pins nothing at size `{size}`", hint=did_you_mean(name, set().union(*pinning.values()))
        )
    return released


def _is_alive(project: Project, name: str) -> bool:
    """Whether a curriculum has a stage file or a run folder."""
    return name in (*project.names("stages"), *project.names("studies")) or bool(project.runs_of(name))


def _stages(project: Project, size: str) -> list[StageFolder]:
    return [folder for folder in stage_folders(project.runs / size) if folder.checkpoints.is_dir()]


def _branch_points(
    project: Project, size: str
) -> tuple[
    dict[tuple[str, str], dict[int | None, set[str]]],
    dict[tuple[str, str, int], tuple[str, ...]],
    dict[tuple[str, str], set[int | None]],
]:
    """Where the project's stage files leave each stage, in tokens at this size (None: at an unknown position).

    And the tasks that are due at each checkpoint, and the positions that each stage's file keeps (None: unknown ones).
    """
    points: dict[tuple[str, str], dict[int | None, set[str]]] = {}
    waiting: dict[tuple[str, str, int], tuple[str, ...]] = {}
    stated: dict[tuple[str, str], set[int | None]] = {}
    for name in project.names("stages"):
        try:
            stages = lineage(project, name)
        except CurriculumError as error:
            raise PlanError(
                f"`{_file(project, name)}` cannot be read, so what it branches from is not known: {error.what}",
                place=error.place,
                hint="mend that file first, or move it out of stages/ if it is not needed",
            ) from None
        try:
            compiled = PreparedText.open(project, name, size).compiled
        except CurriculumError:  # it cannot be compiled at this size now, but may be later
            for leaving in stages:
                where = (leaving.setting.curriculum, leaving.setting.stage)
                if leaving.setting.curriculum != name:
                    points.setdefault(where, {}).setdefault(None, set()).add(name)
                elif leaving.setting.keep or leaving.setting.every.keep:
                    stated[where] = {None}
            continue
        for stage in compiled.stages:
            where = (stage.setting.curriculum, stage.setting.stage)
            if stage.setting.curriculum != name:
                points.setdefault(where, {}).setdefault(stage.stop, set()).add(name)
            else:
                stated[where] = {*stage.keep}
        for gap in due_benchmarks(project, compiled):
            waiting[gap.stage.setting.curriculum, gap.stage.setting.stage, gap.position] = gap.names
    for study, where, position in _left_by_studies(project, size):
        points.setdefault(where, {}).setdefault(position, set()).add(study)
    return points, waiting, stated


def _left_by_studies(project: Project, size: str) -> Iterator[tuple[str, tuple[str, str], int | None]]:
    """Each study, the stage that its arms leave, and where; None where that is not known at this size."""
    for name in project.names("studies"):
        try:
            file, _ = project.study(name)
            if file.from_ is None:
                continue  # its arms leave where a stage begins, at the end of another
            stages = stages_to(project, parse_address(file.from_))
        except CurriculumError as error:
            raise PlanError(
                f"`studies/{name}.yaml` cannot be read, so what it branches from is not known: {error.what}",
                place=error.place,
                hint="mend that file first, or move it out of studies/ if it is not needed",
            ) from None
        last = stages[-1].setting
        try:
            stop = PreparedText.open(project, last.curriculum, size, stages).compiled.stop
        except CurriculumError:  # it cannot be compiled at this size now, but may be later
            stop = None
        yield name, (last.curriculum, last.stage), stop


def _file(project: Project, name: str) -> str:
    files = layout.files(project.root, "stages", name)
    return files[0].relative_to(project.root).as_posix() if files else f"stages/{name}.yaml"


def _parent_histories(project: Project, size: str) -> dict[str, set[str]]:
    """Histories that started stages continued from, with their curricula; also those without a stage file."""
    histories: dict[str, set[str]] = {}
    for folder in stage_folders(project.runs / size):
        for path in folder.plans():
            plan = StagePlan.load(path)
            if plan.parent is not None:
                histories.setdefault(plan.parent.fingerprint, set()).add(folder.curriculum)
    return histories


def _history(checkpoint: checkpoints.Checkpoint) -> str | None:
    try:
        return str(checkpoints.state(checkpoint.path)["history"])
    except (CheckpointError, KeyError):
        return None
