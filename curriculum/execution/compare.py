"""A comparison of variants with all that belongs to it: missing losses measured, claims checked, tasks side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from curriculum.analysis import benchmarks, claims, compare as analysis_compare, ngram_overlap
from curriculum.artifacts.job_process import stop_on_signals
from curriculum.execution import evaluate
from curriculum.execution.request import RunRequest
from curriculum.studies.arms import texts_of
from curriculum.units import show_exact


@dataclass(frozen=True, slots=True)
class VariantComparison:
    """Held-out losses and benchmark scores of variants, claims and their verdicts, and notes of a line each."""

    losses: analysis_compare.Comparison
    tasks: benchmarks.Table
    claims: list[claims.Claim]
    notes: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        return {
            **analysis_compare.to_json(self.losses),
            "tasks": benchmarks.to_json(self.tasks),
            "claims": list(map(asdict, self.claims)),
            "notes": list(self.notes),
        }


def compare_variants(
    request: RunRequest, names: Sequence[str], against: str | None, *, fill: bool
) -> VariantComparison | None:
    """Compare curricula `names`, or arms by address; with `fill` kept checkpoints are measured where a loss is missing.

    None when a signal stopped it; what was measured until then is saved.
    """
    project = request.project
    texts = texts_of(project, names, request.size)
    losses = analysis_compare.compare(texts, against)
    if fill:
        with stop_on_signals() as stop:
            filled = evaluate.fill(request, losses, texts, stop)
        if filled.stopped:
            return None
        missing = filled.unmeasured
        losses = analysis_compare.compare(texts, against)
    else:
        missing = tuple(f"{gap}: not measured" for gap in analysis_compare.missing_losses(project, losses))
    tasks = benchmarks.side_by_side(project, losses)
    notes = [*losses.few_documents(), *_unaligned(losses), *losses.changed, *losses.mismatches()]
    notes += [*tasks.mismatches(), *missing]
    notes += ngram_overlap.compare_lines(project, losses.names, losses.lineages, texts)
    return VariantComparison(losses, tasks, claims.check_claims(losses), notes)


def _unaligned(losses: analysis_compare.Comparison) -> list[str]:
    """A line for each stage end whose variants are not at the very same token, and one for all other rows."""
    between = [row for row in losses.rows if not row.is_edge and row.apart]
    lines = [
        f"the ends of {row.ends} are {show_exact(row.apart)} tokens apart: a stage ends at its first step "
        "boundary at or past its declared end ("
        + ", ".join(
            f"{name} {show_exact(point.position)}"
            for name, point in zip(losses.names, row.points, strict=True)
            if point is not None
        )
        + ")"
        for row in losses.rows
        if row.ends and row.apart
    ]
    if between:
        lines.append(
            f"in {len(between)} row{'s' * (len(between) != 1)} between stage ends, the evaluations are up to "
            f"{show_exact(max(row.apart for row in between))} tokens apart: each is at its first step boundary at or "
            "past where it is due"
        )
    return lines
