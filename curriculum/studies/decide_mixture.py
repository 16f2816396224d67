"""The decision on a mixture: a law for each held-out source, the convex programme, resamples, and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from curriculum.studies import contenders as shared, designs, intervals, programme
from curriculum.studies.decision import Contender, Decision, LawReport, Proposal, Question, Undecidable
from curriculum.studies.evidence import Evidence
from curriculum.studies.laws import mixture
from curriculum.studies.laws.huber import Array
from curriculum.studies.laws.mixture import MixtureLaw
from curriculum.studies.programme import Infeasible, NotSolved, Programme
from curriculum.units import counted

FEW_A_SOURCE = 3
"""Arms for each source below which a note says that the law is unsure."""
Table = tuple[tuple[str, ...], Array, Array]
"""Arms, their shares and their losses of one source."""


def decide(question: Question, evidence: Evidence) -> Decision:
    """The decision on the mixture of `question.sources`. Raises Undecidable."""
    sources = question.sources
    tables = {source: evidence.table(source, sources) for source in (*question.lower, *question.keep)}
    rarest, fewest = min(tables.items(), key=lambda item: len(item[1][0]))
    check_enough(evidence, fewest[0], rarest, len(sources))
    laws: dict[str, MixtureLaw] = {}
    reports = []
    for source, (_, shares, losses) in tables.items():
        own = sources.index(source) if source in sources else None
        (chosen, left_out), *others = mixture.choose(shares, losses, own)
        laws[source] = chosen
        reports.append(_report(source, chosen, left_out, [law for law, _ in others], shares, losses, own))
    problem = _programme(question, evidence, laws, fewest[1])
    optimum = _solve(question, evidence, problem)
    resampled, values = _resample(question, problem, laws, tables, optimum.shares)
    moved = _moved_by_ridge(problem, laws, tables, optimum.shares) if len(resampled) else np.zeros(len(sources))
    spans = _spans(sources, problem, optimum.shares, resampled, moved, len(fewest[0]))
    shares, notes = _at_round_numbers(question, problem, optimum.shares, spans, reports)

    arm = (evidence.arms("proposal") or (None,))[-1]
    if arm is not None:
        shares = np.array([float(evidence.settings(arm).get(name, 0.0)) for name in sources])
    low, high = problem.bounds
    at_bound = tuple(
        f"{name} {'at its least' if shares[at] <= low[at] + 1e-6 else 'at its most'}"
        for at, name in enumerate(sources)
        if (shares[at] <= low[at] + 1e-6 and low[at] > 0) or (shares[at] >= high[at] - 1e-6 and high[at] < 1)
    )
    proposal = Proposal(
        arm, dict(zip(sources, shares.tolist(), strict=True)), spans, at_bound, optimum.residual, len(resampled)
    )
    predicted = _predict(laws, shares)
    limited = shared.with_limits(question, evidence)
    references, contenders = _compared(question, evidence, laws, problem, shares, arm)
    judged = shared.verdicts(question, limited, arm, predicted, references)
    arms = len(fewest[0])
    if arms < FEW_A_SOURCE * len(sources):
        notes.append(
            f"{counted(arms, 'arm')} for {counted(len(sources), 'source')}: below {FEW_A_SOURCE} a source the law is "
            "unsure"
        )
    if len(values) and not references.keys() & set(shared.controls(evidence)):
        span = intervals.percentile_interval(values)
        notes.append(
            f"by the law alone the gain over `{next(iter(references))}` is {span[0]:+.3f} to {span[1]:+.3f} (95%)"
        )
    if question.resamples and len(resampled) < question.resamples:
        notes.append(f"{question.resamples - len(resampled)} of {question.resamples} resamples had no optimum")
    return shared.finish(
        question, evidence, proposal=proposal, laws=tuple(reports), contenders=contenders, judged=judged, notes=notes
    )


def _spans(
    sources: tuple[str, ...], problem: Programme, optimum: Array, resampled: Array, moved: Array, arms: int
) -> dict[str, tuple[float, float]]:
    """The 95% interval of each share, within its bounds; empty without resamples.

    `moved` is by how much the ridge of the laws moves each share: resamples do not show it, as it moves all of them.
    """
    low, high = problem.bounds
    spans = {}
    for at, name in enumerate(sources if len(resampled) else ()):
        wide = intervals.symmetric_interval(resampled[:, at], float(optimum[at]), arms, len(sources) + 2)
        least, most = wide[0] + min(0.0, float(moved[at])), wide[1] + max(0.0, float(moved[at]))
        spans[name] = (max(least, float(low[at])), min(most, float(high[at])))
    return spans


def _moved_by_ridge(
    problem: Programme, laws: Mapping[str, MixtureLaw], tables: Mapping[str, Table], at: Array
) -> Array:
    """How far the optimum is from `at` by laws without a ridge, shape `[sources]`; zeros where they have none."""
    free = {
        source: law if law.own is None else mixture.fit(*tables[source][1:], law.own, like=law, ridge=0.0)
        for source, law in laws.items()
    }
    try:
        return programme.solve(_by(problem, laws, free), start=at).shares - at
    except (Infeasible, NotSolved):
        return np.zeros(len(at))


def check_enough(evidence: Evidence, arms: Sequence[str], source: str, sources: int) -> None:
    """Raises Undecidable with fewer arms that measured `source` than a law of so many `sources` is fitted to."""
    least = designs.least_runs(sources)
    if len(arms) < least:
        runs = sum(len(evidence.losses(arm, source)) for arm in arms)
        which = f" of {counted(len(arms), 'mixture')}" if runs > len(arms) else ""
        raise Undecidable(
            f"{counted(runs, 'run')}{which} cannot fit {sources + 2} numbers",
            f"{least}{' different mixtures are' if which else ' is'} the least, "
            f"{designs.RUNS_A_SOURCE * sources} the rule (five a source)",
        )


def _predict(laws: Mapping[str, MixtureLaw], shares: Array) -> dict[str, float]:
    return {source: float(law.predict(shares[None])[0]) for source, law in laws.items()}


def _report(
    source: str,
    chosen: MixtureLaw,
    left_out: Array,
    others: list[MixtureLaw],
    shares: Array,
    losses: Array,
    own: int | None,
) -> LawReport:
    half = None
    held_back = max(intervals.LEAST_CALIBRATION, len(losses) // 3)
    if len(losses) - held_back >= FEW_A_SOURCE * shares.shape[1]:
        calibration = np.zeros(len(losses), bool)
        calibration[np.linspace(0, len(losses) - 1, held_back).round().astype(int)] = True
        fitted = mixture.fit(shares[~calibration], losses[~calibration], chosen.own, like=chosen)
        half = intervals.conformal_half_width(fitted.predict(shares[calibration]) - losses[calibration])
    return LawReport(
        source=source,
        name=chosen.name,
        terms=chosen.terms,
        arms=len(losses),
        objective=chosen.objective,
        left_out_error=chosen.left_out_error,
        other_error=others[0].left_out_error if others else None,
        rank=shared.rank(left_out, losses),
        own_share_rank=None if own is None else shared.rank(-shares[:, own], losses),
        half_width=half,
    )


def _programme(question: Question, evidence: Evidence, laws: Mapping[str, MixtureLaw], measured: Array) -> Programme:
    sources = question.sources
    around = measured.mean(axis=0)
    if question.around is not None:
        around = np.array([question.around.get(name, 0.0) for name in sources])
    low, high = question.low or {}, question.high or {}
    total = sum(question.lower.values())
    return Programme(
        lower=tuple((laws[source], weight / total) for source, weight in question.lower.items() if weight),
        around=around / around.sum(),
        low=np.array([low.get(name, 0.0) for name in sources]),
        high=np.array([high.get(name, 1.0) for name in sources]),
        keep=tuple((laws[source], shared.limit_of(evidence, source, keep)) for source, keep in question.keep.items()),
        pull=question.pull,
    )


def _solve(question: Question, evidence: Evidence, problem: Programme) -> programme.Optimum:
    try:
        return programme.solve(problem)
    except NotSolved as error:
        raise Undecidable(
            f"the proposal was not found: {error}",
            "a stronger pull to the mixture it is around makes the optimum definite",
        ) from None
    except Infeasible as error:
        if not error.lowest:
            raise Undecidable(
                "no mixture is within the bounds of the shares", "widen `always`, or allow more passes of a source"
            ) from None
        reached = [
            f"the lowest `{source}` reaches under the caps is {lowest:.4f}, its limit {limit:.4f}"
            for source, lowest, (_, limit) in zip(question.keep, error.lowest, problem.keep, strict=True)
        ]
        missed = [
            line for line, lowest, (_, limit) in zip(reached, error.lowest, problem.keep, strict=True) if lowest > limit
        ]
        what = "; ".join(missed or reached)
        if not missed:
            what += f"; together they are missed by {error.excess:.4f}"
        raise Undecidable(f"nothing satisfies `keep`: {what}", "raise the limit, or widen the caps") from None


def _resample(
    question: Question, problem: Programme, laws: Mapping[str, MixtureLaw], tables: Mapping[str, Table], start: Array
) -> tuple[Array, Array]:
    """Optima of whole fits to resampled arms, shape `[solved, sources]`, and their predicted gains over `around`."""
    arms = list(dict.fromkeys(arm for table in tables.values() for arm in table[0]))
    rows = {source: np.array([arms.index(arm) for arm in table[0]]) for source, table in tables.items()}
    optima, gains = [], []
    for drawn in intervals.resampled(len(arms), question.resamples):
        counts = np.bincount(drawn, minlength=len(arms))
        refitted = {}
        for source, (_, shares, losses) in tables.items():
            chosen = np.repeat(np.arange(len(losses)), counts[rows[source]])
            refitted[source] = mixture.fit(shares[chosen], losses[chosen], laws[source].own, like=laws[source])
        again = _by(problem, laws, refitted)
        try:
            optimum = programme.solve(again, start=start)
        except (Infeasible, NotSolved):
            continue
        optima.append(optimum.shares)
        free = replace(again, pull=0.0)
        gains.append(free.objective(optimum.shares)[0] - free.objective(problem.around)[0])
    return np.array(optima).reshape(-1, len(problem.around)), np.array(gains)


def _by(problem: Programme, laws: Mapping[str, MixtureLaw], others: Mapping[str, MixtureLaw]) -> Programme:
    """The programme with `others` in place of `laws`."""
    return replace(
        problem,
        lower=tuple((_same(law, laws, others), weight) for law, weight in problem.lower),
        keep=tuple((_same(law, laws, others), limit) for law, limit in problem.keep),
    )


def _same(law: MixtureLaw, laws: Mapping[str, MixtureLaw], refitted: Mapping[str, MixtureLaw]) -> MixtureLaw:
    return next(refitted[source] for source, candidate in laws.items() if candidate is law)


def _at_round_numbers(
    question: Question,
    problem: Programme,
    optimum: Array,
    spans: Mapping[str, tuple[float, float]],
    reports: list[LawReport],
) -> tuple[Array, list[str]]:
    """The optimum in whole thousandths; shares that may as well be those of `around` are set to them.

    A share is set to that of `around` where its interval contains it, if all these together change the predicted mean
    of `lower` by less than its left-out error.
    """
    low, high = problem.bounds
    parts = designs.PARTS
    least, most = np.ceil(low * parts - 1e-6).astype(np.int64), np.floor(high * parts + 1e-6).astype(np.int64)
    notes: list[str] = []
    shares = optimum
    same = [
        at
        for at, name in enumerate(question.sources)
        if name in spans and spans[name][0] <= problem.around[at] <= spans[name][1] and problem.around[at] > 0
    ]
    if question.around is not None and same and len(same) < len(optimum):
        fixed_low, fixed_high = low.copy(), high.copy()
        fixed_low[same] = fixed_high[same] = problem.around[same]
        error = sum(
            (report.left_out_error or 0.0) * question.lower.get(report.source, 0.0) for report in reports
        ) / sum(question.lower.values())
        try:
            fixed = programme.solve(replace(problem, low=fixed_low, high=fixed_high))
        except (Infeasible, NotSolved):
            fixed = None
        if fixed is not None and fixed.value - problem.objective(optimum)[0] < error:
            shares = fixed.shares
            names = ", ".join(question.sources[at] for at in same)
            notes.append(f"as in the mixture it is around, from which the law does not tell it apart: {names}")
    try:
        counts = designs.rounded(shares, least, most)
    except ValueError:
        return shares, notes
    return counts / parts, notes


def _compared(
    question: Question,
    evidence: Evidence,
    laws: Mapping[str, MixtureLaw],
    problem: Programme,
    shares: Array,
    arm: str | None,
) -> tuple[dict[str, dict[str, float]], tuple[Contender, ...]]:
    """What the proposal is compared with, by predicted losses, and the rows of the table of contenders."""
    contenders: list[Contender] = []
    for before in evidence.arms("before"):
        contenders.append(shared.contender(question, evidence, before, before, {}))
    references = {}
    for control in shared.controls(evidence):
        settings = evidence.settings(control)
        point = np.array([float(settings.get(name, 0.0)) for name in question.sources])
        references[control] = _predict(laws, point)
        contenders.append(shared.contender(question, evidence, control, control, references[control]))
    if not references:
        name = "the mean of the runs" if question.around is None else "the mixture it is around"
        references[name] = _predict(laws, problem.around)
        contenders.append(shared.contender(question, evidence, name, None, references[name]))
        uniform = _predict(laws, np.full(len(question.sources), 1 / len(question.sources)))
        contenders.append(shared.contender(question, evidence, "uniform", None, uniform))
        means = {one: evidence.mean(one, question.lower) for one in evidence.arms("swarm")}
        best = min((one for one in means if means[one] is not None), key=lambda one: means[one] or 0.0, default=None)
        if best is not None:
            contenders.append(shared.contender(question, evidence, f"the best, {best}", best, {}))
    contenders.append(shared.contender(question, evidence, "proposal, predicted", None, _predict(laws, shares)))
    if arm is not None:
        contenders.append(shared.contender(question, evidence, "proposal, measured", arm, {}))
    return references, tuple(contenders)
