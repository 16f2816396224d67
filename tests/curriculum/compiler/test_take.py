"""`take` of a text whose first pass is under way: windows are read as often as of a whole text by a longer stage."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from math import ceil

import lineages
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from curriculum import fs
from curriculum.compiler.compile import compile_curriculum
from curriculum.compiler.segments import ending_early
from curriculum.plan import lookup
from curriculum.plan.source import EpochPart, Reseed, Segment, SourcePlan
from curriculum.plan.stage import StagePlan

pytestmark = pytest.mark.promise(
    "A part of a text (`take`), also of one whose first pass is under way, is repeated as often as all of it in a run "
    "as much longer"
)

WHOLE = Segment(first_item=0, pass_number=0, windows=90)
ORDERS = st.sampled_from(["shuffled", "in-order"])


def read(source: SourcePlan, items: int) -> tuple[list[int], list[int]]:
    """(passes, windows) of the first items."""
    numbers, windows = source.locate(np.arange(items, dtype=np.int64), seed=1, source="s")
    return numbers.tolist(), windows.tolist()


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 89), st.integers(1, 89), ORDERS, st.sets(st.integers(0, 200), max_size=3), st.booleans())
def test_a_part_of_what_was_read_comes_again_with_the_next_of_the_order_and_with_nothing_else(
    used: int, windows: int, order: str, reseeds: set[int], spread: bool
) -> None:
    whole = Segment(first_item=0, pass_number=0, windows=90, out_of=300 if spread else None)
    more = () if order == "in-order" else tuple(Reseed(first_item=at, data_seed=2) for at in sorted(reseeds))
    plans = [
        SourcePlan(dataset="d", segments=segments, order=order, reseeds=more)  # type: ignore[arg-type]
        for segments in ((whole,), ending_early([whole], used, windows))
    ]
    end = plans[1].segments[1].first_item
    assert end - used == ceil((90 - used) * Fraction(windows, 90)), "as much less of what is left as of the text"
    (_, full), (numbers, found) = (read(plan, end + 3 * windows) for plan in plans)
    assert found[:end] == full[:end], "the first pass goes on as it was"
    assert numbers == [0] * end + [1] * windows + [2] * windows + [3] * windows
    repeated = set(found[end : end + windows])
    for begin in range(end, end + 3 * windows, windows):
        assert Counter(found[begin : begin + windows]) == Counter(repeated)
    assert len(repeated) == windows
    kept = [at for at in range(used) if full[at] in repeated]
    assert repeated == {full[at] for at in (*kept, *range(used, end))}
    if kept:  # they are spread evenly: the gaps of their places differ by one
        gaps = np.diff([*kept, used])
        assert gaps.max() - gaps.min() <= 1
    assert plans[1].epochs(used) == plans[0].epochs(used)
    assert plans[1].epochs(end) == 1
    assert plans[1].epochs(end + 3 * windows) == 4
    if order == "shuffled" and windows > 20:
        assert found[end : end + windows] != found[end + windows : end + 2 * windows]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 80), st.integers(20, 89), st.integers(1, 70), st.integers(1, 40))
def test_a_shorter_run_passes_over_its_part_as_often_as_the_longer_over_all(
    used: int, windows: int, share: int, longer: int
) -> None:
    part = SourcePlan(dataset="d", segments=ending_early([WHOLE], used, windows))
    whole = SourcePlan(dataset="d", segments=(WHOLE,))
    items = share * longer * 10
    shorter = items * windows // 90
    # one window of either is as far as rounding goes
    assert part.epochs(used + shorter) == pytest.approx(whole.epochs(used + items), abs=2 / windows)


def test_the_same_part_again_changes_nothing_and_a_smaller_one_is_of_the_part() -> None:
    half = ending_early([WHOLE], 30, 45)
    assert half[1].part == EpochPart(windows=90, read=30, kept=15)
    assert half[1].first_item == 60
    assert ending_early(half, 40, 45) == half
    assert ending_early(half, 40, 60) == half, "what ended early does not grow"
    tenth = ending_early(half, 40, 9)
    # 25 of the 45 are read: a fifth of them and a fifth of the 20 left
    assert tenth[1].part == EpochPart(windows=90, read=40, kept=5)
    assert tenth[1].first_item == 44
    assert ending_early(half, 61, 9) == half, "the first pass is over"
    assert ending_early([WHOLE], 90, 9) == (WHOLE,)
    for more in (10, 60):
        grown = (WHOLE, Segment(first_item=90, pass_number=0, windows=more, first_window=90))
        assert ending_early(grown, 30, 9) == grown, "two texts are no part of one order"


@pytest.mark.parametrize("order", ["shuffled", "in-order"])
def test_a_place_outside_of_a_part_is_refused_and_one_number_gives_one(order: str) -> None:
    segments = ending_early([WHOLE], 30, 45)
    source = SourcePlan(dataset="d", segments=segments, order=order)  # type: ignore[arg-type]
    found = source.permutation(segments[1], 1, seed=1, source="s")
    assert found is not None
    assert isinstance(found(44), int)
    assert found.inverse(found(44)) == 44
    assert isinstance(found.inverse(found(0)), int)
    for beyond in (45, -1):
        with pytest.raises(ValueError, match="place in the order"):
            found(beyond)
    for beyond in (90, -1):
        with pytest.raises(ValueError, match="place in the order"):
            found.inverse(beyond)


STAGES = "from: root\nstages:\n  - {name: s0, until: %s, mixture: %s%s}\n"
SOURCES = lineages.BASE["sources.yaml"].replace("412", "3k").replace("148", "800")
TAKING = "weights: {a: 3, b: 1}\npasses: {a: 1000, b: 1000}\ntake: {a: 50%, b: 50%}\n"


def compiled(text: str, taking: str = TAKING) -> list[StagePlan]:
    files = {"stages/mine.yaml": text, "mixtures/taking.yaml": taking, "sources.yaml": SOURCES}
    return [stage.plan for stage in compile_curriculum(lineages.project_of(files), "mine", "full").stages]


def test_a_later_stage_that_takes_a_part_ends_the_first_pass_early_and_the_next_goes_on() -> None:
    again = "  - {name: s1, until: 9000, data_seed: 3}\n"
    plans = compiled(STAGES % (5000, "taking", "") + again)
    a, b = (plans[1].sources[name] for name in ("a", "b"))
    # 375 of 750 windows are read at the branch, and 125 of 200
    assert a.segments[1].part == EpochPart(windows=750, read=375, kept=187)
    assert (a.segments[1].first_item, a.segments[1].windows) == (563, 375)
    assert (b.segments[1].first_item, b.segments[1].windows) == (163, 100)
    assert plans[2].sources["a"].segments == a.segments, "the same mixture takes the same part"
    untouched = compiled(STAGES % (5000, "plain", ""))
    assert plans[1].start == untouched[1].start
    at = plans[1].position_after(plans[1].first_step + 12)  # some 45 windows of `a`: both are in the first pass
    assert plans[1].history(at) == untouched[1].history(at), "what ends early is ahead"
    assert plans[1].fingerprint != untouched[1].fingerprint
    assert b"part" not in fs.canonical_json(untouched[1].to_json())
    assert StagePlan.from_json(plans[1].to_json()) == plans[1]


def test_of_a_text_that_was_read_whole_no_part_is_taken() -> None:
    project = lineages.project_of({"stages/mine.yaml": STAGES % (5000, "taking", ""), "mixtures/taking.yaml": TAKING})
    stages = compile_curriculum(project, "mine", "full").stages
    assert [len(stage.plan.sources["a"].segments) for stage in stages] == [1, 1]


@settings(max_examples=25, deadline=None)
@given(st.integers(5, 90), st.sampled_from(["", ", data_seed: 3", ", ramp: 40 sequences"]), st.data())
def test_the_inverse_and_the_counts_of_a_part_are_those_of_a_replay(take: int, event: str, data: st.DataObject) -> None:
    plan = compiled(STAGES % (7000, "taking", event), TAKING.replace("50%", f"{take}%"))[1]
    draws = plan.draws_at(np.arange(plan.sequences, dtype=np.int64))
    for number, name in enumerate(plan.names):
        windows, passes = draws.window[draws.source == number], draws.pass_number[draws.source == number]
        text = plan.sources[name].segments[0].windows
        asked = np.array(sorted(data.draw(st.sets(st.integers(0, text - 1), min_size=1, max_size=20))), np.int64)
        found = lookup.occurrences(plan, name, asked, stop=plan.sequences)
        is_asked = np.isin(windows, asked)
        assert found.window.tolist() == windows[is_asked].tolist()
        assert found.pass_number.tolist() == passes[is_asked].tolist()
        low = data.draw(st.integers(0, text - 1))
        span = range(low, data.draw(st.integers(low + 1, text)))
        hits = np.flatnonzero((draws.source == number) & (draws.window >= span.start) & (draws.window < span.stop))
        assert lookup.count(plan, name, span, stop=plan.sequences) == lookup.Count(len(hits), 0)
        for few in (True, False):
            with pytest.MonkeyPatch.context() as patch:
                if not few:
                    patch.setattr(lookup, "ONE_BY_ONE", 0)
                for last in (False, True):
                    edge = lookup.edge(plan, name, span, stop=plan.sequences, last=last)
                    assert edge == (int(hits[-1 if last else 0]) if len(hits) else None)


def test_the_order_of_a_part_is_the_one_it_was() -> None:
    source = SourcePlan(
        dataset="d", segments=ending_early([WHOLE], 30, 12), reseeds=(Reseed(first_item=30, data_seed=2),)
    )
    assert source.segments[1].first_item == 38
    assert read(source, 62)[1][30:] == [
        *(87, 13, 19, 77, 81, 67, 14, 25),
        *(77, 13, 53, 69, 81, 87, 23, 25, 35, 19, 14, 67),
        *(35, 53, 81, 25, 23, 67, 13, 77, 69, 87, 19, 14),
    ]
