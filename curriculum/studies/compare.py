"""The arms of a study side by side: held-out losses, and differences to one of them with the noise of runs.

Read only. A difference is paired by run and judged as a verdict is (`verdicts.difference`), so that its error
grows with what replicates and trunks differ by, and not only with the choice of held-out documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from curriculum.config.project import Project
from curriculum.errors import NotFound, PlanError, did_you_mean
from curriculum.studies.decision_input import read_input
from curriculum.studies.evidence import Evidence, Role
from curriculum.studies.verdicts import Difference, difference

FORMAT: Final = 1
"""Of the JSON object of `compare STUDY`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmLosses:
    """An arm: its losses by source (nats a token, means over its runs), and their differences to another arm's.

    `lower` is the weighted mean that the study minimises, None where a source of it was not measured. What was not
    measured in both arms has no difference.
    """

    arm: str
    role: Role
    runs: int
    losses: Mapping[str, float]
    differences: Mapping[str, Difference]
    lower: float | None
    lower_difference: Difference | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyComparison:
    """All arms of a study that ended, less the arm `against`; None where there is no arm to compare with."""

    study: str
    size: str
    against: str | None
    sources: tuple[str, ...]
    arms: tuple[ArmLosses, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}


def compare_study(project: Project, name: str, size: str, against: str | None = None) -> StudyComparison:
    """The arms of study `name` that ended; PlanError where none did, NotFound for an arm `against` that did not."""
    inputs = read_input(project, name, size)
    evidence = inputs.evidence
    if inputs.question.kind == "schedules":
        raise PlanError(
            f"study `{name}` orders schedules by training curves, and has no arms of its own to compare",
            hint="name two or more curricula under its `arms:`, or compare curricula by name",
        )
    if against is not None:
        against = against.removeprefix(f"{name}/").removesuffix(".1")
        if against not in evidence.arms():
            raise NotFound(
                f"no arm `{against}` of study `{name}` has ended", hint=did_you_mean(against, evidence.arms())
            )
    base = against or evidence.reference
    return StudyComparison(
        study=name,
        size=size,
        against=base,
        sources=evidence.sources,
        arms=side_by_side(evidence, inputs.question.lower, base),
        notes=tuple(inputs.incomplete),
    )


def side_by_side(evidence: Evidence, lower: Mapping[str, float], against: str | None) -> tuple[ArmLosses, ...]:
    """A row for each arm of the evidence, in its order, the branch point among them."""

    def less(arm: str, weights: Mapping[str, float]) -> Difference | None:
        return None if against in (None, arm) or not weights else difference(evidence, arm, str(against), weights)

    rows = []
    for arm in evidence.arms():
        means = {source: evidence.mean(arm, {source: 1.0}) for source in evidence.sources}
        each = {source: less(arm, {source: 1.0}) for source in evidence.sources}
        rows.append(
            ArmLosses(
                arm=arm,
                role=evidence.role(arm),
                runs=len(evidence.runs(arm)),
                losses={source: loss for source, loss in means.items() if loss is not None},
                differences={source: gap for source, gap in each.items() if gap is not None},
                lower=evidence.mean(arm, lower) if lower else None,
                lower_difference=less(arm, lower),
            )
        )
    return tuple(rows)


def difference_words(gap: Difference | None) -> str:
    """A difference with one standard error, and whether its 95% interval excludes 0 (`*`) or not (`·`).

    `-` without a difference, and `?` for an error that one run each says nothing of.
    """
    if gap is None:
        return "-"
    error = "?" if gap.error is None else f"{gap.error:.4f}"
    mark = " " if gap.low is None or gap.high is None else "*" if gap.low > 0 or gap.high < 0 else "·"
    return f"{gap.mean:+.4f} ±{error} {mark}"
