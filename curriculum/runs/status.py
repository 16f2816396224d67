"""How far every curriculum of a project is, as a tree: each under the point it branches from. Nothing is changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from curriculum import fs
from curriculum.artifacts import checkpoints, timing
from curriculum.artifacts.anomalies import Anomaly, count_by_kind, read_anomalies
from curriculum.artifacts.evaluations import read_evaluations
from curriculum.artifacts.metrics import last_record
from curriculum.artifacts.stage_folder import StageFolder, stage_folders
from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.compiler.lineage import parse_address
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.project import Project
from curriculum.errors import CurriculumError, NotFound, did_you_mean
from curriculum.launchers import slurm_record
from curriculum.plan.stage import StagePlan
from curriculum.runs import folders
from curriculum.runs.drift import saved_drift

FORMAT = 2
"""Of the JSON object of `status`; 1 had no such key, `strays`, `put_by` and the state `begun`."""

PLANNED, STARTED, RUNNING, DONE = "planned", "started", "running", "done"
QUEUED, FAILED = slurm_record.QUEUED, slurm_record.FAILED
NEWEST = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A checkpoint on disk, at a scaled size what a person writes for it, and the curricula whose pin keeps it."""

    position: int
    address: str | None
    generation: int
    pinned_by: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stage of a curriculum and where it stands; positions in tokens from the root, at this size.

    `job` says how the cluster's job for it (or, once it is trained, for its tasks) stands, where that has more to do
    or failed.
    `departed` says how the files part from what was trained.
    `anomalies` counts the steps that went wrong by kind, `newest_anomalies` are the last NEWEST of them.
    `unsaved` says why a stop within the grace of its machine cannot save first, where that was measured.
    """

    name: str
    state: str
    starts_at: int
    position: int
    ends_at: int
    checkpoints: tuple[Kept, ...]
    pins_without_checkpoint: tuple[int, ...]
    shared_by: tuple[str, ...]
    events: tuple[str, ...]
    held_out: Mapping[str, float]
    held_out_at: int | None
    anomalies: Mapping[str, int]
    newest_anomalies: tuple[Anomaly, ...]
    job: str | None = None
    departed: str | None = None
    unsaved: str | None = None

    @property
    def share(self) -> float:
        return (self.position - self.starts_at) / max(1, self.ends_at - self.starts_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """A curriculum: the stage and position it leaves another at (None: a root), and its own stages."""

    name: str
    about: str | None
    parent: str | None
    begins_at: int
    stages: tuple[Stage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A curriculum whose files cannot be compiled, with the reason; work it already did is still listed."""

    name: str
    why: str
    where: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrphanedRun:
    """A stage folder in runs/ that no stage file names any more."""

    folder: str
    position: int | None
    ends_at: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectStatus:
    """The whole project at a size. Tokens of a shared stage are counted once; `saved` is what sharing spares.

    `not_started` are the curricula in folders of stages/ of which no stage has started: named, and not counted.
    """

    size: str
    branches: tuple[Branch, ...]
    refused: tuple[Refused, ...]
    orphaned_runs: tuple[OrphanedRun, ...]
    not_started: tuple[str, ...]
    planned: int
    done: int
    saved: int


def project_status(project: Project, size: str, name: str | None = None) -> ProjectStatus:
    """Every curriculum at `size`, or the lineage of `name` alone (whose own faults are then raised)."""
    names = project.names("stages")
    name = parse_address(name).curriculum if name is not None else None
    if name is not None and name not in names:
        raise NotFound(f"unknown curriculum `{name}`", hint=did_you_mean(name, names))
    compiled: dict[str, Compiled] = {}
    refused = []
    not_started = _not_started(project, size, names) if name is None else []
    for curriculum in names:
        if curriculum in not_started:
            continue
        try:
            compiled[curriculum] = PreparedText.open(project, curriculum, size).compiled
        except CurriculumError as error:
            if curriculum == name:
                raise
            where = str(error.place) if error.place else None
            refused.append(Refused(name=curriculum, why=error.what, where=where))
    passing: dict[str, list[str]] = {}
    departed: dict[str, str] = {}
    furthest: dict[str, CompiledStage] = {}
    for curriculum, lineage in compiled.items():
        for departure in saved_drift(project, lineage)[0].values():
            departed.setdefault(departure.stage.name, departure.words())
        for stage in lineage.stages:
            passing.setdefault(stage.name, []).append(curriculum)
            if stage.name not in furthest or stage.stop > furthest[stage.name].stop:
                furthest[stage.name] = stage
    wanted = set(furthest) if name is None else {stage.name for stage in compiled[name].stages}
    if name is not None:  # one lineage counts its stages only as far as it goes through them
        furthest.update({stage.name: stage for stage in compiled[name].stages})
    branches = []
    for curriculum, lineage in compiled.items():
        own = [stage for stage in lineage.stages if stage.setting.curriculum == curriculum]
        shown = tuple(
            replace(
                _stage(project, lineage, furthest[stage.name], passing[stage.name]),
                departed=departed.get(stage.name),
            )
            for stage in own
            if stage.name in wanted
        )
        if shown:
            branches.append(
                Branch(
                    name=curriculum,
                    about=own[0].setting.document.value.get("about"),
                    parent=own[0].parent.name if own[0].parent else None,
                    begins_at=own[0].plan.start,
                    stages=shown,
                )
            )
    counted = [stage for branch in branches for stage in branch.stages]
    asked = [lineage for curriculum, lineage in compiled.items() if name in (None, curriculum)]
    planned = sum(furthest[stage.name].stop - stage.starts_at for stage in counted)
    return ProjectStatus(
        size=size,
        branches=tuple(branches),
        refused=tuple(refused) if name is None else (),
        orphaned_runs=_orphaned_runs(project, size, {*furthest}, {r.name for r in refused})
        if name is None
        else (),
        not_started=tuple(not_started),
        planned=planned,
        done=sum(min(stage.position, furthest[stage.name].stop) - stage.starts_at for stage in counted),
        saved=sum(lineage.stages[-1].stop for lineage in asked) - planned,
    )


def _not_started(project: Project, size: str, names: list[str]) -> list[str]:
    """Those of `names` that lie in a folder of stages/ and of which nothing has begun."""
    started = {folder.curriculum for folder in stage_folders(project.runs / size) if folder.plan.exists()}
    return [name for name in names if project.is_recipe(name) and name not in started]


def state_of(folder: StageFolder) -> tuple[str, slurm_record.SubmissionStatus | None]:
    """How the stage at `folder` stands, and the cluster's job for it where that has more to do or failed."""
    finished = folder.done.exists()
    away = None if finished else slurm_record.status_of(folder.path)
    if fs.lock_holder(folder.lock) is not None or (away is not None and away.state == slurm_record.RUNNING):
        return RUNNING, away
    if finished:
        return DONE, None
    if away is not None and away.state in (QUEUED, FAILED):
        return away.state, away
    begun = folder.plan.exists() or checkpoints.list_checkpoints(folder)
    return STARTED if begun else PLANNED, away


def _stage(project: Project, compiled: Compiled, stage: CompiledStage, passing: list[str]) -> Stage:
    folder = folders.stage_folder(project, compiled, stage)
    found = checkpoints.list_checkpoints(folder)
    pins = checkpoints.pinned(folder)
    position = found[-1].position if found else stage.plan.start
    state, away = state_of(folder)
    measuring = slurm_record.status_of(folder.measuring)
    if state == RUNNING and (line := last_record(folder.metrics)) is not None:
        position = max(position, line["position"])
    measured = read_evaluations(folder)
    last = max((at for at in measured if at <= position), default=None)
    anomalies = read_anomalies(folder, stage.plan.end)
    save_timing = None if folder.done.exists() else timing.measured(folder)
    return Stage(
        name=stage.name,
        state=state,
        starts_at=stage.plan.start,
        position=position,
        ends_at=stage.plan.end,
        checkpoints=tuple(
            Kept(
                position=c.position,
                address=str(folders.address_at(stage.setting, stage.plan, c.position, compiled.scale))
                if compiled.scaled
                else None,
                generation=c.generation,
                pinned_by=pins.get(c.position, ()),
            )
            for c in found
        ),
        pins_without_checkpoint=tuple(sorted(set(pins) - {c.position for c in found})),
        shared_by=tuple(passing) if len(passing) > 1 else (),
        events=stage.events,
        held_out={n: entry["loss"] for n, entry in measured[last].items()} if last is not None else {},
        held_out_at=last,
        anomalies=count_by_kind(anomalies),
        newest_anomalies=anomalies[-NEWEST:],
        job=away.message
        if away is not None
        else f"its tasks: {measuring.message}"
        if measuring is not None
        else None,
        unsaved=save_timing.insufficient_grace(save_timing.grace) if save_timing is not None else None,
    )


def _orphaned_runs(
    project: Project, size: str, known: set[str], refused: set[str]
) -> tuple[OrphanedRun, ...]:
    orphaned = []
    for folder in stage_folders(project.runs / size):
        if not folder.plan.exists() or folder.name in known or folder.curriculum in refused:
            continue
        last = checkpoints.latest(folder)
        try:
            end: int | None = StagePlan.load(folder.plan).end
        except (CurriculumError, json.JSONDecodeError):
            end = None
        shown = folder.path.relative_to(project.root).as_posix()
        orphaned.append(OrphanedRun(folder=shown, position=last.position if last else None, ends_at=end))
    return tuple(orphaned)
