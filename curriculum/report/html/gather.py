"""The data of a report, read from the YAML files, the plans and the run folders."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from textwrap import shorten
from typing import Any

from curriculum import fs
from curriculum.analysis.compare import Comparison, compare
from curriculum.artifacts import benchmarks, checkpoints, ledger
from curriculum.artifacts.anomalies import Anomaly, read_anomalies
from curriculum.artifacts.evaluations import read_evaluations
from curriculum.artifacts.stage_folder import StageFolder, attempts_in
from curriculum.compiler import summary
from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.compiler.lineage_tree import Trunk, shared_trunk, stage_tree
from curriculum.compiler.sources import SourceChoice
from curriculum.config import layout
from curriculum.config.project import Project
from curriculum.errors import CheckpointError, DataError, Drift
from curriculum.plan.mixing import Ramp
from curriculum.plan.model import ModelConfig
from curriculum.plan.stage import StagePlan
from curriculum.report.html.series import Point, Training, training
from curriculum.runs import status
from curriculum.studies.arms import texts_of
from curriculum.units import show_exact

POINTS = 700
"""Ranges into which the token axis of all stages together is cut when measured lines are thinned."""
MOST_ROWS = 240
"""Rows that all stages together may have in a table; a report stays below a megabyte."""
SMOOTHING = 100
"""The smoothing of the training loss: this part of the longest lineage, in tokens."""
LARGEST_FILE = 32_000
LARGEST_FILES = 120_000
"""Characters of YAML shown, of one file and of all of them; the digest covers the rest."""
MINIMUM_BAND = 0.02
"""Ends of stages of one name that differ by less than this part of the axis are one boundary in a picture."""
REACHED = "reached"
"""The state of a stage that is trained to where the lineages leave it, before its own end."""
SKIPPED_KEYS = ("nonfinite_steps", "outlier_steps")
"""Of a checkpoint's state: counts of steps without an update, since the root."""
TRAINING, UNKNOWN = "train", "unknown"
"""Kinds of attempts: a job that trains, and one whose job file is missing or damaged."""


@dataclass(frozen=True, slots=True)
class AttemptSummary:
    """One launch of a job of a stage; `kind` is that of its job file."""

    number: str
    kind: str
    outcome: str
    position: int | None
    environment: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class ReportStage:
    """A stage, up to the furthest position at which a lineage leaves it; stages of a shared trunk occur once.

    What its own curriculum trained past that position is left out.
    """

    compiled: CompiledStage
    label: str
    plan: Mapping[str, Any]
    state: str
    position: int
    checkpoints: tuple[checkpoints.Checkpoint, ...]
    pinned: Mapping[int, tuple[str, ...]]
    training: Training
    held_out: Mapping[int, Mapping[str, float]]
    quarters: Mapping[int, Mapping[str, tuple[float, ...]]]
    scores: Mapping[int, Mapping[str, benchmarks.Score]]
    ledger: tuple[ledger.Entry, ...]
    attempts: tuple[AttemptSummary, ...]
    anomalies: tuple[Anomaly, ...]
    skipped_steps: int
    ran_fingerprint: str | None

    @property
    def name(self) -> str:
        return self.compiled.name

    @property
    def start(self) -> int:
        return self.compiled.plan.start

    @property
    def stop(self) -> int:
        return self.compiled.stop

    def losses(self, source: str) -> tuple[Point, ...]:
        """(position, held-out loss in nats a token) of a source."""
        return tuple((at, losses[source]) for at, losses in self.held_out.items() if source in losses)

    @property
    def restarts(self) -> int:
        """How often its training was launched again."""
        return max(0, sum(attempt.kind == TRAINING for attempt in self.attempts) - 1)

    @property
    def differs(self) -> bool:
        """Whether the files now give another plan than the one that ran."""
        return self.ran_fingerprint not in (None, self.compiled.plan.fingerprint)


@dataclass(frozen=True, slots=True)
class ProjectFile:
    """A file of the project as it is now; `left_out` characters are not shown."""

    path: str
    text: str
    digest: str
    left_out: int


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """All data of a report."""

    size: str
    lineages: tuple[Compiled, ...]
    stages: Mapping[str, ReportStage]
    sources: tuple[str, ...]
    texts: tuple[SourceChoice, ...]
    origins: Mapping[str, str]
    files: tuple[ProjectFile, ...]
    parameters: int
    smoothing: int
    trunk: Trunk
    comparison: Comparison | None
    not_compared: str | None

    @property
    def stop(self) -> int:
        return max(lineage.stop for lineage in self.lineages)

    def rows_of_a_stage(self, most: int) -> int:
        """Rows that each stage may have in a table: up to `most`, fewer the more stages there are."""
        return max(4, min(most, MOST_ROWS // len(self.stages)))

    @property
    def measured(self) -> bool:
        return any(stage.training.lines or stage.held_out for stage in self.stages.values())

    @property
    def shared(self) -> str | None:
        """What several lineages all go through, in words; None where there is nothing of that kind."""
        if len(self.lineages) < 2 or not self.trunk.stages:
            return None
        names = ", ".join(stage.name for stage in self.trunk.stages)
        return f"{names}, up to {show_exact(self.trunk.position)} tokens"


def gather(project: Project, names: Sequence[str], size: str) -> ReportData:
    """The data of curricula `names`, or of arms by address, at `size`; CurriculumError for an unreadable file."""
    opened = texts_of(project, dict.fromkeys(names), size)
    lineages = [prepared.compiled for prepared in opened]
    texts = {source: choice for lineage in lineages for source, choice in lineage.sources.items()}
    origins = {dataset: line for prepared in opened for dataset, line in prepared.provenance_lines().items()}
    furthest = {name: node.stage for name, node in stage_tree(lineages).items()}
    stop = max(lineage.stop for lineage in lineages)
    total = sum(stage.stop - stage.plan.start for stage in furthest.values())
    smoothing = max(1, stop // SMOOTHING)
    stages = {
        name: _stage(project, size, stage, total, smoothing, len(lineages) == 1) for name, stage in furthest.items()
    }
    comparison = not_compared = None
    try:
        comparison = compare(opened) if len(opened) > 1 else None
    except Drift as error:
        not_compared = error.what
    tokens = dict.fromkeys(texts, 0)
    for stage_record in stages.values():
        for source, entry in stage_record.plan["sources"].items():
            tokens[source] = tokens.get(source, 0) + entry["tokens"]
    return ReportData(
        size=size,
        lineages=tuple(lineages),
        stages=stages,
        sources=tuple(sorted(tokens, key=lambda source: (-tokens[source], source))),
        texts=tuple(texts[source] for source in sorted(texts)),
        origins={dataset: shorten(line, 300, placeholder=" …") for dataset, line in origins.items()},
        files=_files(project, lineages),
        parameters=ModelConfig.from_json(lineages[0].stages[-1].plan.model).parameters,
        smoothing=smoothing,
        trunk=shared_trunk(lineages),
        comparison=comparison,
        not_compared=not_compared,
    )


def _stage(
    project: Project, size: str, compiled: CompiledStage, total: int, smoothing: int, alone: bool
) -> ReportStage:
    folder = StageFolder.open(project.stage_folder(size, compiled.setting.curriculum, compiled.setting.stage))
    plan = compiled.plan
    saved = tuple(c for c in checkpoints.list_checkpoints(folder) if c.position <= compiled.stop)
    buckets = max(24, POINTS * (compiled.stop - plan.start) // max(1, total))
    measured = training(folder.metrics, start=plan.start, stop=compiled.stop, buckets=buckets, window=smoothing)
    position = max([plan.start, *(c.position for c in saved), measured.last or 0])
    state, _ = status.state_of(folder)
    if state != status.DONE and compiled.stop < plan.end and saved and saved[-1].position == compiled.stop:
        state = REACHED
    try:
        evaluations = {at: sets for at, sets in sorted(read_evaluations(folder).items()) if at <= compiled.stop}
        held_out = {at: {source: float(s["loss"]) for source, s in sets.items()} for at, sets in evaluations.items()}
        quarters = {
            at: {source: tuple(map(float, s["by_quarter"])) for source, s in sets.items() if "by_quarter" in s}
            for at, sets in evaluations.items()
        }
        entries = tuple(entry for entry in ledger.read(folder) if entry.position <= compiled.stop)
        ran = _json(folder.plan)
        saved_state = checkpoints.state(saved[-1].path) if saved else {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"the records of `{compiled.name}` cannot be read: {error}",
            hint=f"look at evaluations/, ledger.jsonl and plan.json in {folder}; move a damaged file away",
        ) from None
    except CheckpointError:
        saved_state = {}
    return ReportStage(
        compiled=compiled,
        label=compiled.setting.stage if alone else compiled.name,
        plan=summary.stage_summary(compiled),
        state=state,
        position=position,
        checkpoints=saved,
        pinned=checkpoints.pinned(folder),
        training=measured,
        held_out=held_out,
        quarters=quarters,
        scores={at: scores for at, scores in benchmarks.read_scores(folder).items() if at <= compiled.stop},
        ledger=entries,
        attempts=_attempts(folder, compiled.stop if compiled.stop < plan.end else None),
        anomalies=read_anomalies(folder, compiled.stop),
        skipped_steps=sum(n for n in map(saved_state.get, SKIPPED_KEYS) if isinstance(n, int)),
        ran_fingerprint=str(ran["fingerprint"]) if ran and "fingerprint" in ran else None,
    )


def _attempts(folder: StageFolder, until: int | None) -> tuple[AttemptSummary, ...]:
    """The attempts in order; of a stage that the lineage leaves at `until`, without those after that position."""
    attempts: list[AttemptSummary] = []
    reached = False
    for path in attempts_in(folder.attempts):
        try:
            kind = str((_json(path.job) or {}).get("kind", UNKNOWN))
        except ValueError:
            kind = UNKNOWN
        try:
            outcome, environment = _json(path.outcome), _json(path.environment)
        except ValueError:
            attempts.append(AttemptSummary(path.name, kind, "unreadable", None, None))
            continue
        word = str((outcome or {}).get("outcome", "no outcome"))
        position = (outcome or {}).get("position")
        at = position if isinstance(position, int) else None
        past = until is not None and at is not None and at > until
        if reached if kind == TRAINING else past:
            continue
        reached |= kind == TRAINING and (past or at == until)
        attempts.append(AttemptSummary(path.name, kind, word, at, environment))
    return tuple(attempts)


def _json(path: Path) -> dict[str, Any] | None:
    try:
        value = fs.parse_json(path.read_bytes())
    except FileNotFoundError:
        return None
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return value


def _files(project: Project, lineages: Sequence[Compiled]) -> tuple[ProjectFile, ...]:
    """The YAML files from which the lineages follow, each once, those of the named curricula first."""
    settings = [stage.setting for lineage in lineages for stage in lineage.stages]
    named = [("stages", lineage.curriculum) for lineage in lineages]
    named += [("studies", lineage.curriculum.partition("/")[0]) for lineage in lineages]
    named += [("stages", setting.curriculum) for setting in settings]
    named += [("mixtures", setting.mixture) for setting in settings]
    files = (path for folder, name in dict.fromkeys(named) for path in layout.files(project.root, folder, name))
    paths = [path.relative_to(project.root).as_posix() for path in files]
    shown = []
    remaining = LARGEST_FILES
    for path in [*paths, "sizes.yaml", "sources.yaml", "machines.yaml"]:
        try:
            data = (project.root / path).read_bytes()
        except FileNotFoundError:
            continue
        text = data.decode("utf-8", "replace")
        kept = text[: min(LARGEST_FILE, remaining)]
        remaining -= len(kept)
        shown.append(ProjectFile(path, kept, hashlib.sha256(data).hexdigest(), len(text) - len(kept)))
    return tuple(shown)


# --- pure functions over plans --------------------------------------------------------------------------------


def share_knots(plan: StagePlan, stop: int) -> list[tuple[int, dict[str, float]]]:
    """(position, shares in force) where the shares of a stage begin, bend or jump; between them they are straight."""
    knots: list[tuple[int, dict[str, float]]] = []
    for segment, *bounds in plan.mixture_spans(stop=(stop - plan.start) // plan.sequence_length):
        mixer = plan.blends[segment.blend].mixer
        for sequence in bounds:
            if isinstance(mixer, Ramp):
                shares = mixer.shares(segment.index + sequence - segment.first)
            else:
                shares = {name: mixer.share(name) for name in mixer.names}
            knots.append((plan.start + sequence * plan.sequence_length, {n: float(s) for n, s in shares.items()}))
    return knots


def rate_points(plan: StagePlan, stop: int, count: int) -> list[Point]:
    """(position where a step ends, its learning rate), at about `count` steps and at every corner of the curve."""
    first, last = plan.first_step, plan.first_step + plan.clock.step_of(stop) - 1
    if last < first:
        return []
    corners = plan.learning_rate.breaks()
    steps = {first + (last - first) * i // max(1, count - 1) for i in range(count)} | {first, last}
    for corner in corners:
        near = plan.step_of(corner)
        steps |= {step for step in (near - 1, near) if first <= step <= last}
    return [(plan.position_after(step), plan.lr(step)) for step in sorted(steps)]


def realised(data: ReportData, stage: ReportStage) -> tuple[int, dict[str, tuple[int, int]]] | None:
    """The furthest position in the ledger, and each source's windows planned by arithmetic and counted up to there.

    None before any entry.
    """
    plan = stage.compiled.plan
    entries = [e for e in stage.ledger if plan.start < e.position <= min(stage.stop, plan.end)]
    if not entries or stage.differs:
        return None
    last = entries[-1]
    parent = stage.compiled.parent
    before: Mapping[str, int] = plan.read_before
    if parent is not None and parent.name in data.stages:
        at_start = [e for e in data.stages[parent.name].ledger if e.position == plan.start]
        before = at_start[-1].windows if at_start else before
    planned = plan.windows_read(last.position)
    windows = {
        source: (
            planned.get(source, 0) - plan.read_before.get(source, 0),
            last.windows.get(source, 0) - before.get(source, 0),
        )
        for source in {*planned, *last.windows}
    }
    return last.position, {source: counts for source, counts in windows.items() if any(counts)}


def batch_changes(lineage: Compiled) -> list[tuple[int, int, int]]:
    """(position, sequences before, sequences after) wherever the batch changes along a lineage."""
    levels = [level for stage in lineage.stages for level in stage.batches]
    return [(position, old, new) for (_, old), (position, new) in pairwise(levels) if old != new]


def bands(lineages: Sequence[Compiled]) -> list[tuple[str, int, int]]:
    """(stage names, start, end) of the intervals between all the lineages' stage boundaries, in order.

    A short band between two ends of stages of one name, which differ by a batch or so, joins the band before it.
    """
    edges = sorted({0, *(stage.stop for lineage in lineages for stage in lineage.stages)})
    bands: list[tuple[str, int, int]] = []
    for start, end in pairwise(edges):
        names = dict.fromkeys(
            stage.setting.stage
            for lineage in lineages
            for stage in lineage.stages
            if stage.plan.start <= start and end <= stage.stop
        )
        name = " / ".join(names)
        if bands and bands[-1][0] == name and end - start < MINIMUM_BAND * edges[-1]:
            start = bands.pop()[1]
        bands.append((name, start, end))
    return bands
