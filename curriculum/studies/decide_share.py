"""The decision on a share of old text: the smallest that keeps its loss, and whether that still drifts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from curriculum.studies import contenders as shared, designs
from curriculum.studies.decision import Decision, KeptShareReport, LawReport, Proposal, Question, Undecidable
from curriculum.studies.evidence import Evidence
from curriculum.studies.laws import retention
from curriculum.studies.laws.huber import Array
from curriculum.studies.laws.retention import RetentionLaw

LEAST_SHARES = 3
_ROUNDING = 1e-9
"""How far a share may be beyond a bound: both are rounded."""


def decide(question: Question, evidence: Evidence, earlier: Sequence[tuple[int, Evidence]]) -> Decision:
    """The decision on the share of `question.of`. Raises Undecidable."""
    assert question.of is not None, "a line of shares is of a source"
    laws: dict[str, RetentionLaw] = {}
    reports = []
    for source in (*question.lower, *question.keep):
        shares, losses = line(question, evidence, source)
        different = len(np.unique(shares))
        if different < LEAST_SHARES:
            raise Undecidable(
                f"{different} different shares of `{question.of}` cannot fit a curve", "three below 100% fix a curve"
            )
        chosen, *others = retention.choose(shares, losses)
        laws[source] = chosen
        reports.append(_report(source, chosen, others, shares, losses))
    kept = tuple(_kept_share(question, evidence, laws[source], source, earlier) for source in question.keep)
    share = _best(question, evidence, laws, line(question, evidence, next(iter(laws)))[0])
    arm = (evidence.arms("proposal") or (None,))[-1]
    if arm is not None:
        share = float(evidence.settings(arm).get(question.of, 0.0))
    predicted = {source: float(law.predict(np.array([share]))[0]) for source, law in laws.items()}
    limited = shared.with_limits(question, evidence)
    references, rows = {}, []
    for before in evidence.arms("before"):
        rows.append(shared.contender(question, limited, before, before, {}))
    for control in shared.controls(evidence):
        at = np.array([float(evidence.settings(control).get(question.of, 0.0))])
        references[control] = {source: float(law.predict(np.maximum(at, 1e-6))[0]) for source, law in laws.items()}
        rows.append(shared.contender(question, limited, control, control, {}))
    rows.append(shared.contender(question, limited, "proposal, predicted", None, predicted))
    if arm is not None:
        rows.append(shared.contender(question, limited, "proposal, measured", arm, {}))
    proposal = Proposal(arm, _mixture(question, evidence, share), {}, (), None, 0)
    return shared.finish(
        question,
        evidence,
        proposal=proposal,
        laws=tuple(reports),
        contenders=tuple(rows),
        judged=shared.verdicts(question, limited, arm, predicted, references),
        notes=_notes(kept),
        kept_shares=kept,
    )


def line(question: Question, evidence: Evidence, source: str) -> tuple[Array, Array]:
    """Shares of `question.of` and losses of `source`, shape `[n]`, of the arms that differ in that share alone."""
    arms, shares, losses = evidence.table(source, (question.of or "",))
    rest = _rest(question, evidence)
    inside = []
    for arm in arms:
        others = {name: value for name, value in evidence.settings(arm).items() if name != question.of}
        total = sum(float(value) for value in others.values())
        inside.append(all(abs(float(others.get(name, 0)) - part * total) < 1e-3 for name, part in rest.items()))
    chosen = np.array(inside, bool)
    return shares[chosen, 0], losses[chosen]


def _rest(question: Question, evidence: Evidence) -> dict[str, float]:
    """The proportions of the other sources, in the first arm of the line."""
    arm = next(iter(evidence.arms("swarm")), None)
    settings = evidence.settings(arm) if arm is not None else {}
    others = {name: float(value) for name, value in settings.items() if name != question.of}
    total = sum(others.values()) or 1.0
    return {name: value / total for name, value in others.items()}


def _mixture(question: Question, evidence: Evidence, share: float) -> dict[str, float]:
    rest = {name: part * (1 - share) for name, part in _rest(question, evidence).items()}
    return {question.of or "": share, **rest}


def _report(
    source: str, chosen: RetentionLaw, others: Sequence[RetentionLaw], shares: Array, losses: Array
) -> LawReport:
    return LawReport(
        source=source,
        name=chosen.form,
        terms=chosen.terms,
        arms=len(losses),
        objective=None,
        left_out_error=chosen.left_out_error,
        other_error=others[0].left_out_error if others else None,
        rank=shared.rank(chosen.predict(shares), losses),
        own_share_rank=None,
        half_width=None,
    )


def _kept_share(
    question: Question, evidence: Evidence, law: RetentionLaw, source: str, earlier: Sequence[tuple[int, Evidence]]
) -> KeptShareReport:
    keep = question.keep[source]
    estimate = retention.kept_share(*line(question, evidence, source), shared.limit_of(evidence, source, keep), law)
    roots = [(position, _root(question, before, source, law)) for position, before in earlier]
    settled = None
    if estimate.spread is not None and roots:
        settled = retention.settled_from(roots, estimate.spread)
    of_trunks = [_root(question, _of_seed(evidence, seed), source, law) for seed in evidence.seeds]
    numbers = [share for share in of_trunks if share is not None]
    trunks = (min(numbers), max(numbers)) if len(numbers) > 1 else None
    return KeptShareReport(source, estimate.share, estimate.spread, trunks, tuple(roots), settled)


def _of_seed(evidence: Evidence, seed: int) -> Evidence:
    return Evidence(tuple(row for row in evidence.rows if row.seed == seed))


def _root(question: Question, evidence: Evidence, source: str, law: RetentionLaw) -> float | None:
    shares, losses = line(question, evidence, source)
    if len(np.unique(shares)) < retention.least_arms(law.form):
        return None
    limit = shared.limit_of(evidence, source, question.keep[source])
    return retention.fit(shares, losses, law.form).root(limit)


def _best(question: Question, evidence: Evidence, laws: dict[str, RetentionLaw], measured: Array) -> float:
    """The share of the lowest predicted mean of `lower` within the limits, in thousandths of the measured range."""
    parts = designs.PARTS
    grid = np.arange(int(np.ceil(measured.min() * parts)), int(measured.max() * parts) + 1) / parts
    allowed = np.ones(len(grid), bool)
    rest = {name: part * (1 - grid) for name, part in _rest(question, evidence).items()}
    for source, shares in {question.of or "": grid, **rest}.items():
        low, high = ((of or {}).get(source, usual) for of, usual in ((question.low, 0.0), (question.high, 1.0)))
        allowed &= (shares >= low - _ROUNDING) & (shares <= high + _ROUNDING)
    if not allowed.any():
        raise Undecidable(
            f"`always` and the passes of the sources allow no share of `{question.of}` from {grid[0]:.1%} to "
            f"{grid[-1]:.1%}, which were measured",
            "widen `always:`, or measure shares that it allows",
        )
    for source, keep in question.keep.items():
        limit = shared.limit_of(evidence, source, keep)
        predicted = laws[source].predict(grid)
        if predicted[allowed].min(initial=predicted.max()) > limit:
            raise Undecidable(
                f"nothing satisfies `keep`: the lowest `{source}` reaches on the line is {predicted.min():.4f}, "
                f"its limit {limit:.4f}",
                "raise the limit, or try larger shares",
            )
        allowed &= predicted <= limit
    if not allowed.any():
        raise Undecidable("nothing satisfies `keep`: no share meets all limits together", "raise one of the limits")
    value = sum(weight * laws[source].predict(grid) for source, weight in question.lower.items())
    return float(grid[np.argmin(np.where(allowed, value, np.inf))])


def _notes(kept: Sequence[KeptShareReport]) -> list[str]:
    lines = []
    for one in kept:
        if one.earlier and one.settled is None:
            lines.append(
                f"the share that keeps `{one.source}` is drifting: it does not agree with that of the last evaluation "
                "before the end"
            )
    return lines
