"""A batch that changes inside a stage: against a brute-force replay, across branches, ranks and sizes."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import lineages
import numpy as np
import oracle
import pytest
from hypothesis import given, settings, strategies as st

from curriculum.compiler.compile import CompiledStage, compile_curriculum, spans
from curriculum.compiler.summary import stage_summary
from curriculum.errors import PlanError
from curriculum.plan import lookup
from curriculum.plan.batch_clock import BatchChange, BatchClock, batch_clock
from curriculum.plan.diff.compare import BATCH, RATE, compare
from curriculum.plan.stage import StagePlan
from curriculum.stream import reader

LENGTH = lineages.LENGTH
HEAD = lineages.BASE["stages/root.yaml"].split("stages:")[0]
MIXTURES = {"plain": {"a": 3, "b": 1}, "other": {"a": 2, "b": 3, "c": 2}}


# --- the clock ----------------------------------------------------------------------------------------------


@st.composite
def clocks(draw: st.DrawFn) -> tuple[BatchClock, int]:
    start, length, batch = draw(st.integers(0, 10**6)), draw(st.integers(1, 50)), draw(st.integers(1, 20))
    at, levels = start, []
    for _ in range(draw(st.integers(0, 5))):
        at += draw(st.integers(0, 3000))
        levels.append((at, draw(st.integers(1, 20))))
    return batch_clock(start, length, batch, levels, start + draw(st.integers(1, 9000)))


@settings(max_examples=100, deadline=None)
@given(clocks())
def test_a_clock_agrees_with_counting_step_by_step(found: tuple[BatchClock, int]) -> None:
    clock, steps = found
    position, sequence, all_steps = clock.start, 0, []
    for step in range(steps):
        assert (clock.position(step), clock.sequences_before(step)) == (position, sequence)
        batch = clock.batch(step)
        all_steps += [step] * batch
        for token in {position, position + 1, position + batch * clock.sequence_length - 1}:
            inside = token < position + batch * clock.sequence_length
            assert clock.step_of(token) == (step if inside else step + 1)
            assert clock.step_from(token) == (step if token == position else step + 1)
        position, sequence = position + batch * clock.sequence_length, sequence + batch
    assert clock.steps_of_sequences(np.arange(sequence)).tolist() == all_steps
    assert [clock.step_of_sequence(n) for n in range(sequence)] == all_steps
    parts = list(clock.parts(0, steps))
    assert [batch for begin, end, batch in parts for _ in range(begin, end)] == [clock.batch(n) for n in range(steps)]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_batch_is_that_of_the_last_level_at_or_before_its_step(data: st.DataObject) -> None:
    start, length, batch = data.draw(st.integers(0, 999)), data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    points = data.draw(st.lists(st.integers(start + 1, start + 900), max_size=5, unique=True).map(sorted))
    levels = [(at, data.draw(st.integers(1, 12))) for at in points]
    end = start + data.draw(st.integers(1, 900))
    clock, steps = batch_clock(start, length, batch, levels, end)
    position, step = start, 0
    while position < end:
        here = [batch, *(size for at, size in levels if at <= position)][-1]
        assert clock.batch(step) == here
        position, step = position + here * length, step + 1
    assert (steps, clock.position(steps)) == (step, position)


@pytest.mark.parametrize("changes", [(), (BatchChange(1, 5),), (BatchChange(0, 5), BatchChange(0, 6))])
def test_a_clock_begins_at_its_first_step(changes: tuple[BatchChange, ...]) -> None:
    with pytest.raises(ValueError, match="changes of a batch begin at step 0"):
        BatchClock(0, 4, changes)


# --- against the oracle -------------------------------------------------------------------------------------


def entry(stage: dict[str, Any]) -> str:
    words = [f"name: {stage['name']}", f"until: {stage['until']} tokens"]
    if stage["stated"] == "even":
        first, last, over, number = stage["even"]
        words.append(f"batch: {{from: {first} sequences, to: {last} sequences, over: {over} tokens, in: {number}}}")
    elif stage["stated"] == "at":
        levels = ", ".join(f"{at} tokens: {batch} sequences" for at, batch in stage["own"])
        words.append(f"batch: {{from: {stage['first']} sequences, at: {{{levels}}}}}")
    elif stage["stated"] == "one":
        words.append(f"batch: {stage['first']} sequences")
    if "mixture" in stage:
        words.append(f"mixture: {next(name for name, weights in MIXTURES.items() if weights == stage['mixture'])}")
    if "ramp" in stage:
        words.append(f"ramp: {stage['ramp']} tokens")
    if "skip" in stage:
        ((begin, end),) = stage["skip"]
        words.append(f"skip: [{{from: {begin}, to: {end}}}]")
    return f"  - {{{', '.join(words)}}}\n"


def drawn_stages(draw: random.Random, start: int, before: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Stages that state a batch in one of the ways, or keep what is on the clock."""
    stages: list[dict[str, Any]] = []
    for number in range(draw.randint(1, 3)):
        until = start + draw.randint(150, 700)
        stated = draw.choice(["even", "at", "one", "kept"] if before else ["even", "at"])
        stage: dict[str, Any] = {"name": f"s{number}", "until": until, "stated": stated}
        if stated == "even":
            first, number_of, each = draw.randint(1, 4), draw.randint(1, 4), draw.randint(1, 3)
            over = draw.randint(20, 900)
            stage["even"] = (first, first + number_of * each, over, number_of)
            levels = [(start - (-over * k // number_of), first + each * k) for k in range(1, number_of + 1)]
        elif stated == "at":
            first = draw.randint(1, 8)
            points = sorted(draw.sample(range(start + 1, start + 800), draw.randint(1, 4)))
            levels = stage["own"] = [(at, draw.randint(1, 9)) for at in points]
        else:
            first, levels = draw.randint(1, 8), []
        if stated == "kept":
            assert before is not None
            first, levels = before["batch"], before["levels"]
            first = [first, *(batch for at, batch in levels if at <= start)][-1]
            levels = [(at, batch) for at, batch in levels if at > start]
        stage |= {"first": first, "batch": first, "levels": levels}
        if before is None or draw.random() < 0.6:
            stage["mixture"] = draw.choice(list(MIXTURES.values()))
            if before is not None and draw.random() < 0.5:
                stage["ramp"] = draw.randint(4, 100)
        if draw.random() < 0.3:
            begin = draw.randint(start + 60, until - 60)
            stage["skip"] = [(begin, draw.randint(begin + 1, until))]
        stages.append(stage)
        before, start = stage, until
    return stages


def check_slots(
    stage: CompiledStage, written: dict[str, Any], lineage: oracle.Lineage, stop: int | None = None
) -> None:
    """Every slot of the stage up to the position `stop`, as the lineage takes it step by step."""
    plan = stage.plan
    texts = {name: oracle.Text(source.windows, source.order == "in-order") for name, source in plan.sources.items()}
    found, at = lineages_drawn(plan), 0
    for step, slots in oracle.take(lineage, written, texts, seed=plan.seed, length=LENGTH):
        assert (plan.batch_of(step), plan.position_after(step)) == (len(slots), lineage.position)
        assert found[at : at + len(slots)] == slots, f"step {step}"
        assert plan.step_at(plan.position_before(step)) == step
        at += len(slots)
        if stop is not None and lineage.position >= stop:
            return
    assert (plan.stop_step, plan.end, plan.sequences) == (lineage.step, lineage.position, at)


def lineages_drawn(plan: StagePlan) -> list[oracle.Slot]:
    draws = plan.draws_of(plan.first_step, plan.stop_step)
    each = zip(draws.source.tolist(), draws.pass_number.tolist(), draws.window.tolist(), strict=True)
    return [(draws.names[source], number, window) for source, number, window in each]


@pytest.mark.promise("A batch grows inside a stage, at exact positions; every slot equals a brute-force replay's")
@pytest.mark.parametrize("number", range(24))
def test_every_slot_of_random_chains_of_batches_is_what_a_replay_finds(number: int, tmp_path: Path) -> None:
    draw = random.Random(number)
    stages = drawn_stages(draw, 0, None)
    at = draw.randint(1, stages[-1]["until"] - 1)
    cut = next(stage for stage in stages if at <= stage["until"])
    rest = {"name": "rest", "until": at + 300, "stated": "kept"}
    first = [cut["batch"], *(batch for position, batch in cut["levels"] if position <= at)][-1]
    rest |= {"batch": first, "levels": [level for level in cut["levels"] if level[0] > at]}
    files = {
        "stages/root.yaml": HEAD + "stages:\n" + "".join(map(entry, stages)),
        "stages/two.yaml": f"from: root@{at}\nstages:\n" + entry(rest),
    }
    project = lineages.project_of(files, tmp_path / "project")
    compiled = compile_curriculum(project, "root", "full").stages
    lineage = oracle.Lineage()
    for stage, written in zip(compiled, stages, strict=True):
        check_slots(stage, written, lineage)
    if "skip" in cut or "ramp" in cut:
        return  # what a branch leaves undone of them is the oracle test's
    lineage = oracle.Lineage()
    branch = compile_curriculum(project, "two", "full").stages
    for stage, written in zip(branch[:-1], stages, strict=False):
        check_slots(stage, written, lineage, stop=at if written is cut else None)
    assert lineage.position == branch[-1].plan.start
    check_slots(branch[-1], rest, lineage)


# --- what reads the plan ------------------------------------------------------------------------------------

GROWING = "  - {name: all, until: 3000 tokens, mixture: plain, batch: {from: 4 sequences, to: 16 sequences, "


def one(folder: Path, batch: str = "over: 1500 tokens, in: 3}}\n", **files: str) -> StagePlan:
    project = lineages.project_of({"stages/root.yaml": HEAD + "stages:\n" + GROWING + batch, **files}, folder)
    return compile_curriculum(project, "root", "full").stages[-1].plan


def test_even_steps_reach_the_last_batch_where_they_are_over(tmp_path: Path) -> None:
    plan = one(tmp_path)
    assert plan.batches == (4, 8, 12, 16)
    assert [plan.position_before(change.step) for change in plan.batch_changes] == [512, 1024, 1504]
    assert (plan.end, plan.steps) == (3040, plan.clock.step_from(3000))


@pytest.mark.promise("A batch grows inside a stage, at exact positions; every slot equals a brute-force replay's")
def test_ranks_together_read_every_slot_once_and_a_window_is_traced_to_its_slot(tmp_path: Path) -> None:
    plan = one(tmp_path)
    for step in range(plan.first_step, plan.stop_step):
        batch = plan.batch_of(step)
        for ranks, groups in ((1, None), (2, None), (4, None), (2, {4: 4, 8: 8, 12: 4, 16: 16})):
            slots = [reader.slots_by_batch(rank, ranks, groups)(batch) for rank in range(ranks)]
            assert sorted(np.concatenate(slots).tolist()) == list(range(batch))
    draws = plan.draws_of(plan.first_step, plan.stop_step)
    step, slot = [], []
    for number in range(plan.first_step, plan.stop_step):
        step += [number] * plan.batch_of(number)
        slot += list(range(plan.batch_of(number)))
    for source in plan.names:
        mine = draws.source == draws.names.index(source)
        windows = np.unique(draws.window[mine])
        found = lookup.occurrences(plan, source, windows, stop=plan.sequences)
        where = zip(found.steps(plan).tolist(), found.slots(plan).tolist(), found.window.tolist(), strict=True)
        read = zip(
            np.array(step)[mine].tolist(), np.array(slot)[mine].tolist(), draws.window[mine].tolist(), strict=True
        )
        assert sorted(where) == sorted(read)


def test_a_history_does_not_depend_on_a_change_ahead(tmp_path: Path) -> None:
    growing = one(tmp_path / "a")
    steady = one(tmp_path / "b", "over: 90k tokens, in: 1}}\n")
    other = one(tmp_path / "c", "over: 1800 tokens, in: 3}}\n")
    assert steady.batch_changes == ()
    assert growing.history(512) == steady.history(512) == other.history(512)
    assert growing.history(512 + 32) not in (steady.history(512 + 16), other.history(512 + 16))
    assert StagePlan.from_json(growing.to_json()) == growing
    assert "batch_changes" not in steady.to_json()


def test_diff_finds_the_first_step_of_another_size(tmp_path: Path) -> None:
    texts = {
        "one": "{from: 4 sequences, to: 16 sequences, over: 1500 tokens, in: 3}",
        "two": "{from: 4 sequences, at: {500 tokens: 8 sequences, 1000 tokens: 12 sequences, "
        "1500 tokens: 16 sequences}}",
        "three": "{from: 4 sequences, at: {500 tokens: 8 sequences, 1000 tokens: 16 sequences}}",
    }
    stage = "stages:\n  - {name: all, until: 3000 tokens, mixture: plain, batch: %s}\n"
    project = lineages.project_of(
        {f"stages/{name}.yaml": HEAD + stage % text for name, text in texts.items()}, tmp_path
    )
    plans = {name: spans(compile_curriculum(project, name, "full").stages) for name in texts}
    assert compare(plans["one"], plans["two"]).parts == ()
    found = compare(plans["one"], plans["three"])
    (batch,) = [part for part in found.parts if part.what == BATCH]
    assert (batch.position, found.same_until) == (1024, 1024)
    scaled = "{from: 4 sequences, to: 16 sequences, over: 1500 tokens, in: 3, rate_exponent: 0.5}"
    (tmp_path / "stages/three.yaml").write_text(HEAD + stage % scaled)
    project = type(project)(tmp_path)
    found = compare(plans["one"], spans(compile_curriculum(project, "three", "full").stages))
    assert [(part.what, part.position >= 512) for part in found.parts] == [(RATE, True)]


def test_a_stated_exponent_scales_the_rate_by_the_batch_and_later_stages_keep_it(tmp_path: Path) -> None:
    more = "  - {name: more, until: 4000 tokens}\n  - {name: back, until: 5000 tokens, batch: 4 sequences}\n"
    project = lineages.project_of(
        {"stages/root.yaml": HEAD + "stages:\n" + GROWING + "over: 1500 tokens, in: 3, rate_exponent: 0.5}}\n" + more},
        tmp_path,
    )
    grown, later, back = (stage.plan for stage in compile_curriculum(project, "root", "full").stages)
    for plan in (grown, later, back):
        for step in (plan.first_step, plan.stop_step - 1):
            factor = (plan.batch_of(step) / 4) ** 0.5
            assert plan.lr(step) == plan.learning_rate.at(plan.position_after(step)) * factor
    assert (later.batches, later.rate_factor(later.first_step), back.rate_factor(back.first_step)) == ((16,), 2.0, 1.0)


SCALED = "stages:\n" + GROWING + "over: 1500 tokens, in: 3, rate_exponent: 0.5}}\n"


def test_a_decay_begins_at_the_rate_that_a_grown_batch_has(tmp_path: Path) -> None:
    fall = "learning_rate: {shape: decay, min: 0, decay: 1000 tokens}"
    ends = f"  - {{name: fall, tokens: 1000 tokens, {fall}}}\n"
    project = lineages.project_of(
        {
            "stages/root.yaml": HEAD + SCALED,
            "stages/end.yaml": f"about: a\nfrom: root\nstages:\n{ends}",
            "stages/middle.yaml": f"about: a\nfrom: root@1000\nstages:\n{ends}",
        },
        tmp_path,
    )
    for name, factor in (("end", 2.0), ("middle", 3**0.5)):
        grown, fall_plan = (stage.plan for stage in compile_curriculum(project, name, "full").stages)
        first_rate = grown.learning_rate.at(fall_plan.start) * factor
        assert fall_plan.learning_rate.at(fall_plan.start) == pytest.approx(first_rate, rel=1e-12)
        steps = [fall_plan.lr(step) for step in range(fall_plan.first_step, fall_plan.stop_step)]
        assert first_rate > steps[0] > steps[1] > steps[-1] == 0
        assert fall_plan.rate_factor(fall_plan.first_step) == 1


def test_a_decay_in_a_stage_that_grows_begins_at_the_rate_of_the_batch_that_it_starts_with(tmp_path: Path) -> None:
    project = lineages.project_of({"stages/root.yaml": HEAD + SCALED}, tmp_path)
    second = compile_curriculum(project, "root", "full").stages[0].stop + 1
    grows = f"batch: {{from: 16 sequences, at: {{{second} tokens: 36 sequences}}}}"
    ends = f"  - {{name: fall, tokens: 1000 tokens, {grows}, learning_rate: {{shape: decay, min: 0, decay: 1k}}}}\n"
    (tmp_path / "stages/root.yaml").write_text(HEAD + SCALED + ends)
    grown, fall = (stage.plan for stage in compile_curriculum(type(project)(tmp_path), "root", "full").stages)
    assert [fall.batch_of(step) for step in (fall.first_step, fall.first_step + 1)] == [16, 36]
    assert fall.learning_rate.at(fall.start) == pytest.approx(grown.learning_rate.at(fall.start) * 2, rel=1e-12)


def test_a_decay_in_steps_counts_those_of_its_stage_whatever_the_root_began_with(tmp_path: Path) -> None:
    project = lineages.project_of({"stages/root.yaml": HEAD + SCALED}, tmp_path)
    lineages.branched(project, "root", "fall", decay="5 steps", to="1e-4")
    plan = compile_curriculum(type(project)(tmp_path), "fall", "full").stages[-1].plan
    rates = [plan.lr(step) for step in range(plan.first_step, plan.stop_step)]
    assert (plan.batches, len(rates)) == ((16,), 5)
    assert all(rate > after for rate, after in pairwise(rates))
    assert rates[-2] > 1e-4 == rates[-1]


def test_a_curve_that_meets_the_unscaled_rate_of_a_grown_batch_jumps(tmp_path: Path) -> None:
    project = lineages.project_of({"stages/root.yaml": HEAD + SCALED}, tmp_path)
    grown = compile_curriculum(project, "root", "full").stages[0].plan
    more = "  - {name: more, until: 5000 tokens, learning_rate: {shape: constant, max: %.6g}}\n"
    reached = grown.learning_rate.at(grown.end)
    (tmp_path / "stages/root.yaml").write_text(HEAD + SCALED + more % reached)
    with pytest.raises(PlanError, match="would jump"):
        compile_curriculum(type(project)(tmp_path), "root", "full")
    (tmp_path / "stages/root.yaml").write_text(HEAD + SCALED + more % (2 * reached))
    plan = compile_curriculum(type(project)(tmp_path), "root", "full").stages[1].plan
    assert plan.lr(plan.first_step) == pytest.approx(2 * reached, rel=1e-5)


def test_windows_of_another_length_leave_the_scaled_rate_as_it_is(tmp_path: Path) -> None:
    long = "  - {name: long, until: 4000 tokens, sequence_length: %d, positions: restart}\n"
    project = lineages.project_of({"stages/root.yaml": HEAD + SCALED + long % (4 * LENGTH)}, tmp_path)
    grown, longer = (stage.plan for stage in compile_curriculum(project, "root", "full").stages)
    assert longer.batch_tokens == grown.tokens_of(grown.stop_step - 1)
    assert longer.rate_factor(longer.first_step) == grown.rate_factor(grown.stop_step - 1) == 2
    assert StagePlan.from_json(longer.to_json()) == longer
    assert json.dumps(longer.to_json()["rate_batch"]) == "1"  # written as 1.0 it were another plan
    (tmp_path / "stages/root.yaml").write_text(HEAD + SCALED + long % (8 * LENGTH))
    longest = compile_curriculum(type(project)(tmp_path), "root", "full").stages[1].plan
    assert (longest.rate_batch, longest.rate_factor(longest.first_step)) == (0.5, 2)
    assert StagePlan.from_json(longest.to_json()) == longest


def test_a_second_growth_may_not_begin_its_exponent_again_where_the_rate_is_scaled(tmp_path: Path) -> None:
    more = "  - {name: more, until: 6000 tokens, batch: {from: 16 sequences, at: {5000 tokens: 32 sequences}%s}}\n"
    project = lineages.project_of({"stages/root.yaml": HEAD + SCALED + more % ", rate_exponent: 0.5"}, tmp_path)
    with pytest.raises(PlanError, match="multiplies the rate by 2 here"):
        compile_curriculum(project, "root", "full")
    (tmp_path / "stages/root.yaml").write_text(HEAD + SCALED + more % "")
    plan = compile_curriculum(type(project)(tmp_path), "root", "full").stages[1].plan
    assert [plan.rate_factor(step) for step in (plan.first_step, plan.stop_step - 1)] == [2, 8**0.5]


@pytest.mark.parametrize("first_steps", [1, 100])
def test_a_second_exponent_holds_where_it_starts_at_the_rate_that_is_reached(tmp_path: Path, first_steps: int) -> None:
    project = lineages.project_of({"stages/root.yaml": HEAD + SCALED}, tmp_path)
    grows = compile_curriculum(project, "root", "full").stages[0].stop + first_steps * 4 * LENGTH
    more = (
        f"  - {{name: more, until: 6000 tokens, batch: {{from: 4 sequences, at: {{{grows} tokens: 8 sequences}}%s}}}}\n"
    )
    for exponent, stated in ((1, ", rate_exponent: 1"), (0.5, "")):
        (tmp_path / "stages/root.yaml").write_text(HEAD + SCALED + more % stated)
        plan = compile_curriculum(type(project)(tmp_path), "root", "full").stages[1].plan
        assert plan.batch_of(plan.first_step + first_steps) == 8 == 2 * plan.batch_of(plan.first_step + first_steps - 1)
        assert [plan.rate_factor(step) for step in (plan.first_step, plan.stop_step - 1)] == [1, 2**exponent]


def test_a_ramp_longer_than_its_stage_goes_on_in_the_next(tmp_path: Path) -> None:
    text = "  - {name: one, until: 700 tokens, mixture: plain, batch: {from: 4 sequences, to: 16 sequences, "
    text += "over: 1500 tokens, in: 3}}\n  - {name: two, until: 3000 tokens}\n"
    project = lineages.project_of({"stages/root.yaml": HEAD + "stages:\n" + text}, tmp_path)
    first, second = compile_curriculum(project, "root", "full").stages
    assert (first.plan.batches, second.plan.batches) == ((4, 8), (8, 12, 16))
    assert [position for position, _ in second.batches] == [704, 1024, 1504]
    rows = stage_summary(second)["batch_changes"]
    assert [(row["batch_sequences"], row["position"]) for row in rows] == [(12, 1024), (16, 1504)]


@pytest.mark.promise("A batch grows inside a stage, at exact positions; every slot equals a brute-force replay's")
def test_a_size_scales_every_batch_and_position(tmp_path: Path) -> None:
    sizes = "full: {}\nsmall: {tokens: 1e-1, batch: 8 -> 2 sequences}\n"
    text = "  - {name: all, until: 30000 tokens, mixture: plain, batch: {from: 8 sequences, to: 32 sequences, "
    text += "over: 15000 tokens, in: 3}}\n"
    project = lineages.project_of({"stages/root.yaml": HEAD + "stages:\n" + text, "sizes.yaml": sizes}, tmp_path)
    plan = compile_curriculum(project, "root", "small").stages[0].plan
    assert plan.batches == (2, 4, 6, 8)
    changes = [plan.position_before(change.step) for change in plan.batch_changes]
    assert changes == [504, 1000, 1504]
