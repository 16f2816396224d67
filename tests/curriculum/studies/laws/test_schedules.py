"""The laws of a schedule reproduce published curves, parameters and orders at three sizes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from public_runs import PEAK, curve, rates

from curriculum.studies.laws import schedules
from curriculum.studies.laws.fit_multi_power import fit_multi_power
from curriculum.studies.laws.schedules import Agreement, AnnealingLaw, MultiPowerLaw

TEST_CURVES = ("constant_72000", "cosine_72000", "wsd_20000_24000", "wsdld_20000_24000", "wsdcon_3", "wsdcon_18")
SHORT_CURVES = ("wsd_20000_24000", "wsdld_20000_24000", "cosine_24000", "constant_24000")
PUBLISHED = {
    "25": MultiPowerLaw(3.04045406, 0.52468604, 0.50786857, 363.78751622, 2.06560812, 0.58279013, 0.64142257),
    "100": MultiPowerLaw(2.6514477, 0.60115152, 0.45295811, 437.9464276, 2.13245612, 0.59785199, 0.65523644),
    "400": MultiPowerLaw(2.37474466, 0.65421216, 0.42878731, 523.42464371, 2.02462735, 0.59350493, 0.63472457),
}


def mean_agreement(law: AnnealingLaw | MultiPowerLaw, size: str) -> Agreement:
    each = []
    for name in TEST_CURVES:
        known = curve(size, name)
        if isinstance(law, AnnealingLaw):
            predicted = law.predict(known.rates, known.at, known.warmup)
        else:
            predicted = law.predict(known.rates, known.at)
        each.append(schedules.agreement(predicted, known.losses))
    names = Agreement.__dataclass_fields__
    return Agreement(*(float(np.mean([getattr(one, name) for one in each])) for name in names))


@pytest.mark.parametrize(
    ("size", "printed"),
    [
        ("25", (0.9988, 0.00376, 0.00465, 0.00110, 0.00409)),
        ("100", (0.9983, 0.00435, 0.00592, 0.00142, 0.00583)),
        ("400", (0.9978, 0.00484, 0.00730, 0.00168, 0.00995)),
    ],
)
def test_the_multi_power_law_agrees_to_every_printed_digit(size: str, printed: tuple[float, ...]) -> None:
    found = mean_agreement(PUBLISHED[size], size)
    assert round(found.r2, 4) == printed[0]
    rest = (found.mean_error, found.root_mean_square_error, found.mean_relative_error, found.worst_relative_error)
    assert tuple(round(value, 5) for value in rest) == printed[1:]


@pytest.mark.parametrize(
    ("size", "ends"),
    [
        ("25", ((3.279, 3.269), (3.283, 3.273), (3.305, 3.316), (3.349, 3.347))),
        ("100", ((2.954, 2.939), (2.959, 2.944), (2.980, 2.991), (3.037, 3.035))),
        ("400", ((2.725, 2.703), (2.731, 2.709), (2.741, 2.758), (2.818, 2.819))),
    ],
)
def test_four_schedules_end_in_the_order_that_was_observed(size: str, ends: tuple[tuple[float, float], ...]) -> None:
    for name, (observed, predicted) in zip(SHORT_CURVES, ends, strict=True):
        known = curve(size, name)
        assert known.losses[-5:].mean() == pytest.approx(observed, abs=0.001)
        assert PUBLISHED[size].predict(known.rates, known.at[-5:]).mean() == pytest.approx(predicted, abs=0.001)
    assert list(ends) == sorted(ends)


@pytest.mark.parametrize(
    ("size", "numbers"),
    [
        ("25", (3.152, 0.5206, 0.505, 0.780)),
        ("100", (2.782, 0.600, 0.448, 0.937)),
        ("400", (2.518, 0.661, 0.415, 1.112)),
    ],
)
def test_three_curves_fit_the_annealing_law_that_predicts_six_others(size: str, numbers: tuple[float, ...]) -> None:
    law = schedules.fit_annealing([curve(size, name) for name in ("cosine_24000", "constant_24000", "wsdcon_9")])
    assert law.memory == 0.998
    assert (law.floor, law.scale, law.power, law.gain) == pytest.approx(numbers, abs=0.002)
    assert mean_agreement(law, size).r2 >= 0.995


@pytest.mark.parametrize("size", PUBLISHED)
def test_three_curves_fit_the_multi_power_law_that_predicts_six_others(size: str) -> None:
    law = fit_multi_power([curve(size, name) for name in ("cosine_24000", "constant_24000", "wsdcon_9")])
    assert mean_agreement(law, size).r2 >= 0.995
    short = [curve(size, name) for name in SHORT_CURVES]
    ends = [law.predict(known.rates, known.at[-5:]).mean() for known in short]
    assert ends == sorted(ends)


def test_the_fit_of_the_multi_power_law_does_not_depend_on_the_unit_of_the_rates() -> None:
    curves = [curve("25", name) for name in ("cosine_24000", "wsdcon_9")]
    law, scaled = (
        fit_multi_power([replace(one, rates=one.rates * factor) for one in curves]) for factor in (1.0, 1024.0)
    )
    at = curves[0].at[-5:]
    first, second = law.predict(curves[0].rates, at), scaled.predict(curves[0].rates * 1024.0, at)
    assert first == pytest.approx(second, abs=1e-6)


def test_a_schedule_that_ends_at_no_rate_at_all_has_a_predicted_end() -> None:
    every = rates("wsdld_20000_24000")
    every[20_000:] = np.linspace(PEAK, 0.0, 4000)
    nearly = every.copy()
    nearly[-1] = 1e-10
    at = np.array([len(every) - 1])
    assert PUBLISHED["25"].predict(every, at)[0] == pytest.approx(PUBLISHED["25"].predict(nearly, at)[0], abs=1e-4)


def test_the_rises_of_the_warm_up_count() -> None:
    known = curve("25", "constant_24000")
    without = known.rates.copy()
    without[: known.warmup] = without[known.warmup]
    at = known.at[-5:]
    gap = PUBLISHED["25"].predict(known.rates, at) - PUBLISHED["25"].predict(without, at)
    assert 0.1 < gap.mean() < 0.17


def test_the_prediction_of_a_step_does_not_depend_on_which_others_are_asked_for() -> None:
    every = rates("cosine_24000")
    at = np.array([23_000, 2200, 10_000])
    together = PUBLISHED["25"].predict(every, at)
    alone = [PUBLISHED["25"].predict(every, at[[index]])[0] for index in range(3)]
    assert together == pytest.approx(alone, abs=1e-12)
