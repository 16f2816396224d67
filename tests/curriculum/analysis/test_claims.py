"""The claims of a recipe: which follow from its roles, when each is shown, and what `--check` makes of them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from comparisons import FULL, NAMES, comparison

from curriculum.analysis import claims
from curriculum.analysis.claims import Claim
from curriculum.analysis.compare import Comparison

HTML = "{http://www.w3.org/1999/xhtml}"
Curriculum = Callable[..., "subprocess.CompletedProcess[str]"]


def test_the_marks_of_a_recipe_follow_from_roles(filled: Path) -> None:
    found = {mark.claim: mark for mark in claims.check_claims(comparison(filled))}
    assert list(found) == [
        "variant: code falls after the branch",
        "control: code falls after the branch",
        "variant: prose ends above trunk's",
        "control: prose ends above trunk's",
        "variant against control, apart since 9,216 tokens: prose",
        "variant against control, apart since 9,216 tokens: code",
    ]
    falls = found["variant: code falls after the branch"]
    assert falls.verdict == claims.SHOWN
    assert falls.first is not None
    assert falls.second is not None
    assert falls.figure is not None
    assert falls.first - falls.second == pytest.approx(falls.figure.mean, abs=2e-6)
    assert [mark.must for mark in found.values()] == [True] * 4 + [False] * 2
    assert {mark.verdict for mark in found.values() if not mark.must} == {claims.MEASURED}


def with_losses(filled: Path, losses: dict[str, dict[str, float]], *names: str) -> Comparison:
    """The comparison with the last stages' losses shifted, per variant and source, by so many nats."""
    found = comparison(filled, *names)
    measured = {point: dict(sets) for point, sets in found.measured.items()}
    for name, shifts in losses.items():
        point = found.rows[-1].points[found.names.index(name)]
        assert point is not None
        for source, loss in shifts.items():
            entry = measured[point][source]
            windows = [loss + 0.01 * (n % 3 - 1) for n in range(len(entry["per_window"]))]
            measured[point][source] = {**entry, "loss": loss, "per_window": windows}
    return replace(found, measured=measured)


@pytest.mark.parametrize(
    ("prose", "verdict", "kept"),
    [(5.0, claims.SHOWN, True), (1.0, claims.CONTRARY, False), (3.0, claims.NOT_SHOWN, False)],
)
def test_a_mark_is_kept_only_when_its_interval_is_on_the_claimed_side(
    filled: Path, prose: float, verdict: str, kept: bool
) -> None:
    found = claims.check_claims(
        with_losses(filled, {"trunk": {"prose": 3.0}, "variant": {"prose": prose, "code": 0.5}}, "trunk", "variant")
    )
    assert [(mark.claim, mark.verdict) for mark in found] == [
        ("variant: code falls after the branch", claims.SHOWN),
        ("variant: prose ends above trunk's", verdict),
    ]
    assert claims.all_hold(found) is kept


def test_a_domain_that_rose_is_contrary(filled: Path) -> None:
    found = claims.check_claims(with_losses(filled, {"variant": {"code": 99.0}}, "trunk", "variant"))
    assert found[0].verdict == claims.CONTRARY
    assert found[0].must


def test_what_was_not_measured_is_not_taken_for_shown(three: Path) -> None:
    unmeasured = replace(comparison(three), measured={})
    found = claims.check_claims(unmeasured)
    assert {mark.verdict for mark in found} == {claims.UNKNOWN}
    assert not claims.all_hold(found)
    assert not claims.all_hold([])


def test_of_variants_with_different_domains_each_must_be_lowest_on_its_own(filled: Path) -> None:
    two = with_losses(
        filled, {"trunk": {"prose": 2.0, "code": 5.0}, "variant": {"prose": 3.0, "code": 1.0}, "control": {"code": 4.0}}
    )
    point = two.rows[-1].points
    measured = {p: dict(sets) for p, sets in two.measured.items()}
    for at, loss in ((0, 6.0), (1, 5.5), (2, 1.0)):
        windows = measured[point[at]]["code"]["windows"]
        measured[point[at]]["verse"] = {**measured[point[at]]["code"], "loss": loss, "per_window": [loss] * windows}
        measured[point[at]]["code"]["per_window"] = [(5.0, 1.0, 4.0)[at]] * windows
    lineages = tuple(replace(c, sources={**c.sources, "verse": c.sources["prose"]}) for c in two.lineages)
    rivals = replace(two, domains=((), ("code",), ("verse",)), measured=measured, lineages=lineages)

    def lowest(found: list[Claim]) -> dict[str, str]:
        return {mark.claim: mark.verdict for mark in found if "lowest of all" in mark.claim}

    found = lowest(claims.check_claims(rivals))
    assert found["variant: lowest of all on code; next is control"] == claims.SHOWN
    assert found["control: lowest of all on verse; next is variant"] == claims.SHOWN
    measured[point[2]]["code"]["per_window"] = [0.5] * windows
    found = lowest(claims.check_claims(rivals))
    assert found["variant: lowest of all on code; next is control"] == claims.CONTRARY


@pytest.mark.promise("`compare --check` fails unless every claim of the recipe that must show does")
def test_check_ends_with_1_unless_every_mark_that_must_show_does(filled: Path, curriculum: Curriculum) -> None:
    found = claims.check_claims(comparison(filled))
    plain = curriculum(filled, "compare", *NAMES, *FULL)
    assert plain.returncode == 0
    checked = curriculum(filled, "compare", *NAMES, *FULL, "--check", check=False)
    assert checked.returncode == (0 if claims.all_hold(found) else 1)
    nothing = curriculum(filled, "compare", "variant", "control", *FULL, "--check", check=False)
    assert nothing.returncode == 1, "without a mark that must show there is nothing to pass"
