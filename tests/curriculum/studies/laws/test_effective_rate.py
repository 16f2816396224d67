"""The law of a cooldown finds planted numbers again, and says which arms are missing for it."""

from __future__ import annotations

import numpy as np
import pytest

from curriculum.studies.laws import effective_rate

RATES = np.array([1.0, 0.5, 0.25, 1.0, 0.5, 0.25])
BATCHES = np.array([1.0, 1.0, 1.0, 4.0, 4.0, 4.0])


@pytest.mark.parametrize(("exponent", "power", "scale"), [(0.5, 1.0, 0.1), (0.5, -0.5, 0.1), (1.0, 0.5, -0.2)])
def test_a_planted_law_is_found_again_whether_losses_rise_or_fall_with_the_rate(
    exponent: float, power: float, scale: float
) -> None:
    losses = 3.0 + scale * (RATES / BATCHES**exponent) ** power
    law = effective_rate.fit(RATES, BATCHES, losses)
    assert law.exponent == pytest.approx(exponent, abs=0.03)
    assert law.power == pytest.approx(power, abs=0.06)
    assert law.predict(RATES, BATCHES) == pytest.approx(losses, abs=1e-3)
    assert law.error == pytest.approx(float(((law.predict(RATES, BATCHES) - losses) ** 2).sum()), abs=1e-12)


def test_missing_arms_are_counted_at_the_batch_that_has_most() -> None:
    assert effective_rate.missing(RATES, BATCHES) is None
    assert effective_rate.missing(RATES[1:4], BATCHES[1:4]) == "1 more learning rate at the batch 1"
    assert effective_rate.missing(RATES[:3], BATCHES[:3]) == "an arm at another batch than 1"
    with pytest.raises(ValueError, match="another batch than 1"):
        effective_rate.fit(RATES[:3], BATCHES[:3], np.ones(3))
