"""Claims about a recipe, tested on a comparison: does each difference of the paper's figure show, and how surely?

Claims follow from roles, not from names, so that they hold in any project: what the shared trunk reads is general
text; what only a variant reads is its domain; a variant without a domain is plain; two variants that stay together
past the trunk are a trial and its control.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations

from curriculum.analysis.bootstrap import Estimate
from curriculum.analysis.compare import Comparison, Row
from curriculum.compiler.lineage_tree import shared_trunk
from curriculum.runs.measurements import Point
from curriculum.units import show_exact

SHOWN, NOT_SHOWN, CONTRARY, MEASURED, UNKNOWN = "shown", "not shown", "contrary", "measured", "not measured"


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim and its verdict.

    `verdict` is `shown` when the 95% interval is wholly on the claimed side of 0, `contrary` when wholly on
    the other, `not shown` when it contains 0; `measured` where nothing is claimed, `not measured` without
    figures. `must` tells whether a recipe that works has to show it. Losses are at `first` and `second`, in
    nats a token, `at` the positions of the two; `figure` is their difference, first minus second.
    """

    claim: str
    must: bool
    verdict: str
    first: float | None
    second: float | None
    figure: Estimate | None
    at: tuple[int, int] | None


def check_claims(comparison: Comparison) -> list[Claim]:
    """Every claim that these variants can show, in the order of the paper's figure; none without a shared trunk."""
    if comparison.trunk is None:
        return []
    return [
        *_domain_falls(comparison),
        *_general_ends_above(comparison),
        *_best_on_its_own(comparison),
        *_controls(comparison),
    ]


def all_hold(claims: list[Claim]) -> bool:
    """Whether there are claims that must show, and all of them do."""
    must = [claim for claim in claims if claim.must]
    return bool(must) and all(claim.verdict == SHOWN for claim in must)


def _domain_falls(comparison: Comparison) -> Iterator[Claim]:
    for number, domain in enumerate(comparison.domains):
        end = comparison.end(number)
        for source in domain:
            claim = f"{comparison.names[number]}: {source} falls after the branch"
            point = end.points[number] if end else None
            yield _claim(comparison, claim, point, comparison.trunk, source, below=True)


def _general_ends_above(comparison: Comparison) -> Iterator[Claim]:
    for plain in (number for number, domain in enumerate(comparison.domains) if not domain):
        for number, domain in enumerate(comparison.domains):
            if domain:
                for source in comparison.general:
                    claim = f"{comparison.names[number]}: {source} ends above {comparison.names[plain]}'s"
                    yield _against(comparison, claim, number, plain, source, below=False)


def _best_on_its_own(comparison: Comparison) -> Iterator[Claim]:
    if len({domain for domain in comparison.domains if domain}) < 2:
        return  # with one domain it says the same as the claims before it
    for number, domain in enumerate(comparison.domains):
        rivals = [other for other, reads in enumerate(comparison.domains) if reads != domain]
        for source in domain or comparison.general:
            claim = f"{comparison.names[number]}: lowest of all on {source}; next is "
            claims = [_against(comparison, claim, number, rival, source, below=True) for rival in rivals]
            missing = [tested for tested in claims if tested.figure is None]
            if missing:
                nearest = claims.index(missing[0])
            else:
                nearest = max(range(len(claims)), key=lambda at: claims[at].figure.mean)  # type: ignore[union-attr]
            yield replace(claims[nearest], claim=claim + comparison.names[rivals[nearest]])


def _controls(comparison: Comparison) -> Iterator[Claim]:
    assert comparison.trunk is not None
    for first, second in combinations(range(len(comparison.names)), 2):
        pair = comparison.lineages[first], comparison.lineages[second]
        together = shared_trunk(pair).position
        if together <= comparison.trunk.position:
            continue
        names = comparison.names[first], comparison.names[second]
        for source in (*comparison.general, *comparison.domains[first]):
            claim = f"{names[0]} against {names[1]}, apart since {show_exact(together)} tokens: {source}"
            yield _against(comparison, claim, first, second, source, below=None)


def _against(comparison: Comparison, claim: str, first: int, second: int, source: str, *, below: bool | None) -> Claim:
    row: Row | None = comparison.shared_end(first, second)
    points = (row.points[first], row.points[second]) if row else (None, None)
    return _claim(comparison, claim, *points, source, below=below)


def _claim(
    comparison: Comparison, claim: str, first: Point | None, second: Point | None, source: str, *, below: bool | None
) -> Claim:
    figure = comparison.difference(first, second, source)
    losses = comparison.loss(first, source), comparison.loss(second, source)
    at = (first.position, second.position) if first and second else None
    return Claim(claim, below is not None, _verdict(figure, below), *losses, figure, at)


def _verdict(figure: Estimate | None, below: bool | None) -> str:
    if figure is None:
        return UNKNOWN
    if below is None:
        return MEASURED
    if not figure.shown:
        return NOT_SHOWN
    return SHOWN if (figure.mean < 0) == below else CONTRARY
