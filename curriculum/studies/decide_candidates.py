"""The decision between arms that are each a proposal of their own: new sources, named mixtures, a grid of settings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from curriculum.studies import contenders as shared
from curriculum.studies.decision import Contender, Decision, LawReport, Proposal, Question, Undecidable
from curriculum.studies.evidence import Evidence
from curriculum.studies.laws import effective_rate
from curriculum.studies.verdicts import Verdict, difference, holm


def decide(question: Question, evidence: Evidence) -> Decision:
    """The best candidate against the controls, corrected for the number of candidates. Raises Undecidable.

    Of a cooldown the answer is the arm with the largest batch, so the fewest steps, that is not distinguishable from
    the one of the lowest loss.
    """
    candidates = [arm for arm in evidence.arms("swarm", "proposal") if evidence.mean(arm, question.lower) is not None]
    if not candidates:
        raise Undecidable("no candidate was measured on all sources of `lower`", "run its arms first")
    limited = shared.with_limits(question, evidence)
    references = shared.controls(evidence)
    judged = {
        arm: shared.verdicts(question, limited, arm, None, {control: {} for control in references})
        for arm in candidates
    }
    judged = _corrected(judged, question.dropped)
    laws: tuple[LawReport, ...] = ()
    notes: list[str] = []
    if question.kind == "cooldown":
        # a control that states what is varied is a point of the grid, too
        varied = evidence.settings(candidates[0]).keys()
        measured = [arm for arm in references if evidence.mean(arm, question.lower) is not None]
        grid = [arm for arm in measured if varied <= evidence.settings(arm).keys()]
        laws, notes = _law(question, evidence, [*candidates, *grid])
    best = (
        _cheapest(question, evidence, candidates, notes)
        if question.kind == "cooldown"
        else _best(question, evidence, candidates, judged)
    )
    settings = evidence.settings(best)
    shares = {name: value for name, value in settings.items() if isinstance(value, float)}
    mixture = shares if abs(sum(shares.values()) - 1) < 1e-3 else {}
    rows = [
        shared.contender(question, limited, arm, arm, {})
        for arm in (*evidence.arms("before"), *references, *candidates)
    ]
    return shared.finish(
        question,
        evidence,
        proposal=Proposal(best, mixture, {}, (), None, 0, None if mixture else settings),
        laws=laws,
        contenders=tuple(_with_word(row, judged) for row in rows),
        judged=judged[best],
        notes=notes,
    )


def _corrected(judged: dict[str, tuple[Verdict, ...]], dropped: int) -> dict[str, tuple[Verdict, ...]]:
    """The verdicts with `shown` of `lower` only where Holm's procedure over all candidates rejects as well.

    Those that were `dropped` count among the candidates, each once for every control, with a p-value of 1.
    """
    places = [
        (arm, number)
        for arm, verdicts in judged.items()
        for number, verdict in enumerate(verdicts)
        if verdict.goal == "lower" and verdict.difference is not None and verdict.difference.p_value is not None
    ]
    p_values = [judged[arm][number].difference.p_value or 0.0 for arm, number in places]  # type: ignore[union-attr]
    each = len(p_values) // len(judged) if judged else 0
    rejected = dict(zip(places, holm([*p_values, *[1.0] * (dropped * each)]), strict=False))
    return {
        arm: tuple(
            replace(verdict, word="not distinguishable")
            if verdict.word in ("shown", "contrary") and not rejected.get((arm, number), True)
            else verdict
            for number, verdict in enumerate(verdicts)
        )
        for arm, verdicts in judged.items()
    }


def _best(question: Question, evidence: Evidence, candidates: list[str], judged: dict[str, tuple[Verdict, ...]]) -> str:
    """The lowest mean of `lower` among the candidates that were shown, else among those that no limit contradicts."""
    shown = [arm for arm in candidates if judged[arm] and all(verdict.shown for verdict in judged[arm])]
    allowed = [arm for arm in candidates if all(verdict.word != "contrary" for verdict in judged[arm])]
    return min(shown or allowed or candidates, key=lambda arm: evidence.level(arm, question.lower) or 0.0)


def _cheapest(question: Question, evidence: Evidence, candidates: list[str], notes: list[str]) -> str:
    lowest = min(candidates, key=lambda arm: evidence.level(arm, question.lower) or 0.0)
    equal = [lowest]
    for arm in candidates:
        gap = None if arm == lowest else difference(evidence, arm, lowest, question.lower)
        if gap is not None and gap.runs > 1 and gap.low is not None and gap.low <= 0:
            equal.append(arm)
    cheapest = max(equal, key=lambda arm: (_number(evidence, arm, "batch"), arm == lowest))
    if cheapest != lowest:
        saved = 1 - _number(evidence, lowest, "batch") / _number(evidence, cheapest, "batch")
        notes.append(f"`{cheapest}` is not distinguishable from `{lowest}` and takes {saved:.0%} fewer steps")
    return cheapest


def _number(evidence: Evidence, arm: str, key: str) -> float:
    value = evidence.settings(arm).get(key, 1.0)
    return float(value) if not isinstance(value, str) else 1.0


def _law(question: Question, evidence: Evidence, candidates: list[str]) -> tuple[tuple[LawReport, ...], list[str]]:
    """The law of rate and batch for the mean of `lower`, or what is missing for one."""
    rates = np.array([_number(evidence, arm, "learning_rate") for arm in candidates])
    batches = np.array([_number(evidence, arm, "batch") for arm in candidates])
    losses = np.array([evidence.level(arm, question.lower) for arm in candidates], dtype=np.float64)
    lacks = effective_rate.missing(rates, batches)
    if lacks is not None:
        return (), [f"the exponent of the batch is not measured: it needs {lacks}"]
    rates, batches = rates / rates[0], batches / batches[0]
    law = effective_rate.fit(rates, batches, losses)
    terms = {"exponent": law.exponent, "power": law.power, "floor": law.floor, "scale": law.scale}
    interval = "no interval, as no arm ran more than once"
    if (noise := evidence.spread(question.lower)) is not None:
        errors = noise[0] / np.sqrt([len(evidence.runs(arm)) for arm in candidates])
        low, high = effective_rate.exponent_interval(rates, batches, losses, errors, noise[1])
        terms |= {"exponent low": low, "exponent high": high}
        interval = f"95% {low:.2f} to {high:.2f}, by the noise between runs"
    notes = [f"arms of equal rate / batch^{law.exponent:.2f} end alike ({interval})"]
    if law.at_bound:
        notes.append(
            f"the exponent of the batch is at its bound, {law.exponent:.2f}: these arms do not measure it; more rates "
            "at each batch would"
        )
    error = float(np.sqrt(law.error / len(losses)))
    report = LawReport(
        source="mean of lower",
        name="effective rate",
        terms=terms,
        arms=len(losses),
        objective=error,
        left_out_error=None,
        other_error=None,
        rank=shared.rank(law.predict(rates, batches), losses),
        own_share_rank=None,
        half_width=None,
    )
    return (report,), notes


def _with_word(row: Contender, judged: dict[str, tuple[Verdict, ...]]) -> Contender:
    words = [verdict.word for verdict in judged.get(row.name, ()) if verdict.goal == "lower"]
    return replace(row, word=words[0]) if words else row
