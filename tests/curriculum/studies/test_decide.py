"""Decisions: a planted optimum is found, a wide `shown` survives the loss of an arm, every kind of question answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from public_runs import trial_evidence
from simulated_studies import evidence, mixture

from curriculum.studies import programme
from curriculum.studies.decide import decide
from curriculum.studies.decision import Decision, Keep, Question, Undecidable
from curriculum.studies.evidence import Evidence, Row
from curriculum.studies.laws.mixture import MixtureLaw
from curriculum.studies.programme import Programme

SOURCES = ("text", "code")
LAWS = {
    "text": MixtureLaw(2.5, (-1.2, 0.3), None, 0.0, 0.0, 0.0),
    "code": MixtureLaw(1.5, (-1.0, -1.3), None, 0.0, 0.0, 0.0),
}
QUESTION = Question("planted", "mixture", {"code": 1.0}, {}, SOURCES, {"text": 0.7, "code": 0.3})
LINE = tuple(np.linspace(0.1, 0.95, 10))


def planted_optimum(question: Question) -> float:
    lower = tuple((LAWS[source], weight) for source, weight in question.lower.items())
    return float(
        programme.solve(Programme(lower, np.array([0.7, 0.3]), np.zeros(2), np.ones(2), (), question.pull)).shares[0]
    )


def swarm(seed: int, noise: float, *, proposal: float | None = None) -> Evidence:
    arms = [(f"swarm-{at:02}", "swarm", mixture(SOURCES, (share, 1 - share)), 1) for at, share in enumerate(LINE)]
    arms.append(("stated", "control", mixture(SOURCES, (0.7, 0.3)), 3))
    arms.append(("uniform", "control", mixture(SOURCES, (0.5, 0.5)), 3))
    if proposal is not None:
        arms.append(("proposal", "proposal", mixture(SOURCES, (proposal, 1 - proposal)), 3))
    return evidence(arms, LAWS, SOURCES, seed=seed, noise=noise)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.promise("A planted optimum is found within its interval in at least nine of ten simulated studies")
def test_a_planted_optimum_is_within_its_interval_in_nine_of_ten_studies() -> None:
    optimum = planted_optimum(QUESTION)
    inside = 0
    for seed in range(50):
        decision = decide(replace(QUESTION, resamples=20), swarm(seed, 0.01))
        assert decision.proposal is not None
        low, high = decision.proposal.intervals["text"]
        inside += low <= optimum <= high
    assert inside >= 45


def test_an_interval_allows_for_the_ridge_of_laws_with_a_power() -> None:
    """With little noise the ridge moves the optimum by more than resamples do."""
    sources = ("text", "code", "math")
    slopes = {"text": (-0.32, 0.12, 0.12), "code": (0.08, -0.52, -0.12), "math": (0.12, -0.08, -0.52)}
    laws = {name: MixtureLaw(1.5, slopes[name], at, 0.1, 0.01, 0.0) for at, name in enumerate(sources)}
    around, free = (0.6, 0.2, 0.2), (np.zeros(3), np.ones(3))
    whole = tuple((law, 1 / 3) for law in laws.values())
    optimum = programme.solve(Programme(whole, np.array(around), *free)).shares[0]
    shares = np.random.default_rng(0).dirichlet([2.0, 1.0, 1.0], size=15)
    arms: list[Any] = [(f"swarm-{at:02}", "swarm", mixture(sources, each), 1) for at, each in enumerate(shares)]
    question = Question(
        "ridge",
        "mixture",
        dict.fromkeys(sources, 1.0),
        {},
        sources,
        mixture(sources, around),
        resamples=10,  # type: ignore[arg-type]
    )
    for seed in range(3):
        found = decide(question, evidence(arms, laws, sources, seed=seed, noise=0.0005)).proposal
        assert found is not None
        low, high = found.intervals["text"]
        assert low <= optimum <= high, seed


def test_a_wide_shown_stays_when_any_arm_is_left_out() -> None:
    """The planted gain is 20 times the noise."""
    question = replace(QUESTION, resamples=0)
    whole = swarm(1, 0.002, proposal=0.3)
    assert decide(question, whole).word == "shown"
    for arm in [name for name in whole.arms() if name != "proposal"]:
        assert decide(question, whole.without(arm)).word == "shown", arm


def line_study(seed: int) -> tuple[Question, Evidence]:
    """A line of shares of `text`, two trunks, with a proposal that gains 20 times the noise and keeps `text`."""
    arms = [(f"share-{at}", "swarm", mixture(SOURCES, (share, 1 - share)), 1) for at, share in enumerate(LINE[::2])]
    arms += [(name, "control", mixture(SOURCES, (share, 1 - share)), 2) for name, share in CONTROLS.items()]
    arms.append(("proposal", "proposal", mixture(SOURCES, (0.4, 0.6)), 2))
    before = {"text": float(LAWS["text"].predict(np.array([[0.2, 0.8]]))[0]), "code": 2.5}
    found = evidence(arms, LAWS, SOURCES, seed=seed, noise=0.002, seeds=(1, 2), trunk_noise=0.01, before=before)  # type: ignore[arg-type]
    return Question("line", "share", {"code": 1.0}, {"text": Keep("before", 0.0)}, of="text"), found


def list_study(seed: int) -> tuple[Question, Evidence]:
    """Five named mixtures in three runs each, of which the best gains 20 times the noise."""
    arms = [(f"list-{at}", "swarm", mixture(SOURCES, (share, 1 - share)), 3) for at, share in enumerate(LINE[::2])]
    arms += [(name, "control", mixture(SOURCES, (share, 1 - share)), 3) for name, share in CONTROLS.items()]
    found = evidence(arms, LAWS, SOURCES, seed=seed, noise=0.002)  # type: ignore[arg-type]
    return Question("list", "candidates", {"code": 1.0}, {}), found


CONTROLS = {"stated": 0.8, "natural": 0.95}


@pytest.mark.parametrize("study", [line_study, list_study])
def test_a_wide_shown_of_other_questions_stays_when_any_arm_is_left_out(
    study: Callable[[int], tuple[Question, Evidence]],
) -> None:
    question, whole = study(1)
    assert decide(question, whole).word == "shown"
    for arm in [name for name in whole.arms() if name not in ("proposal", "before")]:
        assert decide(question, whole.without(arm)).word == "shown", arm


@pytest.mark.promise("A study of equal arms says `shown` in at most 5% of 200 simulated repeats")
def test_of_six_equal_candidates_one_is_shown_in_at_most_one_of_twenty_repeats() -> None:
    flat = {"text": MixtureLaw(2.0, (0.0, 0.0), None, 0.0, 0.0, 0.0)}
    arms: list[Any] = [(f"list-{at}", "swarm", mixture(SOURCES, (at / 6, 1 - at / 6)), 3) for at in range(6)]
    shown = 0
    for seed in range(200):
        found = evidence([*arms, ("kept", "control", {}, 3)], flat, SOURCES, seed=seed, noise=0.02)
        shown += decide(Question("null", "candidates", {"text": 1.0}, {}), found).word == "shown"
    assert shown <= 10


def test_a_proposal_takes_no_part_in_the_fit_that_it_is_judged_by() -> None:
    question = replace(QUESTION, resamples=0)
    without = decide(question, swarm(1, 0.002))
    judged = decide(question, swarm(1, 0.002, proposal=0.3))
    assert judged.laws == without.laws
    assert without.word == "suggested"
    assert judged.proposal is not None
    assert judged.proposal.arm == "proposal"


def test_a_loss_outside_the_goal_is_named_with_what_the_proposal_did_to_it() -> None:
    question = replace(QUESTION, resamples=0)
    (note,) = (note for note in decide(question, swarm(1, 0.002, proposal=0.3)).notes if "in no verdict" in note)
    assert note.startswith("measured, and in neither `lower` nor `keep`")
    assert "so in no verdict, here less `stated`: text (+0." in note
    (note,) = (note for note in decide(question, swarm(1, 0.002)).notes if "in no verdict" in note)
    assert note.endswith("so in no verdict: text"), "no run of a proposal, no difference"
    both = replace(question, keep={"text": Keep(None, 3.9)})
    assert not any("in no verdict" in note for note in decide(both, swarm(1, 0.002)).notes)
    unweighted = replace(question, lower={"code": 1.0, "text": 0.0})
    assert any("in no verdict: text" in note for note in decide(unweighted, swarm(1, 0.002)).notes)


def test_of_many_losses_outside_the_goal_those_that_rose_most_are_named() -> None:
    rows = candidate("kept", 0, 1) + candidate("finemath", -0.1, 2)
    others = [
        replace(row, source=f"other-{number}", loss=row.loss + (0.01 * number if row.arm == "finemath" else 0.0))
        for row in rows
        for number in range(6)
    ]
    question = Question("sources", "candidates", {"text": 1.0}, {})
    (note,) = (n for n in decide(question, Evidence((*rows, *others))).notes if "in no verdict" in n)
    names = [word for word in note.replace(",", "").split() if word.startswith("other-")]
    assert names == ["other-5", "other-4", "other-3", "other-2"]
    assert note.endswith("and 2 more")


def test_a_decision_is_the_same_when_it_is_made_again() -> None:
    question = replace(QUESTION, resamples=3)
    assert decide(question, swarm(2, 0.01)) == decide(question, swarm(2, 0.01))


def test_fewer_runs_than_a_law_has_numbers_are_refused_with_the_rule() -> None:
    few = Evidence(
        tuple(row for row in swarm(1, 0.01).rows if row.arm in ("swarm-00", "swarm-03", "stated", "swarm-09"))
    )
    with pytest.raises(Undecidable) as refused:
        decide(QUESTION, few)
    assert refused.value.what == "6 runs of 4 mixtures cannot fit 4 numbers"
    assert refused.value.hint == "5 different mixtures are the least, 10 the rule (five a source)"


def test_a_limit_that_nothing_reaches_is_refused_with_the_lowest_loss() -> None:
    question = replace(QUESTION, lower={"code": 1.0}, keep={"text": Keep(None, 2.0)}, resamples=0)
    with pytest.raises(Undecidable, match=r"the lowest `text` reaches under the caps is 2\.8\d+, its limit 2\.0000"):
        decide(question, swarm(1, 0.002))


def test_an_absolute_limit_is_judged_by_runs() -> None:
    question = replace(QUESTION, keep={"text": Keep(None, 3.9)}, resamples=0)
    assert [v.word for v in decide(question, swarm(1, 0.002, proposal=0.3)).verdicts] == ["shown", "shown", "shown"]
    tight = replace(QUESTION, keep={"text": Keep(None, 3.3)}, resamples=0)
    assert decide(tight, swarm(1, 0.002, proposal=0.3)).verdicts[-1].word == "contrary"


def test_a_control_that_breaks_a_limit_is_no_alternative_to_the_proposal() -> None:
    question = replace(QUESTION, keep={"text": Keep(None, 3.1)}, resamples=0)
    decision = decide(question, swarm(1, 0.002, proposal=0.6))
    assert [v.against for v in decision.verdicts if v.goal == "lower"] == ["stated"], "uniform has more of code"
    assert decision.shown
    (uniform,) = (one for one in decision.contenders if one.name == "uniform")
    assert uniform.breaks["text"] == pytest.approx(0.04, abs=0.01)


def test_a_source_that_no_run_measured_is_refused() -> None:
    with pytest.raises(Undecidable, match="`mathematics` was measured in no run"):
        decide(replace(QUESTION, lower={"mathematics": 1.0}), swarm(1, 0.01))


def test_the_trial_is_decided_as_a_mixture_with_its_gain_shown_and_its_retention_open() -> None:
    found = trial_evidence()
    sources = ("slimpajama", "starcoder-python-jupyter", "proof-pile-2")
    question = Question(
        "trial",
        "mixture",
        {sources[1]: 1.0, sources[2]: 1.0},
        {sources[0]: Keep("before", 0.0)},
        sources,
        {sources[0]: 0.75, sources[1]: 0.15, sources[2]: 0.10},
        resamples=0,
    )
    decision = decide(question, found)
    assert {(v.goal, v.against): v.word for v in decision.verdicts} == {
        ("lower", "c"): "shown",
        ("keep", "before"): "not distinguishable",
    }
    assert decision.word == "not distinguishable"
    assert not decision.shown


def line_evidence(*, drift: float = 0.0) -> Evidence:
    """The published line of shares of old text, with a second source that gets worse with it."""
    old = {0.125: 2.9262, 0.25: 2.8805, 0.375: 2.8571, 0.5: 2.8388}
    new = {0.125: 1.3679, 0.25: 1.3863, 0.375: 1.4084, 0.5: 1.4309}
    rows = [Row("before", 1, 1, "before", {}, "old", 2.8734)]
    for share in old:
        settings = mixture(("old", "new"), (share, 1 - share))
        rows.append(Row(f"share-{share:g}", 1, 1, "swarm", settings, "old", old[share] + drift))
        rows.append(Row(f"share-{share:g}", 1, 1, "swarm", settings, "new", new[share]))
    return Evidence(tuple(rows))


def test_the_smallest_share_that_keeps_the_old_loss_is_proposed_and_its_drift_is_said() -> None:
    question = Question("old", "share", {"new": 1.0}, {"old": Keep("before", 0.0)}, of="old")
    earlier = [(1000, line_evidence(drift=0.02)), (8000, line_evidence(drift=0.0002))]
    decision = decide(question, line_evidence(), earlier)
    kept = decision.kept_shares[0]
    assert decision.proposal is not None
    assert decision.proposal.shares["old"] == pytest.approx(0.2845, abs=0.003)
    assert kept.share == pytest.approx(decision.proposal.shares["old"], abs=0.0011)
    assert kept.settled == 8000
    drifting = decide(question, line_evidence(), earlier[:1])
    assert any("is drifting" in note for note in drifting.notes)


def test_a_share_stays_within_always_also_where_a_lower_loss_is_outside_of_it() -> None:
    question = Question("old", "share", {"new": 1.0}, {}, of="old")
    free = decide(question, line_evidence()).proposal
    assert free is not None
    assert free.shares["old"] == pytest.approx(0.125)
    for low, high in ({"old": 0.2}, None), ({}, {"new": 0.8}):
        bounded = decide(replace(question, low=low, high=high), line_evidence()).proposal
        assert bounded is not None
        assert bounded.shares["old"] == pytest.approx(0.2)
    with pytest.raises(Undecidable, match="allow no share of `old` from 12"):
        decide(replace(question, low={"old": 0.6}), line_evidence())


def candidate(name: str, shift: float, seed: int, replicates: int = 3) -> list[Row]:
    draw = np.random.default_rng(seed)
    role = "control" if name == "kept" else "swarm"
    settings: dict[str, float | str] = {"base": 0.7, name: 0.3} if role == "swarm" else {"base": 1.0}
    return [
        Row(name, number, 1, role, settings, "text", 3.0 + shift + float(draw.normal(0, 0.003)))  # type: ignore[arg-type]
        for number in range(1, replicates + 1)
    ]


def test_of_many_candidates_the_best_is_proposed_and_the_others_are_corrected_for_their_number() -> None:
    rows = candidate("kept", 0, 1) + candidate("finemath", -0.1, 2) + candidate("stack-edu", -0.05, 3)
    for number in range(6):
        rows += candidate(f"textbooks-{number}", 0.0, 10 + number)
    decision = decide(Question("sources", "candidates", {"text": 1.0}, {}), Evidence(tuple(rows)))
    assert decision.proposal is not None
    assert decision.proposal.arm == "finemath"
    assert decision.shown
    words = {one.name: one.word for one in decision.contenders if one.word}
    assert words["stack-edu"] == "shown"
    assert all(word == "not distinguishable" for name, word in words.items() if name.startswith("textbooks"))


def test_a_candidate_that_was_shown_is_proposed_before_a_lower_one_of_a_single_run() -> None:
    rows = candidate("kept", 0, 1) + candidate("finemath", -0.1, 2) + candidate("lucky", -0.3, 3, replicates=1)
    decision = decide(Question("sources", "candidates", {"text": 1.0}, {}), Evidence(tuple(rows)))
    assert decision.proposal is not None
    assert decision.proposal.arm == "finemath"


def test_where_none_is_shown_a_candidate_that_breaks_a_limit_is_not_proposed() -> None:
    rows = candidate("kept", 0, 1) + candidate("breaks", 0.0, 2) + candidate("keeps", 0.001, 2)
    old = [replace(row, source="old", loss=row.loss + (1.0 if row.arm == "breaks" else -1.0)) for row in rows]
    old = [replace(row, loss=row.loss + 1.0) if row.arm == "kept" else row for row in old]
    question = Question("sources", "candidates", {"text": 1.0}, {"old": Keep("kept", 0.0)})
    decision = decide(question, Evidence((*rows, *old)))
    assert decision.proposal is not None
    assert decision.proposal.arm == "keeps"


def test_a_cooldown_takes_the_fewest_steps_that_are_not_distinguishable_from_the_best() -> None:
    rows = []
    draw = np.random.default_rng(4)
    for batch in (896.0, 3584.0):
        for rate in (1.0, 0.5, 0.25):
            effective = rate / (batch / 896.0) ** 0.5
            for replicate in (1, 2, 3):
                loss = 3.0 + 0.1 * effective + float(draw.normal(0, 0.002))
                arm = f"{batch:g}-{rate:g}"
                rows.append(Row(arm, replicate, 1, "swarm", {"batch": batch, "learning_rate": rate}, "text", loss))
    rows += [Row("kept", number, 1, "control", {}, "text", 3.1) for number in (1, 2, 3)]
    decision = decide(Question("cooldown", "cooldown", {"text": 1.0}, {}), Evidence(tuple(rows)))
    assert decision.laws[0].terms["exponent"] == pytest.approx(0.5, abs=0.1)
    assert decision.proposal is not None
    assert decision.proposal.settings == {"batch": 3584.0, "learning_rate": 0.25}
    low, high = (decision.laws[0].terms[f"exponent {end}"] for end in ("low", "high"))
    assert low < 0.5 < high
    assert 0.01 < high - low < 0.5
    assert f"(95% {low:.2f} to {high:.2f}, by the noise between runs)" in decision.notes[0]
    once = decide(
        Question("cooldown", "cooldown", {"text": 1.0}, {}), Evidence(tuple(r for r in rows if r.replicate == 1))
    )
    assert "no interval, as no arm ran more than once" in once.notes[0]
    assert once.laws[0].terms.keys() == {"exponent", "power", "floor", "scale"}


def test_what_a_trunk_adds_to_its_arms_moves_neither_the_exponent_nor_the_best_candidate() -> None:
    def decided(kind: Literal["cooldown", "candidates"], luck: float) -> Decision:
        rows = [
            Row("kept", number, seed, "control", {}, "text", 3.2 + luck * (seed == 2))
            for number, seed in ((1, 1), (2, 2))
        ]
        grid = [(batch, rate) for batch in (1.0, 4.0) for rate in (1.0, 0.5, 0.25, 0.125)]
        for at, (batch, rate) in enumerate(grid):  # trunks alternate in step with the rate
            loss = 3.0 + 0.1 * rate / batch**0.5 + luck * (at % 2)
            settings = {"batch": batch, "learning_rate": rate}
            rows.append(Row(f"{batch:g}-{rate:g}", 1, 1 + at % 2, "swarm", settings, "text", loss))
        return decide(Question("cooldown", kind, {"text": 1.0}, {}), Evidence(tuple(rows)))

    even, lucky = (decided("cooldown", luck) for luck in (0.0, 0.1))
    assert lucky.laws[0].terms["exponent"] == pytest.approx(even.laws[0].terms["exponent"], abs=1e-3)
    for luck in (0.0, 0.1, -0.1):
        best = decided("candidates", luck).proposal
        assert best is not None
        assert best.arm == "4-0.125"


def test_an_exponent_of_the_batch_at_its_bound_is_reported_as_not_measured() -> None:
    def decided(exponent: float) -> tuple[str, ...]:
        rows = [
            Row(
                f"{batch:g}-{rate:g}",
                1,
                1,
                "swarm",
                {"batch": batch, "learning_rate": rate},
                "text",
                3.0 + 0.1 * rate / batch**exponent,
            )
            for batch in (1.0, 4.0)
            for rate in (1.0, 0.5, 0.25)
        ]
        return decide(Question("cooldown", "cooldown", {"text": 1.0}, {}), Evidence(tuple(rows))).notes

    for exponent, bound in ((3.0, "2.00"), (-1.0, "0.00")):
        assert any(f"is at its bound, {bound}: these arms do not measure it" in note for note in decided(exponent))
    assert not any("at its bound" in note for note in decided(0.5))
