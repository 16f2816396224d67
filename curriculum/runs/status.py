"""The state of every curriculum of a project, as a tree: each under the point it branches from. Read only."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from curriculum import fs
from curriculum.artifacts import checkpoints, timing
from curriculum.artifacts.anomalies import Anomaly, count_by_kind, read_anomalies
from curriculum.artifacts.evaluations import read_evaluations
from curriculum.artifacts.metrics import last_record
from curriculum.artifacts.stage_folder import StageFolder, stage_folders
from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.compiler.lineage import parse_address, stages_to
from curriculum.compiler.lineage_tree import TreeStage, stage_tree
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
class KeptCheckpoint:
    """A checkpoint on disk with its address at a scaled size, and the curricula that pin it."""

    position: int
    address: str | None
    generation: int
    pinned_by: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStatus:
    """A stage of a curriculum and its state; positions in tokens from the root, at this size.

    `job` is the state of its Slurm job (once it is trained, that of its benchmarks) while unfinished or failed.
    `departed` says how the files differ from what was trained.
    `anomalies` counts spikes, non-finite steps and skipped outliers by kind, `newest_anomalies` are the last NEWEST of
    them.
    `unsaved` says why the machine's grace is too short to save in, where that was measured.
    """

    name: str
    state: str
    starts_at: int
    position: int
    ends_at: int
    checkpoints: tuple[KeptCheckpoint, ...]
    pins_without_checkpoint: tuple[int, ...]
    shared_by: tuple[str, ...]
    leaving: Mapping[str, int]
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
class CurriculumStatus:
    """A curriculum: the parent stage and position that it branches from (None: a root), and its own stages."""

    name: str
    about: str | None
    parent: str | None
    begins_at: int
    stages: tuple[StageStatus, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedCurriculum:
    """A curriculum whose files cannot be compiled, with the reason."""

    name: str
    why: str
    where: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrphanedRun:
    """A run folder of a stage that no stage file defines any more."""

    folder: str
    position: int | None
    ends_at: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectStatus:
    """The project at a size. Tokens of a shared stage are counted once; `saved` are those that sharing saves.

    `not_started` are recipes (files in folders of stages/) of which no stage has started; they are not counted.
    """

    size: str
    branches: tuple[CurriculumStatus, ...]
    refused: tuple[RefusedCurriculum, ...]
    orphaned_runs: tuple[OrphanedRun, ...]
    not_started: tuple[str, ...]
    planned: int
    done: int
    saved: int


def project_status(project: Project, size: str, name: str | None = None) -> ProjectStatus:
    """Every curriculum at `size`, or the lineage of `name` alone, whose errors are then raised."""
    names = project.names("stages")
    if name is not None:
        address = parse_address(name)
        name = address.curriculum
        if name not in names:
            raise NotFound(f"unknown curriculum `{name}`", hint=did_you_mean(name, names))
        if address.stage is not None or address.position is not None:
            stages_to(project, address)  # which refuses what is not there
    compiled: dict[str, Compiled] = {}
    refused = []
    started = {folder.curriculum for folder in stage_folders(project.runs / size) if folder.plan.exists()}
    recipes = filter(project.is_recipe, names) if name is None else ()
    not_started = tuple(recipe for recipe in recipes if recipe not in started)
    for curriculum in names:
        if curriculum in not_started:
            continue
        try:
            compiled[curriculum] = PreparedText.open(project, curriculum, size).compiled
        except CurriculumError as error:
            if curriculum == name:
                raise
            where = str(error.place) if error.place else None
            refused.append(RefusedCurriculum(name=curriculum, why=error.what, where=where))
    tree = stage_tree(list(compiled.values()))
    drifts_by_lineage = [saved_drift(project, lineage)[0] for lineage in compiled.values()]
    drifts = {stage: drift.words() for drifted in reversed(drifts_by_lineage) for stage, drift in drifted.items()}
    furthest = {stage: node.stage for stage, node in tree.items()}
    requested = set(furthest) if name is None else {stage.name for stage in compiled[name].stages}
    if name is not None:  # one lineage counts its stages only as far as it goes through them
        furthest.update({stage.name: stage for stage in compiled[name].stages})
    branches = []
    for curriculum, lineage in compiled.items():
        own = [stage for stage in lineage.stages if stage.setting.curriculum == curriculum]
        stages = tuple(
            _stage(project, lineage, furthest[stage.name], tree[stage.name], drifts.get(stage.name))
            for stage in own
            if stage.name in requested
        )
        if stages:
            branches.append(
                CurriculumStatus(
                    name=curriculum,
                    about=own[0].setting.document.value.get("about"),
                    parent=own[0].parent.name if own[0].parent else None,
                    begins_at=own[0].plan.start,
                    stages=stages,
                )
            )
    counted = [stage for branch in branches for stage in branch.stages]
    lineages = [lineage for curriculum, lineage in compiled.items() if name in (None, curriculum)]
    planned = sum(furthest[stage.name].stop - stage.starts_at for stage in counted)
    return ProjectStatus(
        size=size,
        branches=tuple(branches),
        refused=tuple(refused) if name is None else (),
        orphaned_runs=_orphaned_runs(project, size, {*furthest}, {r.name for r in refused}) if name is None else (),
        not_started=not_started,
        planned=planned,
        done=sum(min(stage.position, furthest[stage.name].stop) - stage.starts_at for stage in counted),
        saved=sum(lineage.stop for lineage in lineages) - planned,
    )


def state_of(folder: StageFolder) -> tuple[str, slurm_record.SubmissionStatus | None]:
    """The state of the stage at `folder`, and its Slurm job while that is unfinished or failed."""
    finished = folder.done.exists()
    job = None if finished else slurm_record.status_of(folder.path)
    # A supervisor outlives the trainer by a moment, in which what is finished is no longer running.
    holder = fs.lock_holder(folder.lock) if finished else folder.holder()
    if holder is not None or (job is not None and job.state == slurm_record.RUNNING):
        return RUNNING, job
    if finished:
        return DONE, None
    if job is not None and job.state in (QUEUED, FAILED):
        return job.state, job
    started = folder.plan.exists() or checkpoints.list_checkpoints(folder)
    return STARTED if started else PLANNED, job


def _stage(
    project: Project, compiled: Compiled, stage: CompiledStage, node: TreeStage, departed: str | None
) -> StageStatus:
    folder = folders.stage_folder(project, compiled, stage)
    kept = checkpoints.list_checkpoints(folder)
    pins = checkpoints.pinned(folder)
    position = kept[-1].position if kept else stage.plan.start
    state, job = state_of(folder)
    benchmarks = slurm_record.status_of(folder.measuring)
    if state == RUNNING and (record := last_record(folder.metrics)) is not None:
        position = max(position, record["position"])
    evaluations = read_evaluations(folder)
    last = max((at for at in evaluations if at <= position), default=None)
    anomalies = read_anomalies(folder, stage.plan.end)
    save_timing = None if folder.done.exists() else timing.newest_timing(folder)
    return StageStatus(
        name=stage.name,
        state=state,
        starts_at=stage.plan.start,
        position=position,
        ends_at=stage.plan.end,
        checkpoints=tuple(
            KeptCheckpoint(
                position=c.position,
                address=str(folders.address_at(stage.setting, stage.plan, c.position, compiled.scale))
                if compiled.scaled
                else None,
                generation=c.generation,
                pinned_by=pins.get(c.position, ()),
            )
            for c in kept
        ),
        pins_without_checkpoint=tuple(sorted(set(pins) - {c.position for c in kept})),
        shared_by=tuple(node.left_at) if len(node.left_at) > 1 else (),
        leaving=node.leaving(),
        events=stage.events,
        held_out={n: entry["loss"] for n, entry in evaluations[last].items()} if last is not None else {},
        held_out_at=last,
        anomalies=count_by_kind(anomalies),
        newest_anomalies=anomalies[-NEWEST:],
        departed=departed,
        job=job.message if job else f"its tasks: {benchmarks.message}" if benchmarks else None,
        unsaved=save_timing.insufficient_grace(save_timing.grace) if save_timing is not None else None,
    )


def _orphaned_runs(project: Project, size: str, defined: set[str], refused: set[str]) -> tuple[OrphanedRun, ...]:
    orphaned = []
    listed = refused | set(project.names("studies"))
    for folder in stage_folders(project.runs / size):
        if not folder.plan.exists() or folder.name in defined or folder.curriculum in listed:
            continue
        last = checkpoints.latest(folder)
        end = None
        with contextlib.suppress(CurriculumError, json.JSONDecodeError):
            end = StagePlan.load(folder.plan).end
        shown = folder.path.relative_to(project.root).as_posix()
        orphaned.append(OrphanedRun(folder=shown, position=last.position if last else None, ends_at=end))
    return tuple(orphaned)
