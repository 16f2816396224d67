"""A data seed reorders what is unread of every pass and nothing else: counts, slots, positions, what was read stay."""

from __future__ import annotations

import lineages
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from curriculum import fs
from curriculum.compiler.compile import Compiled, compile_curriculum
from curriculum.plan.source import Reseed, Segment, SourcePlan
from curriculum.plan.stage import StagePlan

pytestmark = pytest.mark.promise(
    "A stage's `data_seed` reads the rest of every pass in another order; nothing is read twice before all was read"
)

LARGE = lineages.BASE["sources.yaml"].replace("412", "80k").replace("148", "40k")


def compiled(stages: str, *, sources: str = LARGE, parent: str = "from: root") -> Compiled:
    project = lineages.project_of({"stages/mine.yaml": f"{parent}\nstages:\n{stages}", "sources.yaml": sources})
    return compile_curriculum(project, "mine", "full")


def last(stages: str, **more: str) -> StagePlan:
    return compiled(stages, **more).stages[-1].plan


RESEEDS = st.lists(st.tuples(st.integers(0, 90), st.integers(0, 5)), max_size=3).map(
    lambda reseeds: tuple(Reseed(first_item=item, data_seed=seed) for item, seed in sorted(reseeds))
)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 40), RESEEDS, st.integers(0, 100))
def test_every_pass_reads_every_window_once_however_often_it_is_reseeded(
    windows: int, reseeds: tuple[Reseed, ...], later: int
) -> None:
    segments = (Segment(first_item=0, pass_number=0, windows=windows),)
    source = SourcePlan(dataset="d", segments=segments, reseeds=reseeds)
    items = np.arange(4 * windows, dtype=np.int64)
    number, window = source.locate(items, seed=1, source="s")
    assert number.tolist() == (items // windows).tolist()
    for at in range(4):
        read = window[at * windows : (at + 1) * windows]
        assert sorted(read.tolist()) == list(range(windows))
        order = source.permutation(segments[0], at, seed=1, source="s")
        assert order is not None
        assert order.inverse(read).tolist() == list(range(windows))
        assert order(items[:windows]).tolist() == read.tolist()
        assert order(later % windows) == read[later % windows]
    more = SourcePlan(
        dataset="d",
        segments=segments,
        reseeds=(*(r for r in reseeds if r.first_item <= later), Reseed(first_item=later, data_seed=9)),
    )
    _, moved = more.locate(items, seed=1, source="s")
    assert moved[:later].tolist() == window[:later].tolist()  # what was read stays


def test_sources_counts_slots_and_positions_stay_and_the_windows_of_the_rest_are_others() -> None:
    stage = "  - {name: a, until: 40k, mixture: plain, batch: 8 sequences%s}\n"
    plain, second, third = (last(stage % seed) for seed in ("", ", data_seed: 2", ", data_seed: 3"))
    assert plain.fingerprint != second.fingerprint != third.fingerprint
    sequences = np.arange(plain.sequences, dtype=np.int64)
    draws = [plan.draws_at(sequences) for plan in (plain, second, third)]
    for other in draws[1:]:
        assert np.array_equal(draws[0].source, other.source)
        assert np.array_equal(draws[0].item, other.item)
        assert np.array_equal(draws[0].pass_number, other.pass_number)
    assert plain.items(plain.sequences) == second.items(second.sequences)
    assert plain.windows_read(plain.end) == second.windows_read(second.end)
    assert plain.history(plain.start) == second.history(second.start)
    for name in ("a", "b"):
        text = plain.sources[name].windows
        reads = [draw.window[draw.source == draw.names.index(name)][: text // 3] for draw in draws]
        before = set(
            plain.sources[name].locate(np.arange(plain.items(0)[name]), seed=plain.seed, source=name)[1].tolist()
        )
        for read in reads:
            assert not before & set(read.tolist())
        for at, one in enumerate(reads):
            for other in reads[:at]:
                # two draws without replacement: positions that agree are Poisson, shared windows hypergeometric
                share = len(one) / (text - len(before))
                mean, spread = len(one) * share, (len(one) * share * (1 - share) ** 2) ** 0.5
                assert int((one == other).sum()) <= 6
                assert abs(len(set(one.tolist()) & set(other.tolist())) - mean) < 5 * spread


def test_a_plan_without_a_data_seed_is_written_as_it_always_was() -> None:
    plan = last("  - {name: a, until: 3000}\n")
    assert b"reseeds" not in fs.canonical_json(plan.to_json())
    reseeded = last("  - {name: a, until: 3000, data_seed: 2}\n")
    assert StagePlan.from_json(reseeded.to_json()) == reseeded
    assert reseeded.to_json()["sources"]["a"]["reseeds"] == [{"first_item": 375, "data_seed": 2}]


def test_a_data_seed_holds_in_later_stages_and_also_for_sources_that_come_later() -> None:
    chain = "  - {name: a, until: 3000, data_seed: 2}\n  - {name: b, until: 5000, mixture: later}\n"
    project = lineages.project_of(
        {
            "stages/mine.yaml": f"from: root\nstages:\n{chain}",
            "mixtures/later.yaml": "weights: {a: 1, new: 1}\npasses: {a: 1000, new: 1000}\n",
            "sources.yaml": LARGE + "  new: {read: {folder: new}, held_out: 25%, tokens: 4k}\n",
        }
    )
    sources = compile_curriculum(project, "mine", "full").stages[-1].plan.sources
    assert sources["a"].reseeds == (Reseed(first_item=375, data_seed=2),)
    assert sources["new"].reseeds == (Reseed(first_item=0, data_seed=2),)


def test_a_source_that_is_read_in_order_stays_in_order_and_the_plan_says_so() -> None:
    stage = compiled("  - {name: a, until: 3000, mixture: other, data_seed: 2}\n").stages[-1]
    assert stage.plan.sources["c"].reseeds == ()
    assert "`c` is read in order, which `data_seed` does not change" in stage.notes
    assert stage.events == ("reads the rest of every pass in another order: data seed 2",)


def test_the_rest_of_a_stage_that_a_branch_cuts_is_not_reseeded_again() -> None:
    project = lineages.project_of(
        {
            "stages/trunk.yaml": "from: root\nstages:\n  - {name: a, until: 8000, data_seed: 2}\n",
            "stages/mine.yaml": "from: trunk@4000\nstages:\n  - {name: a, until: 8000}\n",
        }
    )
    trunk, mine = (compile_curriculum(project, name, "full").stages[-1].plan for name in ("trunk", "mine"))
    assert trunk.sources == mine.sources
    assert trunk.history(trunk.end) != mine.history(mine.end)  # the stages differ, what they read does not
    found = [plan.draws(mine.stop_step - 1).window.tolist() for plan in (trunk, mine)]
    assert found[0] == found[1]
