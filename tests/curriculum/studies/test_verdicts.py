"""Verdicts: the trial's words, the level of a null study, and what settles a question."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from public_runs import trial_evidence
from simulated_studies import evidence, mixture

from curriculum.studies import verdicts
from curriculum.studies.evidence import Evidence, Role, Row
from curriculum.studies.laws.mixture import MixtureLaw
from curriculum.studies.verdict_words import setting_words

SOURCES = ("slimpajama", "starcoder-python-jupyter", "proof-pile-2")
OLD, NEW = {SOURCES[0]: 1.0}, {SOURCES[1]: 1.0, SOURCES[2]: 1.0}


@pytest.mark.promise("One trunk's luck is no evidence: the trial's retention is `not distinguishable` on two trunks")
def test_the_trial_on_two_trunks_shows_the_gain_and_not_the_retention() -> None:
    both = trial_evidence()
    keep = verdicts.judge(both, "g", "before", OLD, keep=SOURCES[0])
    gain = verdicts.judge(both, "g", "c", NEW)
    assert keep.word == "not distinguishable"
    assert gain.word == "shown"
    assert gain.difference is not None
    assert gain.difference.mean == pytest.approx(-0.192, abs=0.001)
    assert [value for _, value in both.differences("g", "c", NEW)] == pytest.approx([-0.193, -0.191], abs=0.001)
    assert keep.more_runs is not None
    assert 20 < keep.more_runs < 100
    assert keep.shown_with_slack is not None
    assert verdicts.judge(both, "g", "before", OLD, keep=SOURCES[0], slack=keep.shown_with_slack).shown


def test_the_trial_on_one_trunk_suggests_at_most() -> None:
    one = trial_evidence((3407,))
    assert verdicts.judge(one, "g", "before", OLD, keep=SOURCES[0]).word == "suggested"
    assert verdicts.judge(one, "g", "c", NEW).word == "suggested"


def test_one_run_suggests_at_most_where_others_show_the_noise() -> None:
    one = evidence(
        [("kept", "control", {}, 3), ("natural", "control", {}, 3), ("proposal", "proposal", {}, 1)],
        FLAT,
        SOURCES,
        seed=1,
        noise=0.001,
    )
    lowered = Evidence(tuple(replace(row, loss=row.loss - (row.arm == "proposal")) for row in one.rows))
    found = verdicts.judge(lowered, "proposal", "kept", NEW)
    assert found.difference is not None
    assert found.difference.high is not None
    assert found.difference.high < -0.9, "the noise is known, and small beside the difference"
    assert found.word == "suggested"


FLAT = {name: MixtureLaw(2.0 + at, (0.0, 0.0, 0.0), None, 0.0, 0.0, 0.0) for at, name in enumerate(SOURCES)}
CONTROLS = ("kept", "stated", "natural")


def null_study(seed: int, trunks: tuple[int, ...]) -> Evidence:
    shares = mixture(SOURCES, (0.5, 0.25, 0.25))
    arms = [(name, "control", shares, 3) for name in CONTROLS] + [("proposal", "proposal", shares, 3)]
    return evidence(arms, FLAT, SOURCES, seed=seed, noise=0.02, seeds=trunks, trunk_noise=0.05)  # type: ignore[arg-type]


@pytest.mark.promise("A study of equal arms says `shown` in at most 5% of 200 simulated repeats")
@pytest.mark.parametrize("trunks", [(1,), (1, 2)])
def test_a_null_study_shows_something_in_at_most_one_of_twenty_repeats(trunks: tuple[int, ...]) -> None:
    against_one = against_all = 0
    for seed in range(200):
        found = null_study(seed, trunks)
        words = [verdicts.judge(found, "proposal", control, NEW).word for control in CONTROLS]
        against_one += words[0] == "shown"
        against_all += all(word == "shown" for word in words)
    assert against_one <= 10
    assert against_all <= 10


def test_a_large_difference_is_shown_nearly_always_and_contrary_in_the_other_direction() -> None:
    shares = mixture(SOURCES, (0.5, 0.25, 0.25))
    other = mixture(SOURCES, (0.4, 0.3, 0.3))
    steep = {name: MixtureLaw(1.0, (1.0, 0.0, 0.0), None, 0.0, 0.0, 0.0) for name in SOURCES}
    for seed in range(20):
        arms = [("kept", "control", shares, 3), ("natural", "control", shares, 3), ("proposal", "proposal", other, 3)]
        found = evidence(arms, steep, SOURCES, seed=seed, noise=0.005)  # type: ignore[arg-type]
        assert verdicts.judge(found, "proposal", "kept", NEW).word == "shown"
        turned = [("kept", "control", other, 3), ("natural", "control", other, 3), ("proposal", "proposal", shares, 3)]
        found = evidence(turned, steep, SOURCES, seed=seed, noise=0.005)  # type: ignore[arg-type]
        assert verdicts.judge(found, "proposal", "kept", NEW).word == "contrary"


def test_the_noise_of_windows_is_a_floor() -> None:
    windows = tuple(np.random.default_rng(0).normal(3, 0.5, 60).tolist())
    rows = []
    for arm, shift in (("kept", 0.0), ("proposal", -0.01)):
        for replicate in (1, 2, 3):
            jitter = np.random.default_rng(hash_of(arm)).normal(0, 0.3, 60)
            values = tuple((np.array(windows) + shift + jitter).tolist())
            role: Role = "control" if arm == "kept" else "proposal"
            rows.append(Row(arm, replicate, 1, role, {}, "text", float(np.mean(values)), values, tuple(range(60))))
    found = verdicts.difference(Evidence(tuple(rows)), "proposal", "kept", {"text": 1.0})
    assert found is not None
    assert found.spread == pytest.approx(0.0, abs=1e-9)
    assert found.error == found.window_error > 0.03


def test_window_errors_of_a_weighted_mean_add_in_squares() -> None:
    draw = np.random.default_rng(1)
    rows = []
    for source, spread in (("text", 0.4), ("code", 0.1)):
        for arm in ("kept", "proposal"):
            windows = tuple(draw.normal(3, spread, 400).tolist())
            role: Role = "control" if arm == "kept" else "proposal"
            rows.append(Row(arm, 1, 1, role, {}, source, float(np.mean(windows)), windows, tuple(range(400))))
    found = Evidence(tuple(rows))
    text, code = (found.window_error("proposal", "kept", {source: 2.0}) for source in ("text", "code"))
    assert text == pytest.approx(0.4 * np.sqrt(2 / 400), rel=0.15), "of a difference of means of 400 windows"
    both = found.window_error("proposal", "kept", {"text": 1.0, "code": 3.0})
    assert both == pytest.approx(np.hypot(0.25 * text, 0.75 * code), rel=1e-9)


def hash_of(arm: str) -> int:
    return sum(map(ord, arm))


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_rejects_no_hypothesis_above_the_level_and_none_before_a_smaller_one(p_values: list[float]) -> None:
    rejected = verdicts.holm(p_values)
    for p_value, is_rejected in zip(p_values, rejected, strict=True):
        if is_rejected:
            assert p_value <= 0.05
            assert all(other for value, other in zip(p_values, rejected, strict=True) if value < p_value)
    if p_values and min(p_values) <= 0.05 / len(p_values):
        assert any(rejected)


def test_holm_is_stricter_than_one_test_and_less_strict_than_bonferroni() -> None:
    assert verdicts.holm([0.01, 0.04, 0.03]) == [True, False, False]
    assert verdicts.holm([0.01, 0.02, 0.03]) == [True, True, True]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), shift=st.floats(-0.05, 0.05))
def test_the_runs_that_would_settle_a_difference_do_if_it_stays(seed: int, shift: float) -> None:
    shares = mixture(SOURCES, (0.5, 0.25, 0.25))
    arms = [("kept", "control", shares, 3), ("natural", "control", shares, 3), ("proposal", "proposal", shares, 3)]
    found = verdicts.difference(
        evidence(arms, FLAT, SOURCES, seed=seed, noise=0.03),
        "proposal",
        "kept",
        OLD,  # type: ignore[arg-type]
    )
    assert found is not None
    assert found.half is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.mean <= found.high


def test_a_point_of_a_grid_is_said_as_a_study_states_it() -> None:
    said = setting_words({"batch": 8.0, "learning_rate": 0.5, "ramp": "6B", "mask_documents": "true"})
    assert said == "batch 8 sequences, learning_rate x0.5, ramp 6B, mask_documents true"
    assert setting_words({"learning_rate": 1.0}) == "learning_rate kept"
