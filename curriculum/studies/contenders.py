"""What is compared in a decision of any kind: limits, verdicts, the table of contenders, noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from curriculum.studies.decision import (
    Contender,
    Decision,
    Keep,
    KeptShareReport,
    LawReport,
    Noise,
    Proposal,
    Question,
    Undecidable,
)
from curriculum.studies.evidence import Evidence
from curriculum.studies.laws.huber import Array
from curriculum.studies.verdicts import Verdict, difference, judge

MOST_NOT_ASKED = 4
"""Losses outside the goal that a note names, those first that rose most."""
MOST_SINGLE_RUNS = 8
"""Arms whose windows show the noise of documents where no arm ran more than once."""


def with_limits(question: Question, evidence: Evidence) -> Evidence:
    """The evidence with an arm for each limit that is stated as a loss."""
    for source, keep in question.keep.items():
        if keep.reference is None:
            evidence = evidence.with_limit(limit_name(keep.slack), source, keep.slack)
    return evidence


def limit_name(loss: float) -> str:
    return f"{loss:g}"


def against(keep: Keep) -> tuple[str, float]:
    """The arm that a limit refers to, and the slack above it."""
    return (limit_name(keep.slack), 0.0) if keep.reference is None else (keep.reference, keep.slack)


def limit_of(evidence: Evidence, source: str, keep: Keep) -> float:
    """A limit in nats. Raises Undecidable where the arm that it refers to was not measured."""
    if keep.reference is None:
        return keep.slack
    loss = evidence.mean(keep.reference, {source: 1.0})
    if loss is None:
        raise Undecidable(
            f"`{source}` is to be kept against `{keep.reference}`, which was not measured", "run that arm first"
        )
    return loss + keep.slack


def controls(evidence: Evidence) -> tuple[str, ...]:
    return evidence.arms("control")


def verdicts(
    question: Question,
    evidence: Evidence,
    arm: str | None,
    predicted: Mapping[str, float] | None,
    references: Mapping[str, Mapping[str, float]],
) -> tuple[Verdict, ...]:
    """The verdicts on `arm`: of `lower` against each control, of `keep` against its reference.

    `predicted` are losses that laws give the proposal, `references` those that they give each control or, where there
    is no control, each mixture that it is compared with. A control that was shown to break a limit is no alternative.
    """
    allowed = [name for name in references if not _breaks_a_limit(question, evidence, name)]
    judged = []
    for name in allowed or references:
        losses = references[name]
        gain = None if predicted is None else weighted(predicted, question.lower) - weighted(losses, question.lower)
        judged.append(judge(evidence, arm, name, question.lower, predicted=gain))
    for source, keep in question.keep.items():
        reference, slack = against(keep)
        loss = None if predicted is None else predicted[source] - (limit_of(evidence, source, keep) - slack)
        judged.append(judge(evidence, arm, reference, {source: 1.0}, keep=source, slack=slack, predicted=loss))
    return tuple(judged)


def _breaks_a_limit(question: Question, evidence: Evidence, arm: str) -> bool:
    for source, keep in question.keep.items():
        reference, slack = against(keep)
        if (
            reference != arm
            and judge(evidence, arm, reference, {source: 1.0}, keep=source, slack=slack).word == "contrary"
        ):
            return True
    return False


def weighted(losses: Mapping[str, float], weights: Mapping[str, float]) -> float:
    return sum(weight * losses[source] for source, weight in weights.items()) / sum(weights.values())


def contender(
    question: Question, evidence: Evidence, name: str, arm: str | None, predicted: Mapping[str, float]
) -> Contender:
    """A row of the table of contenders: what was measured of `arm`, or what is `predicted` where it is None."""
    goals = (*question.lower, *question.keep)
    losses = dict(predicted)
    if arm is not None:
        measured = {source: evidence.mean(arm, {source: 1.0}) for source in goals}
        losses = {source: loss for source, loss in measured.items() if loss is not None}
    breaks = {}
    for source, keep in question.keep.items():
        excess = losses[source] - limit_of(evidence, source, keep) if source in losses else 0.0
        if excess > 5e-5:
            breaks[source] = excess
    complete = all(source in losses for source in question.lower)
    return Contender(name, arm is not None, losses, weighted(losses, question.lower) if complete else None, breaks)


def noise(question: Question, evidence: Evidence) -> tuple[Noise, ...]:
    """The noise of each source of the goal, by the controls, else by whatever arms ran more than once."""
    references = controls(evidence) or evidence.arms("before")
    rows = []
    for source in (*question.lower, *question.keep):
        each = [
            difference(evidence, arm, reference, {source: 1.0})
            for reference in references[:1]
            for arm in evidence.repeated or evidence.arms("swarm", "control", "proposal")[:MOST_SINGLE_RUNS]
            if arm != reference
        ]
        differences = [one for one in each if one is not None]
        spreads = [one for one in differences if one.spread is not None and one.runs > 1]
        runs = max((one.runs for one in spreads), default=0)
        tells = [one.half for one in spreads if one.runs == runs and one.half is not None]
        rows.append(
            Noise(
                source,
                max((one.window_error for one in differences), default=0.0) or None,
                max((one.spread for one in spreads if one.spread is not None), default=None),
                float(np.median(tells)) if tells else None,
                runs,
            )
        )
    return tuple(rows)


def rank(predicted: Array, observed: Array) -> float | None:
    """Spearman's rank correlation; None where one of the two does not vary."""
    from scipy.stats import rankdata

    first, second = rankdata(predicted), rankdata(observed)
    if len(first) < 3 or not np.ptp(first) or not np.ptp(second):
        return None
    return float(np.corrcoef(first, second)[0, 1])


def _not_asked(question: Question, evidence: Evidence, proposal: Proposal | None) -> list[str]:
    """A line for the losses that were measured and are no part of the goal, with what the proposal did to them."""
    goals = {*(source for source, weight in question.lower.items() if weight), *question.keep}
    others = [source for source in evidence.sources if source not in goals]
    if not others:
        return []
    arm, reference = proposal.arm if proposal is not None else None, evidence.reference
    changed = {}
    if arm is not None and reference not in (None, arm):
        for source in others:
            pairs = evidence.differences(arm, str(reference), {source: 1.0})
            if pairs:
                changed[source] = float(np.mean([value for _, value in pairs]))
    shown = sorted(others, key=lambda source: -changed.get(source, 0.0))[:MOST_NOT_ASKED]
    words = [f"{source} ({changed[source]:+.3f})" if source in changed else source for source in shown]
    more = f" and {len(others) - len(shown)} more" if len(others) > len(shown) else ""
    against = f", here less `{reference}`" if changed else ""
    return [f"measured, and in neither `lower` nor `keep`, so in no verdict{against}: {', '.join(words)}{more}"]


def finish(
    question: Question,
    evidence: Evidence,
    *,
    proposal: Proposal | None,
    laws: tuple[LawReport, ...] = (),
    contenders: tuple[Contender, ...] = (),
    judged: tuple[Verdict, ...] = (),
    notes: Sequence[str] = (),
    kept_shares: tuple[KeptShareReport, ...] = (),
) -> Decision:
    """The decision with what is counted in the evidence, and notes that hold for every kind of question."""
    arms = evidence.arms("swarm", "control", "proposal")
    trunks = len({run.seed for arm in arms for run in evidence.runs(arm)})
    lines = list(notes)
    single = [v for v in judged if v.difference is not None and v.difference.runs < 2]
    if single:
        lines.append("one run of the proposal suggests at most: its replicates decide")
    if question.all_trunks and trunks < 2 and any(verdict.shown for verdict in judged):
        lines.append("one trunk: what is shown holds on this trunk")
    lines += _not_asked(question, evidence, proposal)
    return Decision(
        name=question.name,
        kind=question.kind,
        runs=sum(len(evidence.runs(arm)) for arm in arms),
        arms=len(arms),
        trunks=trunks,
        proposal=proposal,
        laws=laws,
        noise=noise(question, evidence),
        contenders=contenders,
        verdicts=judged,
        notes=tuple(lines),
        kept_shares=kept_shares,
    )
