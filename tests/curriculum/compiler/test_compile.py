"""A lineage compiled: the paper's numbers to the unit, one order over stages and branches, refusals across files."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from curriculum.compiler.compile import Compiled, CompiledStage, compile_curriculum, compile_resolved
from curriculum.compiler.kept_positions import kept_positions
from curriculum.compiler.resolve import resolve
from curriculum.compiler.sources import PreparedInfo
from curriculum.config.project import Project
from curriculum.errors import PlanError
from curriculum.plan.mixing import Ramp
from curriculum.plan.ranks import nearest_divisors, share_of_rank
from curriculum.plan.stage import StagePlan

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = Project(ROOT)
VARIANTS = ("v1.1", "v1.1-math-code", "v1.1-chinese")
B = 10**9

Write = Callable[[dict[str, str]], Project]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a project: the shipped files, and over them `{path: text}`."""

    def written(files: dict[str, str]) -> Project:
        for folder in ("stages", "mixtures"):
            shutil.copytree(ROOT / folder, tmp_path / folder, dirs_exist_ok=True)
        for name in ("sources.yaml", "sizes.yaml", "machines.yaml"):
            shutil.copy(ROOT / name, tmp_path)
        for path, text in files.items():
            (tmp_path / path).write_text(text)
        return Project(tmp_path)

    return written


def branch(stages: str, point: str = "v1.1/basic") -> dict[str, str]:
    return {"stages/mine.yaml": f"from: {point}\nstages:\n{stages}"}


def full(name: str) -> Compiled:
    return compile_curriculum(SHIPPED, name, "full")


def rehearsal(name: str) -> Compiled:
    return compile_curriculum(SHIPPED, name, "rehearsal")


def items_at_stop(stage: CompiledStage) -> dict[str, int]:
    return stage.plan.items((stage.stop - stage.plan.start) // stage.plan.sequence_length)


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
    for stage in compile_curriculum(SHIPPED, name, size).stages:
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
    trunks = [compile_curriculum(SHIPPED, name, size).stages[0].plan for name in VARIANTS]
    assert len({trunk.fingerprint for trunk in trunks}) == 1
    for name in VARIANTS:
        parent = compile_curriculum(SHIPPED, name, size).stages[1].plan.parent
        assert parent is not None
        assert (parent.fingerprint, parent.position) == (trunks[0].fingerprint, trunks[0].end)
    ends = {compile_curriculum(SHIPPED, name, size).stages[1].plan.fingerprint for name in VARIANTS}
    assert len(ends) == 3


@pytest.mark.promise("A source continues at its position in the lineage, over stages, batches, ramps and branches")
@pytest.mark.parametrize("size", ["full", "pilot", "rehearsal"])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_source_goes_on_where_the_stage_before_left_it(name: str, size: str) -> None:
    stages = compile_curriculum(SHIPPED, name, size).stages
    for before, after in pairwise(stages):
        reached = items_at_stop(before)
        first = after.plan.items(0)
        assert {source: n for source, n in first.items() if n} == {source: n for source, n in reached.items() if n}


def drawn_over(compiled: Compiled) -> dict[tuple[str, int], list[int]]:
    """Every window that a lineage reads, by source and pass."""
    read: dict[tuple[str, int], list[int]] = defaultdict(list)
    for stage in compiled.stages:
        sequences = np.arange(stage.steps_run * stage.plan.batch_sequences, dtype=np.int64)
        draws = stage.plan.draws_at(sequences)
        for source, turn, window in zip(draws.source, draws.pass_number, draws.window, strict=True):
            read[draws.names[source], int(turn)].append(int(window))
    return read


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


# --- branches --------------------------------------------------------------------------------------------


def test_a_branch_at_a_position_leaves_at_the_first_step_boundary_at_or_past_it(write: Write) -> None:
    compiled = compile_curriculum(write(branch("  - {name: a, tokens: 100B}\n", "v1.1@1.2T")), "mine", "full")
    trunk, own = compiled.stages
    steps = -(-1_200 * B // 1_835_008)
    assert trunk.stop == own.plan.start == steps * 1_835_008
    assert own.plan.first_step == trunk.steps_run == steps
    assert trunk.plan.fingerprint == full("v1.1").stages[0].plan.fingerprint  # the plan of the whole trunk
    assert own.plan.parent is not None
    assert own.plan.parent.fingerprint == trunk.plan.history(trunk.stop)
    assert own.plan.items(0) == items_at_stop(trunk)
    assert own.plan.read_before == trunk.plan.windows_read(trunk.stop)


def test_a_position_that_the_last_step_of_a_stage_went_past_is_that_stage_s_end(write: Write) -> None:
    files = branch("  - {name: a, tokens: 100B}\n", "v1.1-math-code@1850000000001")
    compiled = compile_curriculum(write(files), "mine", "full")
    assert [stage.name for stage in compiled.stages] == ["v1.1/basic", "v1.1-math-code/continual", "mine/a"]
    assert compiled.stages[1].stop == compiled.stages[1].plan.end == compiled.stages[2].plan.start


def test_a_position_that_a_file_branches_from_is_kept(write: Write) -> None:
    project = write(branch("  - {name: a, tokens: 100B}\n", "v1.1@1.2T") | {"stages/broken.yaml": "from: [\n"})
    trunk = compile_curriculum(project, "v1.1", "full").stages[0]
    assert kept_positions(project, trunk, Fraction(1)) == (-(-1_200 * B // 1_835_008) * 1_835_008,)


@pytest.mark.promise("A source continues at its position in the lineage, over stages, batches, ramps and branches")
def test_a_branch_in_the_middle_of_a_ramp_begins_from_the_exact_shares_in_force(write: Write) -> None:
    files = branch("  - {name: a, tokens: 100B, mixture: slimpajama, ramp: 6B}\n", "v1.1-math-code@1.503T")
    _, parent, own = compile_curriculum(write(files), "mine", "full").stages
    reached = (parent.stop - parent.plan.start) // 2048
    n = parent.ramp_sequences
    assert 0 < reached < n
    moved = Fraction(reached, n)
    expected = {
        "slimpajama": 1 - moved * Fraction(25, 100),
        "starcoder-python-jupyter": moved * Fraction(15, 100),
        "proof-pile-2": moved * Fraction(10, 100),
    }
    first = own.plan.blends[0]
    assert first.before is not None
    total = sum(first.before.values())
    assert {name: Fraction(weight, total) for name, weight in first.before.items()} == expected
    assert own.plan.items(0) == items_at_stop(parent)


def test_a_ramp_is_over_where_windows_of_another_length_begin(write: Write) -> None:
    stage = "  - {name: a, tokens: 100B, sequence_length: 4096, batch: 448 sequences, positions: restart}\n"
    own = compile_curriculum(write(branch(stage, "v1.1-math-code@1.502T")), "mine", "full").stages[-1]
    assert (own.ramp_sequences, [blend.ramp for blend in own.plan.blends]) == (0, [0])


def test_a_stage_with_its_parent_s_mixture_goes_on_counting(write: Write) -> None:
    continual, cooldown = (stage.plan for stage in full("v1.1-math-code").stages[1:])
    assert cooldown.blends == (continual.blends[1],)
    assert cooldown.pieces[0].index == continual.pieces[1].index + continual.sequences - continual.pieces[1].first


@pytest.mark.promise("A source continues at its position in the lineage, over stages, batches, ramps and branches")
@settings(max_examples=40, deadline=None)
@given(
    position=st.integers(1, 2_000 * B),
    ramp=st.sampled_from([None, "6B", "20B"]),
    mixture=st.sampled_from(["math-code", "chinese", "slimpajama"]),
)
def test_wherever_a_branch_leaves_every_source_goes_on_and_no_window_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, position: int, ramp: str | None, mixture: str
) -> None:
    root = tmp_path_factory.mktemp("project")
    for folder in ("stages", "mixtures"):
        (root / folder).symlink_to(ROOT / folder) if folder == "mixtures" else shutil.copytree(
            ROOT / folder, root / folder
        )
    for name in ("sources.yaml", "sizes.yaml", "machines.yaml"):
        (root / name).symlink_to(ROOT / name)
    ramped = f", ramp: {ramp}" if ramp else ""
    (root / "stages/mine.yaml").write_text(
        f"from: v1.1-math-code@{position}\nstages:\n  - {{name: a, tokens: 200B, mixture: {mixture}{ramped}}}\n"
    )
    compiled = compile_curriculum(Project(root), "mine", "rehearsal")
    parent, own = compiled.stages[-2:]
    assert own.plan.items(0) == {**dict.fromkeys(own.plan.items(0), 0), **items_at_stop(parent)}
    for windows in drawn_over(compiled).values():
        assert len(set(windows)) == len(windows)


def test_restarted_positions_begin_each_source_s_next_pass(write: Write) -> None:
    project = write(branch("  - {name: a, tokens: 150B, positions: restart}\n"))
    trunk, own = compile_curriculum(project, "mine", "rehearsal").stages
    before = trunk.plan.draws_at(np.arange(trunk.plan.sequences - 4, trunk.plan.sequences, dtype=np.int64))
    after = own.plan.draws_at(np.arange(4, dtype=np.int64))
    assert set(before.pass_number) == {2}
    assert set(after.pass_number) == {3}
    assert after.item[0] == trunk.plan.items(trunk.plan.sequences)["slimpajama"]


def test_another_sequence_length_with_restarted_positions_cuts_windows_anew(write: Write) -> None:
    project = write(
        branch("  - {name: a, tokens: 100B, sequence_length: 4096, batch: 448 sequences, positions: restart}\n")
    )
    trunk, own = compile_curriculum(project, "mine", "full").stages
    assert own.plan.batch_tokens == trunk.plan.batch_tokens
    assert own.plan.sources["slimpajama"].segments[-1].windows == 659 * B // 4096
    assert trunk.plan.sources["slimpajama"].segments[-1].windows == 659 * B // 2048


def test_a_source_that_was_left_behind_is_cut_anew_with_the_others(write: Write) -> None:
    project = write(
        branch(
            "  - {name: a, tokens: 20B, mixture: other, sequence_length: 4096, "
            "batch: 448 sequences, positions: restart}\n"
            "  - {name: b, tokens: 20B, mixture: slimpajama}\n"
        )
        | {"mixtures/other.yaml": "weights: {proof-pile-2: 1}\n"}
    )
    last = compile_curriculum(project, "mine", "full").stages[-1].plan
    draws = last.draws(last.first_step)
    assert set(draws.pass_number) == {3}
    assert last.sources["slimpajama"].segments[-1].windows == 659 * B // 4096
    assert draws.window.max() < 659 * B // 4096


def test_unseen_positions_go_on_within_a_pass_and_refuse_to_repeat(write: Write) -> None:
    unseen = "  - {name: a, tokens: %s, mixture: math-code, positions: unseen}\n"
    only = "weights: {proof-pile-2: 1}\n"
    project = write(branch(unseen % "50B") | {"mixtures/math-code.yaml": only})
    assert compile_curriculum(project, "mine", "full").stages[1].plan.steps > 0
    project = write(branch(unseen % "56B") | {"mixtures/math-code.yaml": only})
    with pytest.raises(PlanError, match="too small") as refused:
        compile_curriculum(project, "mine", "full")
    assert "1 is the limit" in refused.value.what


def test_a_skip_moves_the_data_and_leaves_clock_and_learning_rate(write: Write) -> None:
    plain = "  - {name: a, until: 1.6T, mixture: math-code, ramp: 20B}\n"
    skipping = plain.replace("ramp: 20B", "ramp: 20B, skip: [{from: 1.53T, to: 1.54T}]")
    old = compile_curriculum(write(branch(plain)), "mine", "rehearsal").stages[1].plan
    new = compile_curriculum(write(branch(skipping)), "mine", "rehearsal").stages[1].plan
    assert (new.steps, new.start, new.end, new.learning_rate) == (old.steps, old.start, old.end, old.learning_rate)
    first = -(-(1_530_000 - old.start) // old.batch_tokens) * 16
    length = -(-10_000 // old.batch_tokens) * 16

    def drawn(plan: StagePlan, begin: int, end: int) -> list[tuple[str, int]]:
        draws = plan.draws_at(np.arange(begin, end, dtype=np.int64))
        return [(draws.names[s], int(i)) for s, i in zip(draws.source, draws.item, strict=True)]

    assert drawn(new, 0, first) == drawn(old, 0, first)
    assert drawn(new, first, old.sequences - length) == drawn(old, first + length, old.sequences)
    before = old.start + first * 128
    assert new.history(before) == old.history(before)
    assert new.history(before + old.batch_tokens) != old.history(before + old.batch_tokens)


def test_a_curve_that_does_not_meet_the_parent_s_needs_a_rewarm(write: Write) -> None:
    curve = "learning_rate: {shape: cosine, max: 1e-3, min: 4e-5, warmup: 2000 steps, horizon: 2T}"
    with pytest.raises(PlanError, match="would jump"):
        compile_curriculum(write(branch(f"  - {{name: a, tokens: 100B, {curve}}}\n")), "mine", "full")
    project = write(branch(f"  - {{name: a, tokens: 100B, rewarm: 2B, {curve}}}\n"))
    trunk, own = (stage.plan for stage in compile_curriculum(project, "mine", "full").stages)
    assert own.lr(own.first_step) == pytest.approx(trunk.lr(trunk.stop_step - 1), rel=0.01)
    assert own.lr(own.first_step + 2 * B // 1_835_008 + 2) > 1.5 * trunk.lr(trunk.stop_step - 1)


def test_beyond_its_horizon_the_rate_stays_at_its_minimum_and_the_plan_says_so(write: Write) -> None:
    stage = compile_curriculum(write(branch("  - {name: a, tokens: 100B}\n", "v1.1")), "mine", "full").stages[-1]
    assert stage.plan.lr(stage.plan.stop_step - 1) == 4e-5
    assert any("beyond its horizon" in note for note in stage.notes)


def test_a_variant_s_own_curve_keeps_both_its_ratios_to_the_root_s_at_a_size_that_states_other_rates(
    write: Write,
) -> None:
    # The root's curve runs from 4e-4 to 4e-5; the size states 3e-3 and 3e-4 for it, which is 7.5 times both.
    curve = "learning_rate: {shape: cosine, max: 1e-3, min: 8e-5, warmup: 2000 steps, horizon: 2T}"
    project = write(branch(f"  - {{name: a, tokens: 100B, rewarm: 2B, {curve}}}\n"))
    own = compile_curriculum(project, "mine", "rehearsal").stages[-1].plan.learning_rate
    assert (own.max, own.min) == (7.5e-3, 6e-4)
    higher = write({**branch(f"  - {{name: a, tokens: 100B, rewarm: 2B, {curve}}}\n"), "sizes.yaml": HIGHER_END})
    own = compile_curriculum(higher, "mine", "high").stages[-1].plan.learning_rate
    assert (own.max, own.min) == (1e-3, 1.6e-4)


def test_a_constant_curve_needs_no_smallest_rate_of_the_size(write: Write) -> None:
    curve = "learning_rate: {shape: constant, max: 2e-5}"  # 3e-4 at the size, which is its `min`; the root falls to 0
    files = branch(f"  - {{name: a, tokens: 100B, rewarm: 2B, {curve}}}\n", "smollm3/stable-1")
    sizes = {"sizes.yaml": "low: {learning_rate: {max: 3e-3, min: 3e-4}}\n"}
    own = compile_curriculum(write({**files, **sizes}), "mine", "low").stages[-1].plan.learning_rate
    assert (own.shape, own.max) == ("constant", 3e-4)


HIGHER_END = "high: {learning_rate: {min: 8e-5}}\n"


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
        one = [stage.plan.fingerprint for stage in compile_curriculum(SHIPPED, "v1.1-math-code", size).stages]
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


def test_history_does_not_change_with_what_lies_ahead(write: Write) -> None:
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
