"""The law of retention gives the published shares of the Data Mixing Laws, and those of our trial."""

from __future__ import annotations

import numpy as np
import pytest
from public_runs import trial

from curriculum.studies.laws import retention

SHARES = np.array([0.125, 0.25, 0.375, 0.5])
OLD = np.array([2.9262, 2.8805, 2.8571, 2.8388])
BEFORE = 2.8734


def test_the_published_share_that_keeps_the_old_loss_is_found() -> None:
    law = retention.fit(SHARES, OLD, "exponential")
    kept = retention.kept_share(SHARES, OLD, BEFORE, law)
    assert (law.floor, law.rate, law.constant) == pytest.approx((2.8161, -4.116, -1.695), abs=0.01)
    assert kept.share == pytest.approx(0.2831, abs=0.002)
    assert kept.left_out == pytest.approx((0.2849, 0.2951, 0.2776, 0.2800), abs=0.002)
    assert law.predict(np.array([0.28516]))[0] == pytest.approx(2.8729, abs=0.001)


def test_the_loss_on_the_new_text_is_predicted_at_an_unseen_share() -> None:
    law = retention.fit(SHARES, np.array([1.3679, 1.3863, 1.4084, 1.4309]), "exponential")
    assert law.predict(np.array([0.28516]))[0] == pytest.approx(1.3926, abs=0.001)


def test_a_share_that_still_moves_is_drifting_until_it_agrees_with_the_last() -> None:
    law = retention.fit(SHARES, OLD, "exponential")
    spread = retention.kept_share(SHARES, OLD, BEFORE, law).spread
    assert spread is not None
    roots = [(1000, 0.322), (2000, 0.345), (3000, 0.364), (5000, 0.316), (8000, 0.290), (10_000, law.root(BEFORE))]
    assert retention.settled_from(roots, spread) == 8000
    assert retention.settled_from(roots[:4], spread) is None


def shares_and_losses(arms: str, trunk: str = "") -> tuple[np.ndarray, np.ndarray]:
    rows = {row["arm"]: row for row in trial()}
    names = [f"arm-{arm}{trunk}" for arm in arms]
    return (
        np.array([float(rows[name]["weight_slimpajama"]) / 100 for name in names]),
        np.array([float(rows[name]["loss_slimpajama"]) for name in names]),
    )


def test_the_trials_share_rests_on_a_power_and_a_second_trunk_gives_another() -> None:
    shares, losses = shares_and_losses("abcdef")
    law = retention.choose(shares, losses)[0]
    assert law.form == "power"
    assert law.rate == pytest.approx(0.0248, abs=0.0005)
    assert law.left_out_error == pytest.approx(0.0025, abs=0.0005)
    kept = retention.kept_share(shares, losses, 4.470252, law)
    assert kept.share == pytest.approx(0.635, abs=0.002)
    assert kept.spread == pytest.approx((0.630, 0.638), abs=0.002)
    second = retention.fit(*shares_and_losses("acf", "-s2"), "power")
    assert second.root(4.483758) == pytest.approx(0.673, abs=0.002)


def test_a_limit_that_no_share_reaches_has_no_root() -> None:
    law = retention.fit(SHARES, OLD, "exponential")
    assert law.root(2.7) is None
    assert law.root(9.0) is None
    assert retention.fit(SHARES, OLD, "power").root(1.0) is None


def test_two_shares_cannot_fit_a_curve_of_three_numbers() -> None:
    with pytest.raises(ValueError, match="2 different shares cannot fit 3 numbers"):
        retention.fit(SHARES[:2], OLD[:2], "exponential")
    assert [law.form for law in retention.choose(SHARES[:2], OLD[:2])] == ["power"]
