"""Benchmark scores of variants side by side, from the records of `curriculum eval`. Read only.

Two scores are compared only when they are of the same task: its version, prompt, documents and number of examples.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from curriculum.analysis.bootstrap import Estimate, paired
from curriculum.analysis.compare import Comparison, Row, point_at
from curriculum.artifacts.benchmarks import Score, plain, read_scores
from curriculum.config.project import Project
from curriculum.runs.measurements import by_point

Z95 = 1.959963984540054


def mismatch(first: Score, second: Score) -> str | None:
    """Why two scores of one label cannot be compared, or None when they can."""
    if first.same == second.same:
        return None
    if first.harness != second.harness:
        return f"lm-eval {second.harness} measured it, {first.harness} there, and its task is another"
    return "the task was another: its version, prompt, documents or metric"


def difference(score: Score, other: Score) -> Estimate | None:
    """`score` minus `other`, with its noise; None where they are not of the same task.

    Paired by document where both have them (`bootstrap.paired`); a group's is the mean of its members'. Otherwise the
    two errors count as independent, which for the same documents overstates the noise.
    """
    if mismatch(score, other) is not None:
        return None
    if score.per_document and len(score.per_document) == len(other.per_document):
        return paired(np.array(score.per_document) - np.array(other.per_document))
    if score.parts:
        parts = [difference(one, two) for one, two in zip(score.parts, other.parts, strict=True)]
        errors = [part.error for part in parts if part is not None and part.error is not None]
        if len(errors) == len(parts):
            return _normal(score.value - other.value, math.hypot(*errors) / len(errors))
    if score.error is None or other.error is None:
        return None
    return _normal(score.value - other.value, math.hypot(score.error, other.error))


def _normal(mean: float, error: float) -> Estimate:
    return Estimate(mean, error, mean - Z95 * error, mean + Z95 * error, None)


# --- side by side ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A task where variants are compared: each variant's score, None where it was not measured."""

    label: str
    row: Row
    scores: tuple[Score | None, ...]

    @property
    def position(self) -> int:
        return self.row.position


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Every measured task of some variants, by label and then along the token clock."""

    names: tuple[str, ...]
    against: int
    lines: tuple[Line, ...]

    def difference(self, line: Line, number: int) -> Estimate | None:
        score, base = line.scores[number], line.scores[self.against]
        return difference(score, base) if score is not None and base is not None and score is not base else None

    def mismatches(self) -> list[str]:
        """Scores that are in one row but not compared, with the reason."""
        messages = []
        for line in self.lines:
            base = line.scores[self.against]
            for name, score in zip(self.names, line.scores, strict=True):
                reason = mismatch(base, score) if base is not None and score is not None else None
                if reason is not None:
                    messages.append(
                        f"{line.label} of {name} at {line.position:,} tokens is not compared with "
                        f"{self.names[self.against]}: {reason}; `curriculum eval … --again` measures it again"
                    )
        return messages


def side_by_side(project: Project, comparison: Comparison) -> Table:
    """The scores of the compared variants: at the rows of the comparison, and wherever else two were measured."""
    scores = by_point(project, comparison.lineages, read_scores)
    rows = [row for row in comparison.rows if any(point in scores for point in row.points)]
    taken = {point for row in rows for point in row.points}
    for position in sorted({point.position for point in scores if point not in taken}):
        points = tuple(point_at(compiled, position) for compiled in comparison.lineages)
        rows.append(Row(None, tuple(point if point in scores else None for point in points)))
    lines = []
    for row in rows:
        here = [scores.get(point, {}) if point is not None else {} for point in row.points]
        lines += [
            Line(label=label, row=row, scores=tuple(named.get(label) for named in here))
            for label in dict.fromkeys(label for named in here for label in named)
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
            "ends": line.row.ends,
            "leaves": line.row.leaves,
            "position": line.position,
            "variants": {name: cell(line, number) for number, name in enumerate(table.names)},
        }
        for line in table.lines
    ]
