"""What lm-evaluation-harness measured at checkpoints: the records beside them, and variants side by side.

Read from what `curriculum eval` left; nothing is measured here. Two scores are only taken from each other when
they are of the same task: its version, its words, its documents and its number of examples.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curriculum import runs
from curriculum.bootstrap import Estimate, paired
from curriculum.compare import Comparison, Point, point_at
from curriculum.errors import DataError
from curriculum.planner import Compiled
from curriculum.project import Project

FOLDER = "benchmarks"
MEMBERS_SHOWN = 12
"""Members of a group that are shown beside it; of a larger one the group alone is."""
Z95 = 1.959963984540054
_PLAIN = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One figure of a task or group at a checkpoint, on the harness's own scale (mostly a part of 1).

    `error` is one standard error. `parts` are the scores of which a group's is the plain mean; `same` spells all
    that must agree before two scores are compared.
    """

    task: str
    metric: str
    value: float
    error: float | None
    num_fewshot: int | None
    limit: int | None
    documents: int
    higher_is_better: bool
    harness: str
    same: Mapping[str, Any]
    per_document: tuple[float, ...] = ()
    parts: tuple[Score, ...] = ()
    member_of: str | None = None

    @property
    def label(self) -> str:
        """The task with what was asked for beside it; one label is one row of a table."""
        shots = f", {self.num_fewshot}-shot" if self.num_fewshot else ""
        return f"{self.task}{shots}" + (f", first {self.limit:,}" if self.limit is not None else "")


def path_of(
    stage_folder: Path, checkpoint: str, task: str, num_fewshot: int | None = None, limit: int | None = None
) -> Path:
    """Where the record of `task` at a checkpoint (its folder's name) lies, one for every way of asking."""
    plain = _PLAIN.sub("-", task)
    if plain != task:
        plain += f"-{hashlib.sha256(task.encode()).hexdigest()[:8]}"
    shots = f".{num_fewshot}-shot" if num_fewshot is not None else ""
    first = f".first-{limit}" if limit is not None else ""
    return stage_folder / FOLDER / checkpoint / f"{plain}{shots}{first}.json"


def records(stage_folder: Path) -> dict[int, list[Mapping[str, Any]]]:
    """Every record of a stage by position (tokens); where a history was cut back, those of the newest generation."""
    found: dict[int, list[Mapping[str, Any]]] = {}
    for path in sorted((stage_folder / FOLDER).glob("g*-*/*.json")):
        try:
            value = json.loads(path.read_bytes())
            position, generation = int(value["position"]), int(value["generation"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"the record {path} cannot be read: {error}",
                hint="move it away; `curriculum eval` measures anew",
            ) from None
        here = found.setdefault(position, [])
        if here and here[0]["generation"] > generation:
            continue
        if here and here[0]["generation"] < generation:
            here.clear()
        here.append(value)
    return dict(sorted(found.items()))


def scores(found: Sequence[Mapping[str, Any]]) -> dict[str, Score]:
    """The scores of some records by label: what was asked for, and the members of groups that are not too large."""
    known: dict[str, Score] = {}
    for record in found:
        for score in _scores(record):
            # Asked for by name it stands for itself, whatever group named it too.
            if score.label not in known or known[score.label].member_of is not None:
                known[score.label] = score
    return known


def _scores(record: Mapping[str, Any]) -> list[Score]:
    name = record["task"]
    if name not in record["groups"]:
        made = [_score(record, task, None) for task in record["tasks"]]
        return [score for score in made if score is not None]
    top = _score(record, name, None)
    members = record["groups"][name]["members"]
    below = [_score(record, member, name) for member in members] if len(members) <= MEMBERS_SHOWN else []
    return [score for score in (top, *below) if score is not None]


def _score(record: Mapping[str, Any], name: str, member_of: str | None) -> Score | None:
    limit, harness = record["asked"]["limit"], str(record["harness"]["lm_eval"])
    if name in record["tasks"]:
        task = record["tasks"][name]
        if task["preferred"] is None:
            return None
        figure = task["metrics"][task["preferred"]]
        return Score(
            task=name,
            metric=task["preferred"].removesuffix(",none"),
            value=figure["value"],
            error=figure["error"],
            num_fewshot=task["num_fewshot"],
            limit=limit,
            documents=task["documents"],
            higher_is_better=figure["higher_is_better"],
            harness=harness,
            same={key: task[key] for key in ("version", "num_fewshot", "definition", "digest", "preferred")},
            per_document=tuple(task["per_document"] or ()),
            member_of=member_of,
        )
    if name not in record["groups"]:
        return None
    group = record["groups"][name]
    parts = tuple(p for member in group["members"] if (p := _score(record, member, name)) is not None)
    if not parts:
        return None
    if group["preferred"] is not None:
        figure = group["metrics"][group["preferred"]]
        metric, value, error = group["preferred"].removesuffix(",none"), figure["value"], figure["error"]
    else:
        metric, value = f"mean of {len(parts)}", sum(part.value for part in parts) / len(parts)
        errors = [part.error for part in parts if part.error is not None]
        error = math.hypot(*errors) / len(parts) if len(errors) == len(parts) else None
    shots = {part.num_fewshot for part in parts}
    return Score(
        task=name,
        metric=metric,
        value=value,
        error=error,
        num_fewshot=shots.pop() if len(shots) == 1 else None,
        limit=limit,
        documents=sum(part.documents for part in parts),
        higher_is_better=all(part.higher_is_better for part in parts),
        harness=harness,
        same={part.task: part.same for part in parts},
        parts=parts if group["preferred"] is None else (),
        member_of=member_of,
    )


def differ(first: Score, second: Score) -> str | None:
    """Why two scores of one label cannot be taken from each other, or None when they can."""
    if first.same == second.same:
        return None
    if first.harness != second.harness:
        return f"lm-eval {second.harness} measured it, {first.harness} there, and its task is another"
    return "the task was another: its version, prompt, documents or metric"


def difference(mine: Score, other: Score) -> Estimate | None:
    """Score at `mine` minus score at `other`, with its noise; None where they are not of the same task.

    Paired by document where both have them (`bootstrap.paired`); a group's is the mean of its members'. Else the
    two errors are taken as independent, which for the same documents says too much noise rather than too little.
    """
    if differ(mine, other) is not None:
        return None
    if mine.per_document and len(mine.per_document) == len(other.per_document):
        return paired(np.array(mine.per_document) - np.array(other.per_document))
    if mine.parts:
        parts = [difference(one, two) for one, two in zip(mine.parts, other.parts, strict=True)]
        known = [part for part in parts if part is not None]
        if len(known) == len(parts):
            return _normal(mine.value - other.value, math.hypot(*(p.error for p in known)) / len(known))
    if mine.error is None or other.error is None:
        return None
    return _normal(mine.value - other.value, math.hypot(mine.error, other.error))


def _normal(mean: float, error: float) -> Estimate:
    return Estimate(mean, error, mean - Z95 * error, mean + Z95 * error)


# --- side by side ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A task where variants are compared: each variant's score, None where it was not measured."""

    label: str
    ends: str | None
    position: int
    scores: tuple[Score | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Every measured task of some variants, by label and then along the token clock."""

    names: tuple[str, ...]
    against: int
    lines: tuple[Line, ...]

    def difference(self, line: Line, number: int) -> Estimate | None:
        mine, base = line.scores[number], line.scores[self.against]
        return difference(mine, base) if mine is not None and base is not None and mine is not base else None

    def mismatches(self) -> list[str]:
        """Which scores stand in one row but are not compared, and why."""
        found = []
        for line in self.lines:
            base = line.scores[self.against]
            for name, score in zip(self.names, line.scores, strict=True):
                reason = differ(base, score) if base is not None and score is not None else None
                if reason is not None:
                    found.append(
                        f"{line.label} of {name} at {line.position:,} tokens is not compared with "
                        f"{self.names[self.against]}: {reason}; `curriculum eval … --again` measures anew"
                    )
        return found


def by_point(project: Project, lineages: Sequence[Compiled]) -> dict[Point, dict[str, Score]]:
    """Every score of some lineages; equal points are the same weights, measured once."""
    known: dict[Point, dict[str, Score]] = {}
    for compiled in lineages:
        for stage in compiled.stages:
            found = records(runs.stage_folder(project, compiled, stage))
            known.update(
                {Point(stage.name, at): scores(here) for at, here in found.items() if at <= stage.stop}
            )
    return known


def side_by_side(project: Project, comparison: Comparison) -> Table:
    """The scores of the compared variants: at the rows of the comparison, and wherever else two were measured."""
    known = by_point(project, comparison.lineages)
    rows: list[tuple[str | None, tuple[Point | None, ...]]] = [
        (row.ends, row.points) for row in comparison.rows if any(point in known for point in row.points)
    ]
    taken = {point for _, points in rows for point in points}
    for position in sorted({point.position for point in known if point not in taken}):
        points = tuple(point_at(compiled, position) for compiled in comparison.lineages)
        rows.append((None, tuple(point if point in known else None for point in points)))
    lines = []
    for ends, points in rows:
        here = [known.get(point, {}) if point is not None else {} for point in points]
        position = max(point.position for point in points if point is not None)
        lines += [
            Line(label=label, ends=ends, position=position, scores=tuple(each.get(label) for each in here))
            for label in dict.fromkeys(label for each in here for label in each)
        ]
    order = {label: number for number, label in enumerate(dict.fromkeys(line.label for line in lines))}
    return Table(
        names=comparison.names,
        against=comparison.against,
        lines=tuple(sorted(lines, key=lambda line: (order[line.label], line.position))),
    )


def to_json(table: Table) -> list[dict[str, Any]]:
    """The table as JSON values: a row for each task and position."""

    def cell(line: Line, number: int) -> dict[str, Any] | None:
        score, figure = line.scores[number], table.difference(line, number)
        if score is None:
            return None
        return {**plain(score), "difference": asdict(figure) if figure else None}

    return [
        {
            "task": line.label,
            "ends": line.ends,
            "position": line.position,
            "variants": {name: cell(line, number) for number, name in enumerate(table.names)},
        }
        for line in table.lines
    ]


def plain(score: Score) -> dict[str, Any]:
    """A score as JSON values, without its documents."""
    left_out = ("same", "per_document", "parts")
    return {key: value for key, value in asdict(score).items() if key not in left_out}
