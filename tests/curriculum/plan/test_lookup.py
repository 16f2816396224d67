"""The order turned round: what the inverse says is what reading everything once, sequence by sequence, shows."""

from __future__ import annotations

import time
from pathlib import Path

import lineages
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from curriculum.compiler.compile import Compiled, compile_curriculum, compile_resolved
from curriculum.compiler.resolve import resolve
from curriculum.compiler.sources import PreparedInfo
from curriculum.config.project import Project
from curriculum.plan import lookup
from curriculum.plan.stage import StagePlan

pytestmark = pytest.mark.promise(
    "The inverse of the order finds exactly the reads that a full replay shows; counts of large ranges "
    "are exact or state their error"
)

ROOT = Path(__file__).resolve().parents[3]

EVENTS = st.sampled_from(
    [
        "",
        ", ramp: 37 sequences",
        ", positions: restart",
        ", batch: 3 sequences",
        ", skip: [{from: %d, to: %d, why: a spike}]",
        ", ramp: 90 sequences, skip: [{from: %d, to: %d}]",
        ", positions: restart, sequence_length: 2, batch: 9 sequences",
        ", data_seed: 2",
        ", data_seed: 3, ramp: 37 sequences",
    ]
)


@st.composite
def compiled(draw: st.DrawFn) -> Compiled:
    """Chains of one to four stages over three small sources, which go round many times."""
    stages = []
    at = 2000
    for number in range(draw(st.integers(1, 3))):
        end = at + draw(st.integers(400, 1500))
        event = draw(EVENTS)
        if "%d" in event:
            begin = draw(st.integers(at, end - 40))
            event = event % (begin, draw(st.integers(begin + 1, end)))
        mixture = draw(st.sampled_from(["plain", "other"]))
        stages.append(f"  - {{name: s{number}, until: {end}, mixture: {mixture}{event}}}")
        at = end
    text = "from: root\nstages:\n" + "\n".join(stages) + "\n"
    if draw(st.booleans()):
        text = text.replace("from: root", f"from: root@{draw(st.integers(1, 2000))}", 1)
    project = lineages.project_of({"stages/mine.yaml": text})
    return compile_curriculum(project, "mine", "full")


def everything(plan: StagePlan, stop: int) -> list[tuple[str, int, int, int, int]]:
    """(source, window, pass, item, sequence) of every sequence, by asking what each one reads."""
    draws = plan.draws_at(np.arange(stop, dtype=np.int64))
    return [
        (draws.names[s], int(w), int(p), int(i), at)
        for at, (s, w, p, i) in enumerate(zip(draws.source, draws.window, draws.pass_number, draws.item, strict=True))
    ]


@settings(max_examples=60, deadline=None)
@given(compiled(), st.data())
def test_the_inverse_finds_exactly_the_readings_that_reading_everything_shows(
    compiled: Compiled, data: st.DataObject
) -> None:
    for stage in compiled.stages:
        plan, stop = stage.plan, stage.steps_run * stage.plan.batch_sequences
        shown = everything(plan, stop)
        for name in plan.names:
            most = max(segment.stop_window for segment in plan.sources[name].segments)
            windows = np.array(sorted(data.draw(st.sets(st.integers(0, most - 1), min_size=1, max_size=8))), np.int64)
            found = lookup.occurrences(plan, name, windows, stop=stop)
            got = zip(found.window, found.pass_number, found.item, found.sequence, strict=True)
            wanted = [row[1:] for row in shown if row[0] == name and row[1] in windows]
            assert [tuple(map(int, row)) for row in got] == wanted
            steps, slots = found.steps(plan), found.slots(plan)
            for window, step, slot in zip(found.window, steps, slots, strict=True):
                draws = plan.draws(int(step))
                assert draws.window[slot] == window
                assert draws.names[draws.source[slot]] == name


@settings(max_examples=60, deadline=None)
@given(compiled(), st.data())
def test_the_readings_of_a_stretch_are_counted_and_bounded_without_listing_them(
    compiled: Compiled, data: st.DataObject
) -> None:
    for stage in compiled.stages:
        plan, whole = stage.plan, stage.steps_run * stage.plan.batch_sequences
        first = data.draw(st.integers(0, whole - 1))
        stop = data.draw(st.integers(first + 1, whole))
        shown = everything(plan, whole)[first:stop]
        for name in plan.names:
            most = max(segment.stop_window for segment in plan.sources[name].segments)
            low = data.draw(st.integers(0, most - 1))
            stretch = range(low, data.draw(st.integers(low + 1, most)))
            hits = [row[4] for row in shown if row[0] == name and row[1] in stretch]
            assert lookup.count(plan, name, stretch, first=first, stop=stop) == lookup.Count(len(hits), 0)
            with pytest.MonkeyPatch.context() as patch:
                if data.draw(st.booleans()):
                    patch.setattr(lookup, "ONE_BY_ONE", 0)
                edges = [lookup.edge(plan, name, stretch, first=first, stop=stop, last=last) for last in (False, True)]
            assert edges == ([hits[0], hits[-1]] if hits else [None, None])
            estimate = lookup.count(plan, name, stretch, first=first, stop=stop, budget=0)
            assert abs(estimate.readings - len(hits)) <= estimate.margin + 2 * len(compiled.stages) + 4


@settings(max_examples=40, deadline=None)
@given(compiled())
def test_the_first_draw_of_an_item_or_a_later_one_is_found(compiled: Compiled) -> None:
    plan = compiled.stages[-1].plan
    shown = everything(plan, plan.sequences)
    for name in plan.names:
        items = [(row[3], row[4]) for row in shown if row[0] == name]
        for wanted in (0, 1, 30, 100, 10**6):
            later = [sequence for item, sequence in items if item >= wanted]
            found = lookup.sequence_of(plan, name, wanted, stop=plan.sequences)
            assert found == (later[0] if later else None)


def huge() -> StagePlan:
    facts = PreparedInfo(windows=321_000_000, digest="d")
    return compile_resolved(resolve(Project(ROOT), "v1.1", "full"), prepared_info=lambda *_: facts).stages[0].plan


def test_a_shard_of_a_hundred_million_windows_is_answered_in_a_moment_and_says_what_is_an_expectation() -> None:
    plan = huge()
    stretch = range(50_000_000, 150_000_000)
    started = time.process_time()
    half = lookup.count(plan, "slimpajama", stretch, stop=160_000_000)
    whole = lookup.count(plan, "slimpajama", stretch, stop=642_000_000)
    first = lookup.edge(plan, "slimpajama", stretch, stop=plan.sequences)
    last = lookup.edge(plan, "slimpajama", stretch, stop=plan.sequences, last=True)
    assert time.process_time() - started < 1
    assert whole == lookup.Count(200_000_000, 0)  # two whole passes: no estimate
    assert half.margin > 0
    assert abs(half.readings - 160_000_000 * 100 / 321) < 1
    assert first is not None
    assert last is not None
    assert first < 100
    assert plan.sequences - last < 100
    assert plan.draws_at(np.array([first])).window[0] in stretch
    assert plan.draws_at(np.array([last])).window[0] in stretch


def test_an_expectation_holds_within_what_it_says() -> None:
    plan = huge()
    stretch = range(1_000_000, 4_000_000)
    for stop in (2_000_000, 5_000_000):
        exact = lookup.count(plan, "slimpajama", stretch, stop=stop, budget=None)
        said = lookup.count(plan, "slimpajama", stretch, stop=stop, budget=0)
        assert exact.margin == 0 < said.margin
        assert abs(exact.readings - said.readings) <= said.margin < 2500
