"""The order of schedules that were not trained, by curves that others published."""

from __future__ import annotations

from dataclasses import replace

import pytest
from public_runs import PEAK, WARMUP, curve

from curriculum.plan.learning_rate import LearningRate
from curriculum.studies.decide import decide
from curriculum.studies.decision import Decision, Forecast, LawOfSchedules, Question, Schedule, Undecidable
from curriculum.studies.evidence import Evidence, TrainingCurve

END, LOW = 24_000, 0.1 * PEAK
SCHEDULES = {
    "wsd": LearningRate("wsd", PEAK, LOW, WARMUP, END, 4000, "exponential"),
    "wsdld": LearningRate("wsd", PEAK, LOW, WARMUP, END, 4000),
    "cosine": LearningRate("cosine", PEAK, LOW, WARMUP, END),
    "constant": LearningRate("constant", PEAK, 0.0, WARMUP),
}
OBSERVED = ["wsd", "wsdld", "cosine", "constant"]
RAN = ("cosine_24000", "constant_24000", "wsdcon_9")


def published(size: str, name: str) -> TrainingCurve:
    known = curve(size, name)
    behind = known.at > known.warmup
    return TrainingCurve(
        name,
        len(known.rates),
        known.warmup,
        tuple(known.rates.tolist()),
        tuple(known.at[behind].tolist()),
        tuple(known.losses[behind].tolist()),
    )


def asked(*laws: LawOfSchedules, names: tuple[str, ...] = tuple(SCHEDULES)) -> Question:
    schedules = tuple(Schedule(name, SCHEDULES[name], END) for name in names)
    return Question("schedules", "schedules", {"c4": 1.0}, {}, forecast=Forecast(schedules, 1, 1, laws))


def ordered(decision: Decision) -> list[str]:
    assert decision.order is not None
    return [name for name in decision.order.names if name in SCHEDULES]


def words(decision: Decision) -> dict[tuple[str, str], str]:
    assert decision.order is not None
    return {(pair.first, pair.second): pair.word for pair in decision.order.pairs}


@pytest.mark.promise("A study of `arms:` orders schedules that were not trained")
@pytest.mark.parametrize(("size", "laws"), [("25", ("annealing",)), ("400", ("annealing",))])
def test_four_schedules_are_put_in_the_order_in_which_they_ended(size: str, laws: tuple[LawOfSchedules, ...]) -> None:
    decision = decide(asked(*laws), Evidence((), tuple(published(size, name) for name in RAN)))
    assert ordered(decision) == OBSERVED
    assert [law.name for law in decision.laws] == list(laws)
    found = words(decision)
    assert found["wsd", "constant"] == found["cosine", "constant"] == "suggested"
    assert decision.word != "shown"
    assert decision.contenders == ()
    with pytest.raises(KeyError):  # what ran is compared by what was measured
        found["cosine_24000 as it ran", "constant_24000 as it ran"]


def test_the_order_of_a_pair_is_not_distinguishable_where_the_laws_err_by_as_much() -> None:
    decision = decide(asked("multi-power", names=("wsd", "wsdld")), Evidence((), (published("400", RAN[0]), *others())))
    assert words(decision)["wsd", "wsdld"] == "not distinguishable"
    assert decision.word == "not distinguishable"


def others() -> tuple[TrainingCurve, ...]:
    return tuple(published("400", name) for name in RAN[1:])


def test_two_curves_leave_none_out_and_say_so() -> None:
    decision = decide(asked("annealing"), Evidence((), tuple(published("25", name) for name in RAN[:2])))
    assert decision.laws[0].left_out_error is None
    assert any("none can be left out" in note for note in decision.notes)


def test_a_law_that_errs_much_more_than_the_other_does_not_count() -> None:
    evidence = Evidence((), tuple(published("25", name) for name in RAN))
    alone, both = decide(asked("annealing"), evidence), decide(asked("annealing", "multi-power"), evidence)
    assert any("`multi-power` errs" in note for note in both.notes)
    assert both.order == alone.order


def test_curves_of_one_schedule_are_refused() -> None:
    one = published("25", "cosine_24000")
    again = replace(one, arm="again", losses=tuple(loss + 0.01 for loss in one.losses))
    with pytest.raises(Undecidable, match="one schedule"):
        decide(asked("annealing"), Evidence((), (one, again)))


def test_curves_that_saw_too_little_are_refused() -> None:
    one = published("25", "cosine_24000")
    short = replace(one, at=one.at[:10], losses=one.losses[:10])
    with pytest.raises(Undecidable, match="16 points"):
        decide(asked("annealing"), Evidence((), (short,)))
