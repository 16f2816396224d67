"""Branches compiled: where they leave, what each source goes on with, and what is refused at the junction."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from shipped_lineages import ROOT, branch, drawn_over, full, items_at_stop, project_with

from curriculum.compiler.compile import compile_curriculum
from curriculum.compiler.kept_positions import kept_positions
from curriculum.config.project import Project
from curriculum.errors import PlanError
from curriculum.plan.stage import StagePlan

B = 10**9

Write = Callable[[dict[str, str]], Project]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return partial(project_with, tmp_path)


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


def test_another_sequence_length_with_restarted_positions_cuts_windows_again(write: Write) -> None:
    project = write(
        branch("  - {name: a, tokens: 100B, sequence_length: 4096, batch: 448 sequences, positions: restart}\n")
    )
    trunk, own = compile_curriculum(project, "mine", "full").stages
    assert own.plan.batch_tokens == trunk.plan.batch_tokens
    assert own.plan.sources["slimpajama"].segments[-1].windows == 659 * B // 4096
    assert trunk.plan.sources["slimpajama"].segments[-1].windows == 659 * B // 2048


def test_a_source_that_was_left_behind_is_cut_again_with_the_others(write: Write) -> None:
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
