"""The law of repeated text gives the two losses that its authors printed."""

from __future__ import annotations

import pytest

from curriculum.studies.laws import repetition


def test_two_printed_losses_are_reproduced() -> None:
    assert repetition.loss(6.34e9, 242e9, 25e9) == pytest.approx(2.2256440889984477, abs=1e-13)
    assert repetition.loss(8.67e9, 178e9, 25e9) == pytest.approx(2.2269634075087867, abs=1e-13)


def test_passes_are_worth_less_and_less() -> None:
    worth = [repetition.worth(passes) for passes in (2, 4, 7, 10, 16, 40)]
    assert worth == pytest.approx([1.9682, 3.7257, 5.9685, 7.8141, 10.5825, 15.1675], abs=5e-5)
    marginal = [repetition.marginal_worth(passes) for passes in (2, 4, 7, 10, 16)]
    assert marginal == pytest.approx([0.937, 0.823, 0.677, 0.557, 0.377], abs=5e-4)
    assert repetition.worth(0.5) == 0.5
    assert repetition.marginal_worth(0.5) == 1.0
