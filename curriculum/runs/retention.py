"""Which checkpoints somebody still needs, and why; the others are what `curriculum prune` may delete.

Kept are a stage's end, its newest ones (to go on from), every one that somebody branches from (a pin, a stage file
that leaves the lineage there, a begun run that grew out of exactly these weights), and those that wait for a task.
"""

from __future__ import annotations

from dataclasses import dataclass

from curriculum.artifacts import checkpoints
from curriculum.artifacts.stage_folder import StageFolder, stage_folders
from curriculum.compiler.lineage import lineage
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config import layout
from curriculum.config.project import Project
from curriculum.errors import CheckpointError, CurriculumError, NotFound, PlanError, did_you_mean
from curriculum.plan.stage import StagePlan
from curriculum.runs.measurements import due_benchmarks


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A checkpoint with its size on disk and the reasons that keep it; without one it may go."""

    stage: str
    checkpoint: checkpoints.Checkpoint
    bytes: int
    kept_by: tuple[str, ...]


def survey(project: Project, size: str, *, keep_last: int = 1, only: str | None = None) -> list[Verdict]:
    """Judge every checkpoint at `size` (of curriculum `only`), oldest first within its stage.

    PlanError when a stage file cannot be read: what it branches from is not known then.
    """
    if only is not None:
        _check_known(project, only)
    claims, waiting = _claims(project, size)
    roots = _parents_of_begun(project, size)
    verdicts = []
    for folder in _stages(project, size):
        curriculum, stage = folder.curriculum, folder.stage
        if only is not None and curriculum != only:
            continue
        found = checkpoints.list_checkpoints(folder)
        pins = checkpoints.pinned(folder)
        plan = StagePlan.load(folder.plan) if folder.plan.exists() else None
        whole = claims.get((curriculum, stage), {})
        gone = {by for names in pins.values() for by in names if not _is_alive(project, by)}
        for checkpoint in found:
            reasons = []
            if plan is None or checkpoint.position == plan.end:
                reasons.append("its stage's end" if plan else "its stage has no plan")
            if checkpoint in found[-keep_last:]:
                reasons.append("among the newest of its stage")
            history = _history(checkpoint)
            if history is None:
                reasons.append("it cannot be read: `curriculum verify` says why")
            pinned = {*pins.get(checkpoint.position, ())}
            branched = {
                *(pinned - gone),
                *whole.get(checkpoint.position, ()),
                *whole.get(None, ()),
                *roots.get(history or "", ()),
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
                Verdict(
                    stage=f"{curriculum}/{stage}",
                    checkpoint=checkpoint,
                    bytes=sum(file.stat().st_size for file in checkpoint.path.iterdir()),
                    kept_by=tuple(reasons),
                )
            )
    return verdicts


def prune(verdicts: list[Verdict]) -> list[Verdict]:
    """Delete what nothing keeps; returns what was deleted. One that was pinned meanwhile stays."""
    return [
        verdict for verdict in verdicts if not verdict.kept_by and checkpoints.discard(verdict.checkpoint)
    ]


def release(project: Project, size: str, name: str) -> dict[str, list[int]]:
    """Release what `name` pins at `size`: each stage with the positions. Refused while there is anything of it."""
    pinning = {
        folder: {by for names in checkpoints.pinned(folder).values() for by in names}
        for folder in _stages(project, size)
    }
    released = {}
    for folder, names in pinning.items():
        if name not in names:
            continue
        with checkpoints.pinning(folder):
            if name in project.names("stages"):
                raise PlanError(
                    f"`{name}` still needs what it pins: there is `{_file(project, name)}`",
                    hint="move that file out of stages/ first, if nobody needs it",
                )
            if left := project.runs_of(name):
                raise PlanError(
                    f"`{name}` still needs what it pins: there is `{left[0].relative_to(project.root).as_posix()}`",
                    hint="move that folder out of runs/ first, if nobody needs it",
                )
            released[folder.name] = checkpoints.unpin(folder, name)
    if not released:
        raise NotFound(
            f"`{name}` pins nothing at size `{size}`", hint=did_you_mean(name, set().union(*pinning.values()))
        )
    return released


def _is_alive(project: Project, name: str) -> bool:
    """Whether a curriculum has a stage file, or a run that began."""
    return name in project.names("stages") or bool(project.runs_of(name))


def _check_known(project: Project, name: str) -> None:
    if not _is_alive(project, name):
        raise NotFound(
            f"unknown curriculum `{name}`: there is no stages/{name}.yaml and no run of it",
            hint=did_you_mean(
                name,
                {
                    *project.names("stages"),
                    *(each.name for each in project.runs.glob("*/*") if each.is_dir()),
                },
            ),
        )


def _stages(project: Project, size: str) -> list[StageFolder]:
    return [folder for folder in stage_folders(project.runs / size) if folder.checkpoints.is_dir()]


def _claims(
    project: Project, size: str
) -> tuple[dict[tuple[str, str], dict[int | None, set[str]]], dict[tuple[str, str, int], tuple[str, ...]]]:
    """Where the project's stage files leave each stage, in tokens at this size (None stands for all of it).

    And the tasks that each checkpoint still waits for.
    """
    points: dict[tuple[str, str], dict[int | None, set[str]]] = {}
    waiting: dict[tuple[str, str, int], tuple[str, ...]] = {}
    for name in project.names("stages"):
        try:
            legs = lineage(project, name)
        except CurriculumError as error:
            raise PlanError(
                f"`{_file(project, name)}` cannot be read, so what it branches from is not known: {error.what}",
                place=error.place,
                hint="mend that file first, or move it out of stages/ if nobody needs it",
            ) from None
        try:
            compiled = PreparedText.open(project, name, size).compiled
        except CurriculumError:  # not to be planned at this size now, but it may be later
            for leg in legs:
                if leg.setting.curriculum != name:
                    where = (leg.setting.curriculum, leg.setting.stage)
                    points.setdefault(where, {}).setdefault(None, set()).add(name)
            continue
        for stage in compiled.stages:
            where = (stage.setting.curriculum, stage.setting.stage)
            if stage.setting.curriculum != name:
                points.setdefault(where, {}).setdefault(stage.stop, set()).add(name)
        waiting.update(
            {
                (gap.stage.setting.curriculum, gap.stage.setting.stage, gap.position): gap.names
                for gap in due_benchmarks(project, compiled)
            }
        )
    return points, waiting


def _file(project: Project, name: str) -> str:
    files = layout.files(project.root, "stages", name)
    return files[0].relative_to(project.root).as_posix() if files else f"stages/{name}.yaml"


def _parents_of_begun(project: Project, size: str) -> dict[str, set[str]]:
    """Histories that begun stages grew out of, each with those stages; also of those whose files are gone."""
    grown: dict[str, set[str]] = {}
    for folder in stage_folders(project.runs / size):
        for path in folder.plans():
            plan = StagePlan.load(path)
            if plan.parent is not None:
                grown.setdefault(plan.parent.fingerprint, set()).add(folder.curriculum)
    return grown


def _history(checkpoint: checkpoints.Checkpoint) -> str | None:
    try:
        return str(checkpoints.state(checkpoint.path)["history"])
    except (CheckpointError, KeyError):
        return None
