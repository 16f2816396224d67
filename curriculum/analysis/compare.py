"""Variants side by side: held-out loss per source at equal positions, from the trunk they share to their ends.

Read only. A difference is paired by held-out window and has the noise of the choice of documents (`bootstrap.paired`);
where the windows are not the same there is none, and `mismatches` says why. A window belongs to the document that most
of its targets are of, the first of equals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curriculum.analysis.bootstrap import Estimate, paired
from curriculum.analysis.measured_windows import RECORDED, HeldOutWindows, MeasuredSets, documents, mismatch, windows_of
from curriculum.artifacts import checkpoints, ledger
from curriculum.artifacts.evaluations import read_evaluations
from curriculum.compiler import compile
from curriculum.compiler.cadence import boundary
from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.compiler.lineage_tree import shared_trunk
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.project import Project
from curriculum.data.held_out import few_documents
from curriculum.errors import Drift, NotFound, did_you_mean
from curriculum.plan.diff import compare as diff_compare
from curriculum.runs import folders
from curriculum.runs.drift import PlanDrift, find_drift
from curriculum.runs.measurements import Gap, Point, by_point
from curriculum.units import show_exact

FORMAT = 3
"""Of the JSON object of `compare`; 1 had no such key, and `marks` for `claims`; errors of 2 were those of windows."""


BETWEEN_ENDS = 3
"""Rows between two edges of stages in a table; all of them are in the JSON."""

LEGEND = (
    "* where the 95% interval excludes 0, · where it does not; = where both are one checkpoint. The noise is that of "
    "the choice of held-out documents. Every figure rests on one training run (one replicate): what another training "
    "seed would change is not in the error, and is 3 to 5 times as large in a rehearsal."
)


@dataclass(frozen=True, slots=True)
class Row:
    """Where variants are compared: each variant's point, None where it has none (shape `[variants]`).

    `ends` names the stage that ends here, `leaves` the one that a variant leaves before its end; both are None
    between such edges. Variants' ends are put in one row when they are declared at the same position, and evaluations
    when one is at the first step boundary at or past the other: the points of a row may lie up to a batch apart.
    """

    ends: str | None
    points: tuple[Point | None, ...]
    leaves: str | None = None

    @property
    def is_edge(self) -> bool:
        return self.ends is not None or self.leaves is not None

    @property
    def label(self) -> str:
        """Which stage ends here or is left here, for a column `end of`; empty between edges."""
        return ", ".join([*([self.ends] if self.ends else []), *([f"leaves {self.leaves}"] if self.leaves else [])])

    @property
    def position(self) -> int:
        return max(point.position for point in self.points if point is not None)

    @property
    def apart(self) -> int:
        """Tokens between the first and the last of the points."""
        return self.position - min(point.position for point in self.points if point is not None)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Some variants side by side; losses in nats a token."""

    names: tuple[str, ...]
    against: int
    lineages: tuple[Compiled, ...]
    trunk: Point | None
    trunk_stages: tuple[str, ...]
    general: tuple[str, ...]
    domains: tuple[tuple[str, ...], ...]
    rows: tuple[Row, ...]
    measured: Mapping[Point, MeasuredSets]
    documents: Mapping[HeldOutWindows, NDArray[np.int64]]
    partings: tuple[diff_compare.PlanDiff, ...]
    tokens: tuple[Mapping[str, int], ...]
    changed: tuple[str, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        """Every source that any of the variants reads: the trunk's first, then the others, by name."""
        names = {name for lineage in self.lineages for name in lineage.sources}
        return (*self.general, *sorted(names - set(self.general)))

    def loss(self, point: Point | None, source: str) -> float | None:
        """The held-out loss of `source` at `point`, None where it was not measured."""
        entry = self.entry(point, source)
        return None if entry is None else float(entry["loss"])

    def entry(self, point: Point | None, source: str) -> Mapping[str, Any] | None:
        return None if point is None else self.measured.get(point, {}).get(source)

    def difference(self, point: Point | None, other: Point | None, source: str) -> Estimate | None:
        """Loss at `point` minus loss at `other`, paired by window; None without both or on a `mismatch`.

        Where the documents of the windows are not known, the error counts windows as independent, and has no interval.
        """
        first, second = self.entry(point, source), self.entry(other, source)
        if first is None or second is None or mismatch(first, second) is not None:
            return None
        windows = np.array(first["per_window"]) - np.array(second["per_window"])
        documents = self.documents.get(windows_of(first))
        if documents is None:
            return replace(paired(windows), low=None, high=None, documents=None)
        return paired(windows, documents)

    def shown_difference(self, row: Row, number: int, source: str) -> str:
        """The difference of variant `number` to the one compared against; `=` where both are one checkpoint."""
        own, base = row.points[number], row.points[self.against]
        figure = self.difference(own, base, source)
        return "=" if own is not None and own == base else figure.marked if figure is not None else "-"

    def held_out(self, source: str) -> tuple[int, int | None] | None:
        """The number of windows that `source` was last measured on, and of their documents where they are known."""
        points = (point for row in reversed(self.rows) for point in row.points)
        entry = next((measured for point in points if (measured := self.entry(point, source)) is not None), None)
        if entry is None:
            return None
        documents = self.documents.get(windows_of(entry))
        return int(entry["windows"]), None if documents is None else len(np.unique(documents))

    def measured_on(self, source: str) -> str:
        """The number of held-out windows of `source`, and of their documents; empty where it was not measured."""
        if (held_out := self.held_out(source)) is None:
            return ""
        windows, documents = held_out
        of = "" if documents is None else f" of {show_exact(documents)} document{'s' * (documents != 1)}"
        return f"{show_exact(windows)} held-out windows{of}"

    def shown_rows(self, source: str) -> list[Row]:
        """Every edge of a stage; between two of them at most `BETWEEN_ENDS` rows where two variants can be compared."""
        shown: list[Row] = []
        between: list[Row] = []
        for row in self.rows:
            measured = {point for point in row.points if self.entry(point, source) is not None}
            if not row.is_edge:
                between += [row] if len(measured) > 1 else []
                continue
            step = -(-len(between) // BETWEEN_ENDS) or 1
            shown += [*between[step - 1 :: step], row]
            between = []
        return shown if any(self.entry(point, source) for row in shown for point in row.points) else []

    def few_documents(self, sources: Sequence[str] | None = None) -> list[str]:
        """What is to be said of `sources` (without, of all) whose held-out windows are of too few documents."""
        lines, unknown = [], []
        for source in self.sources if sources is None else sources:
            windows, documents = self.held_out(source) or (0, 0)
            if documents is None:
                unknown.append(source)
            elif windows and (note := few_documents(documents, windows)) is not None:
                lines.append(f"{source}: {note}")
        if unknown:
            lines.append(
                f"{', '.join(unknown)}: the text that was measured is not here; errors count its windows as "
                "independent, which those of one document are not, and nothing is marked"
            )
        return lines

    def mismatches(self) -> list[str]:
        """Losses that were measured on other windows than the first of their source, with the reason."""
        points = list(dict.fromkeys(point for row in self.rows for point in row.points if point is not None))
        lines = []
        for source in self.sources:
            entries = [(point, entry) for point in points if (entry := self.entry(point, source)) is not None]
            for point, entry in entries[1:]:
                first, reference = entries[0]
                reason = mismatch(reference, entry)
                if reason is not None:
                    lines.append(
                        f"{source} at {point} is not compared with {first}: {reason}; without its file in "
                        "evaluations/ a kept checkpoint is measured again"
                    )
        return lines

    def end(self, number: int) -> Row | None:
        """The last edge of a stage at which variant `number` has a point."""
        return next((row for row in reversed(self.rows) if row.is_edge and row.points[number] is not None), None)

    def shared_end(self, first: int, second: int) -> Row | None:
        """The last edge of a stage past their parting that two variants share a row at."""
        for row in reversed(self.rows):
            pair = row.points[first], row.points[second]
            if row.is_edge and None not in pair and pair[0] != pair[1]:
                return row
        return None


def compare(texts: Sequence[PreparedText], against: str | None = None) -> Comparison:
    """Put the lineages of `texts`, of one size, beside each other, as far as they are trained and measured.

    Raises NotFound when `against` is none of them, and Drift when a stage was trained with another plan than the
    files now say: its figures would stand under the wrong name.
    """
    project, lineages = texts[0].project, [text.compiled for text in texts]
    names = tuple(compiled.curriculum for compiled in lineages)
    if len(set(names)) < 2 or len(set(names)) < len(names):
        others = [name for name in project.names("stages") if name not in names]
        several = list(dict.fromkeys((*names, *others)))[: max(2, len(set(names)))]
        raise NotFound(
            "`compare` needs two curricula or more, each once",
            hint=f"as in `curriculum compare {' '.join(several)}{project.options(lineages[0].size_name)}`"
            if len(several) > 1
            else f"`{names[0]}` is the only one; `curriculum branch {names[0]} NAME` makes another",
        )
    if against is not None and against not in names:
        raise NotFound(f"`{against}` is not among those compared", hint=did_you_mean(against, names))
    changed = {d.stage.name: d for text in texts for d in _changed_ahead(text.project, text.compiled)}
    saved = {name: d.stage.plan.start if d.saved is None else d.saved for name, d in changed.items()}
    shared = shared_trunk(lineages)
    stages, at = shared.stages, shared.position
    trunk = Point(stages[-1].name, at) if stages else None
    general = _read_by(stages[-1], at) if stages else set()
    measured = {
        point: {source: entry for source, entry in sets.items() if entry.keys() >= RECORDED}
        for point, sets in by_point(project, lineages, read_evaluations).items()
        if point.position <= saved.get(point.stage, point.position)
    }
    base = names.index(against) if against else 0
    return Comparison(
        names=names,
        against=base,
        lineages=tuple(lineages),
        trunk=trunk,
        trunk_stages=tuple(stage.name for stage in stages),
        general=tuple(sorted(general)),
        domains=tuple(tuple(sorted(_read_by(each.stages[-1], each.stop) - general)) for each in lineages),
        rows=tuple(_rows(lineages, trunk, stages, measured.keys() | _kept(project, lineages), measured)),
        measured=measured,
        documents=documents(texts, measured),
        partings=tuple(
            diff_compare.compare(compile.spans(lineages[base].stages), compile.spans(compiled.stages))
            for compiled in lineages
        ),
        tokens=tuple(tokens_read(project, compiled, since=at) for compiled in lineages),
        changed=tuple(
            f"`{name}` {drift.words()}; what it measured after {saved[name]:,} tokens is left out"
            for name, drift in changed.items()
        ),
    )


def to_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON values; positions in tokens from the root, losses in nats a token."""
    base = comparison.against

    def cell(row: Row, number: int, source: str) -> dict[str, Any]:
        point = row.points[number]
        figure = comparison.difference(point, row.points[base], source) if number != base else None
        return {
            "checkpoint": asdict(point) if point else None,
            "loss": comparison.loss(point, source),
            "difference": asdict(figure) if figure else None,
        }

    return {
        "format": FORMAT,
        "variants": list(comparison.names),
        "against": comparison.names[base],
        "trunk": {
            "stages": list(comparison.trunk_stages),
            "position": comparison.trunk.position if comparison.trunk else 0,
        },
        "general": list(comparison.general),
        "replicates": 1,
        "held_out": {
            source: {"windows": counts[0], "documents": counts[1]}
            for source in comparison.sources
            if (counts := comparison.held_out(source)) is not None
        },
        "domains": dict(zip(comparison.names, map(list, comparison.domains), strict=True)),
        "parts": {
            name: [asdict(part) for part in parting.parts]
            for name, parting in zip(comparison.names, comparison.partings, strict=True)
            if parting.parts
        },
        "tokens_since_trunk": dict(zip(comparison.names, map(dict, comparison.tokens), strict=True)),
        "sources": {
            source: [
                {
                    "ends": row.ends,
                    "leaves": row.leaves,
                    "position": row.position,
                    "variants": {name: cell(row, number, source) for number, name in enumerate(comparison.names)},
                }
                for row in comparison.rows
            ]
            for source in comparison.sources
        },
    }


def point_at(compiled: Compiled, position: int, *, at_boundary: bool = False) -> Point | None:
    """The point of a lineage at `position`, as belongs to the stage that had read up to there; None past its end.

    That is the average where the lineage takes one there. With `at_boundary`, the point is at the first step boundary
    at or past `position`.
    """
    point = None
    for stage in compiled.stages:
        averages = bool(stage.members) and position == stage.stop
        if averages or stage.plan.start < position <= stage.stop or position == stage.plan.start == 0:
            point = Point(stage.name, boundary(stage.plan, position) if at_boundary else position)
    return point


def missing_losses(project: Project, comparison: Comparison) -> list[Gap]:
    """Sources not measured at the trunk's end and at the variants' ends, each point once."""
    gaps: dict[Point, Gap] = {}
    for row in comparison.rows:
        if not row.is_edge:
            continue
        for compiled, point in zip(comparison.lineages, row.points, strict=True):
            if point is None or point in gaps:
                continue
            names = tuple(s for s in comparison.sources if comparison.entry(point, s) is None)
            if names:
                stage = next(stage for stage in compiled.stages if stage.name == point.stage)
                folder = folders.stage_folder(project, compiled, stage)
                checkpoint = folders.checkpoint_at(folder, point.position)
                gaps[point] = Gap(
                    compiled=compiled, stage=stage, position=point.position, checkpoint=checkpoint, names=names
                )
    return list(gaps.values())


def tokens_read(project: Project, compiled: Compiled, *, since: int) -> dict[str, int]:
    """Tokens of every source that the trainer counted in its ledgers after position `since`, up to the end."""
    total: dict[str, int] = {}
    before: Mapping[str, int] = {}
    for stage in compiled.stages:
        entries = ledger.read(folders.stage_folder(project, compiled, stage))
        entries = sorted((entry for entry in entries if entry.position <= stage.stop), key=lambda e: e.position)
        for entry in entries:
            if entry.position > since:
                for source, count in entry.windows.items():
                    read = (count - before.get(source, 0)) * stage.plan.sequence_length
                    total[source] = total.get(source, 0) + read
            before = entry.windows
    return {source: tokens for source, tokens in sorted(total.items()) if tokens}


def declared_end(stage: CompiledStage) -> int:
    """Where a lineage means to leave a stage: its declared end, or the boundary at which it branches off."""
    return stage.declared_end if stage.stop == stage.plan.end else stage.stop


def _rows(
    lineages: Sequence[Compiled],
    trunk: Point | None,
    shared: Sequence[CompiledStage],
    within_reach: Set[Point],
    measured: Mapping[Point, MeasuredSets],
) -> list[Row]:
    begin = trunk.position if trunk else 0
    rows: list[Row] = []
    in_trunk = {stage.name for stage in shared}
    if trunk is not None:
        rows.append(_edge([shared[-1]], tuple(trunk for _ in lineages)))
    ends: dict[int, dict[int, CompiledStage]] = {}
    for number, compiled in enumerate(lineages):
        for stage in compiled.stages:
            if stage.stop > begin or (stage.members and stage.name not in in_trunk):
                ends.setdefault(declared_end(stage), {})[number] = stage
    edges: dict[tuple[Point | None, ...], list[CompiledStage]] = {}  # ends declared apart may fall on one boundary
    for _, here in sorted(ends.items()):
        position = next(iter(here.values())).stop
        points = [
            Point(here[number].name, here[number].stop) if number in here else point_at(compiled, position)
            for number, compiled in enumerate(lineages)
        ]
        points = [p if n in here or p in within_reach else None for n, p in enumerate(points)]
        edges.setdefault(tuple(points), []).extend(here.values())
    rows += [_edge(stages, points) for points, stages in edges.items()]
    taken = {point.position for row in rows for point in row.points if point is not None}
    between = {point for point in measured if point.position > begin and point.position not in taken}
    rows += _rows_between(lineages, between)
    return sorted(rows, key=lambda row: row.position)


def _edge(stages: Sequence[CompiledStage], points: tuple[Point | None, ...]) -> Row:
    """The row at which lineages end or leave `stages`."""
    ends, leaves = (
        "/".join(dict.fromkeys(stage.setting.stage for stage in stages if (stage.stop == stage.plan.end) == whole))
        for whole in (True, False)
    )
    return Row(ends or None, points, leaves or None)


def _rows_between(lineages: Sequence[Compiled], measured: Set[Point]) -> list[Row]:
    """Rows of measured points of two or more lineages: at one position, or else a batch apart at most.

    Of two stages with different batches, each measures at its own first step boundary at or past a multiple.
    """
    rows: list[Row] = []
    unplaced = set(measured)
    for position in sorted({point.position for point in measured}):
        here = [point if (point := point_at(compiled, position)) in unplaced else None for compiled in lineages]
        measuring = [compiled for compiled, point in zip(lineages, here, strict=True) if point is not None]
        if not measuring:
            continue
        for number, compiled in enumerate(lineages):
            near = point_at(compiled, position, at_boundary=True)
            # what two measured at the very same position is compared there
            if (
                here[number] is None
                and near in unplaced
                and not any(point_at(o, near.position) in unplaced for o in measuring)
            ):
                here[number] = near
        if len(set(here) - {None}) > 1:
            rows.append(Row(None, tuple(here)))
            unplaced -= set(here)
    return rows


def _kept(project: Project, lineages: Sequence[Compiled]) -> set[Point]:
    """The position of a checkpoint that can be measured yet."""
    return {
        Point(stage.name, kept.position)
        for compiled in lineages
        for stage in compiled.stages
        for kept in checkpoints.list_checkpoints(folders.stage_folder(project, compiled, stage))
        if kept.position <= stage.stop
    }


def _read_by(stage: CompiledStage, position: int) -> set[str]:
    return {name for name, windows in stage.plan.windows_read(position).items() if windows}


def _changed_ahead(project: Project, compiled: Compiled) -> list[PlanDrift]:
    """The stages that are as the files say up to their last checkpoint alone; Drift where one is not so far."""
    drifts = list(find_drift(project, compiled))
    for drift in drifts:
        if not drift.ahead:
            command = f"curriculum diff {compiled.curriculum}{project.options(compiled.size_name)}"
            parent_retrained = any(part.what == diff_compare.HISTORY for part in drift.compared().parts)
            raise Drift(
                f"`{drift.stage.name}` {drift.words()}",
                place=drift.place(project),
                hint="its parent was retrained; branch again under a new name"
                if parent_retrained
                else f"`{command}` compares the two; put the files back, or give the curriculum a new name",
            )
    return drifts
