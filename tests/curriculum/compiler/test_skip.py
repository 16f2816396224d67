"""A skip moves the data past some draws and leaves the clock: held against an oracle that walks step by step."""

from __future__ import annotations

from itertools import pairwise

import lineages
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from curriculum.compiler.compile import CompiledStage, compile_curriculum
from curriculum.errors import ConfigError, PlanError
from curriculum.plan.stage import StagePlan

pytestmark = pytest.mark.promise("A skip leaves out whole steps of data and nothing else; clock and rate stay")

START = 2000  # the root's last step ends exactly there
BATCH, LENGTH = 5, lineages.LENGTH
STEP = BATCH * LENGTH


def stages(text: str, *more: tuple[str, str]) -> tuple[CompiledStage, ...]:
    project = lineages.project_of({"stages/mine.yaml": f"from: root\nstages:\n{text}", **dict(more)})
    return compile_curriculum(project, "mine", "full").stages


def drawn(plan: StagePlan, sequences: int) -> list[tuple[str, int]]:
    draws = plan.draws_at(np.arange(sequences, dtype=np.int64))
    return [(draws.names[s], int(i)) for s, i in zip(draws.source, draws.item, strict=True)]


def by_hand(virtual: list[tuple[str, int]], skips: list[tuple[int, int]], steps: int) -> list[tuple[str, int]]:
    """Walk the clock: at the first step at or past each `from`, throw away as many steps as `to - from` takes."""
    todo = sorted(skips)
    data = iter(virtual)
    read: list[tuple[str, int]] = []
    for step in range(steps):
        while todo and START + step * STEP >= todo[0][0]:
            begin, end = todo.pop(0)
            tokens = 0
            while tokens < end - begin:
                for _ in range(BATCH):
                    next(data)
                tokens += STEP
        read += [next(data) for _ in range(BATCH)]
    return read


SKIPS = st.lists(
    st.tuples(st.integers(START, 3990), st.integers(1, 400)).map(lambda s: (s[0], min(s[0] + s[1], 4000))),
    min_size=1,
    max_size=4,
    unique_by=lambda s: -(-s[0] // STEP),
)


@settings(max_examples=80, deadline=None)
@given(SKIPS, st.sampled_from(["", ", ramp: 61 sequences", ", ramp: 300 sequences"]))
def test_skips_throw_away_whole_steps_of_data_and_nothing_else(skips: list[tuple[int, int]], ramp: str) -> None:
    plain = f"  - {{name: a, until: 4000, mixture: other{ramp}}}\n"
    entries = ", ".join(f"{{from: {a}, to: {b}, why: spike}}" for a, b in skips)
    skipping = plain.replace("}\n", f", skip: [{entries}]}}\n")
    longer = plain.replace("4000", "9000")
    (*_, with_skip), (*_, without) = stages(skipping), stages(longer)
    (*_, short) = stages(plain)
    plan = with_skip.plan
    virtual = drawn(without.plan, without.plan.sequences)
    assert drawn(plan, plan.sequences) == by_hand(virtual, skips, plan.steps)
    assert (plan.steps, plan.end, plan.learning_rate) == (short.plan.steps, short.plan.end, short.plan.learning_rate)
    first = plan.start + min(-(-(a - START) // STEP) for a, _ in skips) * STEP
    if plan.start < first <= plan.end:
        assert plan.history(first) == short.plan.history(first)


@settings(max_examples=60, deadline=None)
@given(SKIPS, st.integers(START + 1, 4000))
def test_what_follows_a_skip_or_branches_after_it_goes_on_behind_the_data_that_was_thrown_away(
    skips: list[tuple[int, int]], at: int
) -> None:
    entries = ", ".join(f"{{from: {a}, to: {b}}}" for a, b in skips)
    text = f"  - {{name: a, until: 4000, mixture: other, ramp: 61 sequences, skip: [{entries}]}}\n"
    branch = f"from: mine@{at}\nstages:\n  - {{name: b, tokens: 600, mixture: plain, ramp: 20 sequences}}\n"
    project = lineages.project_of({"stages/mine.yaml": f"from: root\nstages:\n{text}", "stages/off.yaml": branch})
    chain = compile_curriculum(project, "off", "full").stages
    seen: dict[str, list[int]] = {}
    for stage in chain:
        for name, item in drawn(stage.plan, stage.steps_run * BATCH):
            seen.setdefault(name, []).append(item)
    for items in seen.values():
        assert all(a < b for a, b in pairwise(items))  # never back, never twice
    last = chain[-1].plan
    assert last.items(last.sequences) == {n: max(seen.get(n, [-1])) + 1 for n in last.items(0)}
    read = last.windows_read(last.end)
    assert {n: len(items) for n, items in seen.items()} == {n: c for n, c in read.items() if c}


def test_a_skip_and_its_reason_stand_in_the_plan_and_are_no_part_of_its_identity() -> None:
    text = "  - {name: a, until: 4000, mixture: other, skip: [{from: 2500, to: 2600, why: loss spike}]}\n"
    (*_, stage), (*_, other) = stages(text), stages(text.replace("loss spike", "bad shard"))
    assert stage.plan.labels["skip"] == [{"from": 2500, "to": 2600, "why": "loss spike"}]
    assert stage.events == ("skips the data of 2.5k to 2.6k: loss spike",)
    assert stage.plan.fingerprint == other.plan.fingerprint
    assert stage.plan.to_json()["labels"]["skip"][0]["why"] == "loss spike"


@pytest.mark.parametrize(
    ("skip", "says"),
    [
        ("{from: 1990, to: 2100}", "is not inside"),
        ("{from: 3990, to: 4001}", "is not inside"),
        ("{from: 2501, to: 2600}, {from: 2505, to: 2900}", "begin at the same step"),
    ],
)
def test_a_skip_across_the_stage_s_border_and_two_at_one_step_are_refused(skip: str, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        stages(f"  - {{name: a, until: 4000, mixture: other, skip: [{skip}]}}\n")


def test_a_skip_where_the_stage_is_declared_to_start_takes_its_first_step() -> None:
    project = lineages.project_of(
        {
            "stages/mine.yaml": "from: root@1990\nstages:\n"
            "  - {name: a, until: 4000, mixture: other, skip: [{from: 1990, to: 2010}]}\n"
        }
    )
    plan = compile_curriculum(project, "mine", "full").stages[-1].plan
    assert plan.start == 2000
    assert plan.pieces[0].index == BATCH


@pytest.mark.parametrize("written", ["from: 2100 tokens, to: 2.2k tokens", "from: 2100, to: 2.2k tokens"])
def test_a_skip_may_say_the_unit_of_its_positions(written: str) -> None:
    stage = "  - {name: on, until: 4000, skip: [{%s}]}\n"
    (entry,) = stages(stage % written)[-1].setting.skip
    assert (entry.from_, entry.to) == (2100, 2200)


def test_a_skip_in_another_unit_than_tokens_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be a whole number"):
        stages("  - {name: on, until: 4000, skip: [{from: 20 steps, to: 30 steps}]}\n")
