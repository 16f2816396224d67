"""A lineage compiled: the paper's numbers to the unit, one order over stages and branches, refusals across files."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st
from shipped_lineages import (
    ROOT,
    SHIPPED,
    VARIANTS,
    branch,
    compiled as compiled_of,
    drawn_over,
    full,
    items_at_stop,
    project_with,
    rehearsal,
)

from curriculum.compiler.compile import Compiled, compile_curriculum, compile_resolved
from curriculum.compiler.resolve import resolve
from curriculum.compiler.sources import PreparedInfo
from curriculum.config.project import Project
from curriculum.errors import PlanError
from curriculum.plan.mixing import Ramp
from curriculum.plan.ranks import nearest_divisors, share_of_rank
from curriculum.plan.stage import StagePlan

B = 10**9

Write = Callable[[dict[str, str]], Project]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return partial(project_with, tmp_path)


def passes_at_end(compiled: Compiled) -> dict[str, float]:
    plan = compiled.stages[-1].plan
    return {name: plan.sources[name].epochs(items) for name, items in plan.items(plan.sequences).items()}


# --- the paper's numbers ---------------------------------------------------------------------------------


@pytest.mark.promise(
    "The shipped files compile to the paper's steps, boundaries, learning rates, ramp and epochs, to the unit"
)
@pytest.mark.parametrize("name", VARIANTS)
def test_the_paper_s_steps_batches_and_boundaries_come_out_to_the_unit(name: str) -> None:
    plans = [stage.plan for stage in full(name).stages]
    assert [plan.steps for plan in plans] == [817_436, 190_734, 20_436]
    assert [plan.batch_tokens for plan in plans] == [1_835_008, 1_835_008, 7_340_032]
    assert [plan.end for plan in plans] == [1_500_001_599_488, 1_850_000_015_360, 2_000_000_909_312]
    assert [plan.start for plan in plans] == [0, 1_500_001_599_488, 1_850_000_015_360]
    assert [plan.first_step for plan in plans] == [0, 817_436, 1_008_170]
    assert plans[-1].stop_step == 1_028_606


@pytest.mark.promise(
    "The shipped files compile to the paper's steps, boundaries, learning rates, ramp and epochs, to the unit"
)
@pytest.mark.parametrize("name", VARIANTS)
def test_the_paper_s_learning_rate_comes_out_at_every_edge(name: str) -> None:
    compiled = full(name)
    rates = [stage.plan.lr(stage.plan.stop_step - 1) for stage in compiled.stages]
    assert rates == [pytest.approx(9.29e-5, abs=5e-8), pytest.approx(4.50e-5, abs=5e-8), 4e-5]
    trunk = compiled.stages[0].plan
    assert trunk.learning_rate.warmup == 2000 * 1_835_008
    assert trunk.lr(1999) == 4e-4
    assert trunk.lr(0) == pytest.approx(2e-7)
    assert all(stage.plan.learning_rate == trunk.learning_rate for stage in compiled.stages)


@pytest.mark.promise(
    "The shipped files compile to the paper's steps, boundaries, learning rates, ramp and epochs, to the unit"
)
@pytest.mark.parametrize("name", ["v1.1-math-code", "v1.1-chinese"])
def test_the_ramp_of_6b_tokens_takes_2929688_sequences_in_3270_steps(name: str) -> None:
    stage = full(name).stages[1]
    assert stage.ramp_sequences == 2_929_688
    assert [piece.first for piece in stage.plan.pieces] == [0, 2_929_688]
    assert -(-stage.ramp_sequences // stage.plan.batch_sequences) == 3270


@pytest.mark.promise(
    "The shipped files compile to the paper's steps, boundaries, learning rates, ramp and epochs, to the unit"
)
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("v1.1", {"slimpajama": 3.035}),
        ("v1.1-math-code", {"slimpajama": 2.846, "starcoder-python-jupyter": 2.485, "proof-pile-2": 0.904}),
        ("v1.1-chinese", {"slimpajama": 2.658, "skypile": 1.657}),
    ],
)
def test_the_passes_over_each_corpus_are_the_paper_s_at_full_size_and_in_the_rehearsal(
    name: str, expected: dict[str, float]
) -> None:
    for compiled, tolerance in ((full(name), 6e-4), (rehearsal(name), 0.07)):
        passes = passes_at_end(compiled)
        assert set(passes) == set(expected)
        for source, number in expected.items():
            assert passes[source] == pytest.approx(number, abs=tolerance)


def test_a_ramp_moves_the_shares_in_a_straight_line() -> None:
    stage = full("v1.1-chinese").stages[1]
    mixer = stage.plan.blends[0].mixer
    assert isinstance(mixer, Ramp)
    n = stage.ramp_sequences
    assert mixer.shares(0) == {"skypile": 0, "slimpajama": 1}
    assert mixer.shares(n // 2) == {"skypile": Fraction(1, 4), "slimpajama": Fraction(3, 4)}
    assert mixer.shares(n) == {"skypile": Fraction(1, 2), "slimpajama": Fraction(1, 2)}
    before, inside = stage.plan.items(0), stage.plan.items(n)
    assert inside["skypile"] - before.get("skypile", 0) == pytest.approx(n / 4, abs=2)


@pytest.mark.parametrize("size", ["full", "pilot", "rehearsal"])
@pytest.mark.parametrize("name", VARIANTS)
def test_the_shares_got_are_the_shares_asked_to_a_few_sequences(name: str, size: str) -> None:
    for stage in compiled_of(name, size).stages:
        plan, n = stage.plan, stage.ramp_sequences
        got = {source: count - plan.items(n).get(source, 0) for source, count in plan.items(plan.sequences).items()}
        for source, share in stage.shares.items():
            assert abs(got[source] - share * (plan.sequences - n)) < 4


# --- scaling ---------------------------------------------------------------------------------------------


def test_the_rehearsal_scales_every_length_and_keeps_the_batches_ratio() -> None:
    compiled = rehearsal("v1.1-math-code")
    plans = [stage.plan for stage in compiled.stages]
    assert [plan.batch_sequences for plan in plans] == [16, 16, 64]
    assert [stage.declared_end for stage in compiled.stages] == [1_500_000, 1_850_000, 2_000_000]
    assert all(
        0 <= plan.end - s.declared_end < plan.batch_tokens for plan, s in zip(plans, compiled.stages, strict=True)
    )
    assert plans[0].learning_rate.horizon == 2_000_000
    assert plans[0].learning_rate.warmup == 20 * 16 * 128
    assert compiled.sources["slimpajama"].windows == 659_000 // 128
    assert any("lengthened to 20 steps" in note for note in compiled.stages[1].notes)


def test_a_source_that_a_scaled_stage_never_serves_is_a_note_and_at_full_size_a_refusal(write: Write) -> None:
    project = write({"mixtures/chinese.yaml": "weights: {slimpajama: 100000, skypile: 1}\n"})
    notes = [note for stage in compile_curriculum(project, "v1.1-chinese", "rehearsal").stages for note in stage.notes]
    assert any("`skypile` has weight but is never drawn" in note for note in notes)
    project = write({"mixtures/chinese.yaml": "weights: {slimpajama: 1_000_000_000, skypile: 1}\n"})
    with pytest.raises(PlanError, match="never drawn"):
        compile_curriculum(project, "v1.1-chinese", "full")


def test_prepared_text_counts_as_it_is_at_full_size_and_is_cut_to_scale_otherwise() -> None:
    def facts(_: str, __: int) -> PreparedInfo:
        return PreparedInfo(windows=10**9, digest="d")

    assert (
        compile_resolved(resolve(SHIPPED, "v1.1", "full"), prepared_info=facts).sources["slimpajama"].windows == 10**9
    )
    scaled = compile_resolved(resolve(SHIPPED, "v1.1", "rehearsal"), prepared_info=facts)
    assert scaled.sources["slimpajama"].windows == 659_000 // 128
    assert scaled.stages[0].plan.sources["slimpajama"].segments[0].digest == "d"


def test_a_stand_in_that_holds_more_text_than_a_size_takes_is_read_from_all_over_it() -> None:
    compiled = compile_resolved(
        resolve(SHIPPED, "v1.1", "rehearsal"), prepared_info=lambda *_: PreparedInfo(windows=20_000, digest="d")
    )
    plan = compiled.stages[0].plan
    source = plan.sources["slimpajama"]
    _, window = source.locate(np.arange(2 * source.windows, dtype=np.int64), seed=plan.seed, source="slimpajama")
    first, second = window[: source.windows], window[source.windows :]
    assert len(set(first.tolist())) == source.windows
    assert set(first.tolist()) == set(second.tolist())
    gaps = np.diff(np.sort(first))
    assert gaps.min() == 20_000 // source.windows
    assert gaps.max() == 20_000 // source.windows + 1
    assert first.min() == 0
    assert first.max() >= 20_000 - 5


def test_too_little_text_for_a_stand_in_is_refused_where_it_is_bound() -> None:
    with pytest.raises(PlanError, match="too little text to replace `slimpajama`") as refused:
        compile_resolved(
            resolve(SHIPPED, "v1.1", "rehearsal"), prepared_info=lambda *_: PreparedInfo(windows=5_000, digest="d")
        )
    assert refused.value.place is not None
    assert refused.value.place.text.strip() == "sotu:"


def test_a_tokenizer_larger_than_the_model_s_vocabulary_is_refused() -> None:
    with pytest.raises(PlanError, match="has 32,001 ids, the model's vocabulary only 32,000"):
        compile_resolved(resolve(SHIPPED, "v1.1", "full"), tokenizer={"digest": "d", "vocab_size": 32_001, "eos": 2})
    compile_resolved(resolve(SHIPPED, "v1.1", "full"), tokenizer={"digest": "d", "vocab_size": 32_000, "eos": 2})


def test_windows_of_a_source_of_unknown_size_are_refused_and_not_made_up(write: Write) -> None:
    sources = (ROOT / "sources.yaml").read_text().replace("    tokens: 659B\n", "")
    sources = "\n".join(
        line for line in sources.splitlines() if not line.startswith("    tokens_from: Llama tokens without")
    )
    sources = sources.replace("    assumed: true                     # derived, not published\n", "")
    compiled = compile_curriculum(write({"sources.yaml": sources}), "v1.1", "full")
    with pytest.raises(PlanError, match="how much text it has is neither declared nor counted"):
        compiled.stages[0].plan.draws(0)


# --- one order over stages and branches ------------------------------------------------------------------


@pytest.mark.parametrize("size", ["full", "pilot", "rehearsal"])
def test_every_variant_shares_its_trunk_to_the_fingerprint(size: str) -> None:
    trunks = [compiled_of(name, size).stages[0].plan for name in VARIANTS]
    assert len({trunk.fingerprint for trunk in trunks}) == 1
    for name in VARIANTS:
        parent = compiled_of(name, size).stages[1].plan.parent
        assert parent is not None
        assert (parent.fingerprint, parent.position) == (trunks[0].fingerprint, trunks[0].end)
    ends = {compiled_of(name, size).stages[1].plan.fingerprint for name in VARIANTS}
    assert len(ends) == 3


@pytest.mark.promise("A source continues at its position in the lineage, over stages, batches, ramps and branches")
@pytest.mark.parametrize("size", ["full", "pilot", "rehearsal"])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_source_goes_on_where_the_stage_before_left_it(name: str, size: str) -> None:
    stages = compiled_of(name, size).stages
    for before, after in pairwise(stages):
        reached = items_at_stop(before)
        first = after.plan.items(0)
        assert {source: n for source, n in first.items() if n} == {source: n for source, n in reached.items() if n}


@pytest.mark.promise("Every window of a source is read once an epoch, in a different order each epoch")
@pytest.mark.parametrize("name", VARIANTS)
def test_no_window_is_read_twice_within_a_pass_over_the_whole_lineage(name: str) -> None:
    compiled = rehearsal(name)
    read = drawn_over(compiled)
    last = {source: max(turn for name, turn in read if name == source) for source, _ in read}
    for (source, turn), windows in read.items():
        size = compiled.sources[source].windows
        assert len(set(windows)) == len(windows), f"{source} reads a window twice in pass {turn}"
        assert 0 <= min(windows) <= max(windows) < size
        if turn < last[source]:
            assert len(windows) == size, f"pass {turn} of {source} was left before it was whole"
    total = sum(map(len, read.values()))
    assert total == sum(stage.steps_run * stage.plan.batch_sequences for stage in compiled.stages)


def test_the_windows_counted_are_the_windows_drawn() -> None:
    compiled = rehearsal("v1.1-math-code")
    counted = compiled.stages[-1].plan.windows_read(compiled.stages[-1].stop)
    drawn: dict[str, int] = defaultdict(int)
    for (source, _), windows in drawn_over(compiled).items():
        drawn[source] += len(windows)
    assert counted == drawn


def test_the_slots_of_a_step_hold_its_sequences_whatever_the_number_of_ranks() -> None:
    plan = rehearsal("v1.1-math-code").stages[1].plan
    step = plan.first_step + 30
    whole = plan.draws(step)
    in_order = plan.draws_at(np.arange(30 * 16, 31 * 16, dtype=np.int64))
    assert sorted(zip(whole.source, whole.item, strict=True)) == sorted(
        zip(in_order.source, in_order.item, strict=True)
    )
    for ranks in (1, 2, 4, 8, 16):
        parts = [whole.rank(rank, ranks).window for rank in range(ranks)]
        assert np.array_equal(np.concatenate(parts), whole.window)


@pytest.mark.parametrize(("rank", "ranks"), [(0, 3), (4, 4), (-1, 4), (0, 32)])
def test_a_rank_that_cannot_be_is_refused(rank: int, ranks: int) -> None:
    with pytest.raises(PlanError):
        rehearsal("v1.1").stages[0].plan.draws(0).rank(rank, ranks)


# --- identity --------------------------------------------------------------------------------------------


@pytest.mark.promise("The order in which YAML lists weights and sources changes nothing")
def test_the_order_in_which_yaml_lists_weights_and_sources_changes_nothing(write: Write) -> None:
    shuffled = write(
        {
            "mixtures/math-code.yaml": "weights: {proof-pile-2: 0.10, starcoder-python-jupyter: 15e-2, "
            "slimpajama: .75}\npasses: {starcoder-python-jupyter: 8}\n"
        }
    )
    for size in ("full", "rehearsal"):
        one = [stage.plan.fingerprint for stage in compiled_of("v1.1-math-code", size).stages]
        two = [stage.plan.fingerprint for stage in compile_curriculum(shuffled, "v1.1-math-code", size).stages]
        assert one == two


@pytest.mark.parametrize("name", VARIANTS)
def test_a_plan_comes_back_from_its_file_with_the_same_fingerprint_and_draws(name: str, tmp_path: Path) -> None:
    for number, stage in enumerate(rehearsal(name).stages):
        path = tmp_path / f"{number}.json"
        stage.plan.save(path)
        read = StagePlan.load(path)
        assert read == stage.plan
        assert read.fingerprint == stage.plan.fingerprint
        step = stage.plan.stop_step - 1
        assert np.array_equal(read.draws(step).window, stage.plan.draws(step).window)


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: plan.update(seed=3408),
        lambda plan: plan.update(steps=plan["steps"] + 1),
        lambda plan: plan["learning_rate"].update(max=plan["learning_rate"]["max"] * 2),
        lambda plan: plan["blends"][0]["weights"].update(slimpajama=2),
        lambda plan: plan["sources"]["slimpajama"]["segments"][0].update(windows=7),
        lambda plan: plan["model"].update(hidden_size=64),
        lambda plan: plan.update(fingerprint="0" * 64),
        lambda plan: plan.pop("fingerprint"),
        lambda plan: plan.pop("pieces"),
        lambda plan: plan.update(format=99),
        lambda plan: plan.update(order_version=99),
    ],
)
def test_a_plan_that_was_changed_by_hand_is_refused(
    change: Callable[[dict[str, object]], object], tmp_path: Path
) -> None:
    path = tmp_path / "plan.json"
    rehearsal("v1.1-math-code").stages[1].plan.save(path)
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
    with pytest.raises(PlanError):
        StagePlan.load(path)


def test_history_does_not_change_with_what_is_ahead(write: Write) -> None:
    base = "  - {name: a, until: %s, mixture: math-code, ramp: 60B%s}\n"
    old = compile_curriculum(write(branch(base % ("1.7T", ""))), "mine", "rehearsal").stages[1].plan
    longer = compile_curriculum(write(branch(base % ("1.8T", ""))), "mine", "rehearsal").stages[1].plan
    other = (
        compile_curriculum(write(branch(base.replace("60B", "90B") % ("1.7T", ""))), "mine", "rehearsal").stages[1].plan
    )
    for steps in (0, 1, old.steps // 2, old.steps):
        position = old.start + steps * old.batch_tokens
        assert longer.history(position) == old.history(position)
    assert longer.fingerprint != old.fingerprint
    assert other.history(old.start + old.batch_tokens) != old.history(old.start + old.batch_tokens)
    cadence = compile_curriculum(write(branch(base % ("1.7T", ", every: {checkpoint: 1B}"))), "mine", "rehearsal")
    assert cadence.stages[1].plan.fingerprint == old.fingerprint


def test_the_seed_the_text_and_the_tokenizer_are_part_of_history() -> None:
    def fingerprint(digest: str = "d", tokenizer: str = "t") -> str:
        compiled = compile_resolved(
            resolve(SHIPPED, "v1.1", "rehearsal"),
            prepared_info=lambda *_: PreparedInfo(windows=10**6, digest=digest),
            tokenizer={"digest": tokenizer, "vocab_size": 4096, "eos": 0},
        )
        return compiled.stages[0].plan.fingerprint

    assert len({fingerprint(), fingerprint(digest="e"), fingerprint(tokenizer="u")}) == 3
    assert fingerprint() == fingerprint()


# --- batches and processes -------------------------------------------------------------------------------


@given(batch=st.integers(1, 5000), ranks=st.integers(1, 5000))
def test_a_batch_is_dealt_evenly_or_refused_with_the_nearest_that_fit(batch: int, ranks: int) -> None:
    if batch % ranks == 0:
        assert share_of_rank(batch, ranks) * ranks == batch
        return
    with pytest.raises(PlanError) as refused:
        share_of_rank(batch, ranks)
    near = [int(n) for n in nearest_divisors(batch, ranks).split(" or ")]
    fitting = [n for n in range(1, batch + 1) if batch % n == 0]
    assert near == [n for n in fitting if n < ranks][-1:] + [n for n in fitting if n > ranks][:1]
    assert refused.value.hint is not None
    assert nearest_divisors(batch, ranks) in refused.value.hint


def test_a_micro_batch_that_does_not_divide_a_process_s_share_is_refused() -> None:
    assert share_of_rank(896, 64, 7) == 14
    with pytest.raises(PlanError, match="does not divide 14"):
        share_of_rank(896, 64, 4)
