"""Learning rates as a stage file states them, compiled at the full size and scaled."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from curriculum.compiler.compile import Compiled, compile_curriculum, spans
from curriculum.compiler.lineage import parse_address
from curriculum.config import LearningRateEntry, Refusal
from curriculum.config.project import Project
from curriculum.errors import PlanError
from curriculum.plan.diff.compare import RATE, compare
from curriculum.plan.learning_rate import LearningRate
from curriculum.runs.branch import Change, branch

ROOT = """\
seed: 1
model: tinyllama-1.1b
tokenizer: llama-2
sequence_length: 2048
optimizer: {weight_decay: 0.1}
learning_rate: %s
stages:
  - {name: whole, until: %s, mixture: web, batch: 512 sequences}
"""
STEP = 512 * 2048
SIZES = """\
full: {}
small:
  tokens: 1e-4
  batch: 8 sequences
  sequence_length: 64
  learning_rate: {max: 1e-2, warmup: 3 steps}
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    root = tmp_path / "project"
    for folder in ("stages", "mixtures"):
        (root / folder).mkdir(parents=True)
    (root / "mixtures/web.yaml").write_text("weights: {web: 1}\n")
    (root / "sources.yaml").write_text(
        "tokenizers:\n  llama-2: {path: tokenizers/llama-2/tokenizer.json, vocab_size: 32000}\n"
        "sources:\n  web: {read: {folder: text}, held_out: 5%, tokens: 9T}\n"
    )
    (root / "sizes.yaml").write_text(SIZES)
    return Project(root)


def planned(project: Project, rate: str, size: str = "full", until: str = "100B", name: str = "one") -> Compiled:
    (project.root / f"stages/{name}.yaml").write_text(ROOT % (rate, until))
    return compile_curriculum(Project(project.root), name, size)


def rate_of(project: Project, rate: str, size: str = "full") -> LearningRate:
    return planned(project, rate, size).stages[-1].plan.learning_rate


def test_an_exponential_fall_halves_the_rate_every_half_life(project: Project) -> None:
    rate = rate_of(project, "{shape: exponential, max: 8e-4, half_life: 20B, warmup: 20B, horizon: 80B}")
    assert [rate.at(at * 10**9) for at in (20, 40, 60, 80, 99)] == pytest.approx([8e-4, 4e-4, 2e-4, 1e-4, 1e-4])
    assert rate_of(project, "{shape: exponential, max: 8e-4, min: 1e-4, warmup: 20B, horizon: 80B}") == rate


def test_wsd_falls_in_every_shape_and_1_sqrt_is_another_name_of_sqrt(project: Project) -> None:
    text = "{shape: wsd, max: 8e-4, min: 1e-4, horizon: 80B, decay: 30B, decay_shape: %s}"
    shapes = ["linear", "cosine", "sqrt", "exponential"]
    middle = [rate_of(project, text % shape).at(65 * 10**9) for shape in shapes]
    sqrt = 1e-4 + (1 - math.sqrt(0.5)) * 7e-4
    assert middle == pytest.approx([4.5e-4, 4.5e-4, sqrt, math.sqrt(8e-8)])
    assert rate_of(project, text % "1-sqrt") == rate_of(project, text % "sqrt")
    assert rate_of(project, text % "1-sqrt").decay_shape == "sqrt"


def test_an_inverse_square_root_does_not_know_its_horizon_until_it_cools_down(project: Project) -> None:
    text = "{shape: power, max: 8e-4, warmup: 10B, horizon: %s, min: 0, decay: 10B}"
    short, long = (rate_of(project, text % horizon) for horizon in ("50B", "90B"))
    assert short.at(40 * 10**9) == long.at(40 * 10**9) == pytest.approx(4e-4)
    assert (short.at(45 * 10**9), short.at(50 * 10**9)) == (pytest.approx(2e-4), 0.0)
    assert short.until(40 * 10**9) == long.until(40 * 10**9)
    other = rate_of(project, "{shape: power, max: 8e-4, warmup: 10B, horizon: 90B, exponent: 1}")
    assert other.at(80 * 10**9) == other.at(90 * 10**9) * 9 / 8 == pytest.approx(1e-4)


def test_wsd_s_falls_at_the_end_of_each_cycle_and_returns(project: Project) -> None:
    text = "{shape: wsd-s, max: 8e-4, min: 2e-4, warmup: 5B, cycles: [25B, 50B, 100B], decay: 10B%s}"
    at_once, slow = rate_of(project, text % ""), rate_of(project, text % ", return: 5B")
    for rate in (at_once, slow):
        assert [rate.at(at * 10**9) for at in (15, 20, 25, 40, 50, 90, 95, 100)] == pytest.approx(
            [8e-4, 5e-4, 2e-4, 8e-4, 2e-4, 8e-4, 5e-4, 2e-4]
        )
    assert (at_once.at(25 * 10**9 + 1), slow.at(25 * 10**9 + 1)) == (8e-4, pytest.approx(2e-4))
    assert slow.at(27_500_000_000) == pytest.approx(5e-4)


@pytest.mark.promise("A learning rate goes through any points, and diff proves two of its spellings equal")
def test_diff_proves_that_points_and_a_named_shape_are_one_curve(project: Project) -> None:
    numbers = "max: 8e-4, min: 1e-4, warmup: 2B, horizon: 80B"
    pairs = [
        (
            f"{{shape: wsd, {numbers}, decay: 30B, decay_shape: cosine}}",
            "{shape: points, "
            "points: [{at: 2B, rate: 8e-4}, {at: 50B, rate: 8e-4, then: cosine}, {at: 80B, rate: 1e-4}]}",
        ),
        (
            f"{{shape: exponential, {numbers}}}",
            "{shape: points, "
            "points: [{at: 0, rate: 0}, {at: 2B, rate: 8e-4, then: exponential}, {at: 80B, rate: 1e-4}]}",
        ),
    ]
    for named, points in pairs:
        for size in ("full", "small"):
            one, other = planned(project, named, size), planned(project, points, size, name="two")
            assert compare(spans(one.stages), spans(other.stages)).parts == ()
    moved = points.replace("80B, rate: 1e-4", "90B, rate: 1e-4")
    found = compare(spans(one.stages), spans(planned(project, moved, "small", name="two").stages))
    assert [part.what for part in found.parts] == [RATE]


def test_points_keep_their_ratio_at_a_size_that_states_the_highest_rate(project: Project) -> None:
    text = "{shape: points, points: [{at: 2000 steps, rate: 4e-4, then: constant}, {at: 80B, rate: 1e-4}]}"
    full, small = rate_of(project, text), rate_of(project, text, "small")
    assert (full.warmup, full.horizon) == (2000 * STEP, 80 * 10**9)
    assert (small.warmup, small.horizon, small.max, small.min) == (3 * 8 * 64, 8 * 10**6, 1e-2, 2.5e-3)


@pytest.mark.parametrize(
    ("rate", "says"),
    [
        (
            "{shape: exponential, max: 4e-4, min: 4e-5, warmup: 1M, horizon: %s}",
            "is not after the warm-up, 1,536 tokens",
        ),
        (
            "{shape: power, max: 4e-4, min: 0, warmup: 1M, decay: 20.48M, horizon: %s}",
            "the decay, 2,048 tokens, does not fit",
        ),
    ],
)
def test_a_fall_begins_behind_the_warm_up_that_a_size_states(project: Project, rate: str, says: str) -> None:
    """At this size the warm-up takes 3 steps of 512 tokens, and a length 10,000th of what the file says."""
    end = 1536 + (2048 if "decay" in rate else 0)
    fits = rate_of(project, rate % f"{end + 1}0000 tokens", "small")
    assert (fits.warmup, fits.horizon) == (1536, end + 1)
    with pytest.raises(PlanError, match=says):
        rate_of(project, rate % f"{end}0000 tokens", "small")


def test_a_cycle_may_begin_its_fall_where_the_one_before_ends(project: Project) -> None:
    rate = rate_of(project, "{shape: wsd-s, max: 8e-4, min: 2e-4, warmup: 5B, cycles: [25B, 35B], decay: 10B}")
    assert [rate.at(at * 10**9) for at in (15, 20, 25, 30, 35)] == pytest.approx([8e-4, 5e-4, 2e-4, 5e-4, 2e-4])
    assert rate.at(25 * 10**9 + 1) == pytest.approx(8e-4)
    with pytest.raises(PlanError, match="would begin before 25,000,000,000"):
        rate_of(project, "{shape: wsd-s, max: 8e-4, min: 2e-4, warmup: 5B, cycles: [25B, 34.9B], decay: 10B}")


VARIANT = """\
from: one@50B
stages:
  - {name: decay, tokens: 20B, learning_rate: %s}
  - {name: more, tokens: 1B}
"""


@pytest.mark.parametrize("size", ["full", "small"])
def test_a_decay_falls_from_the_rate_where_its_stage_starts_and_ends_at_its_last_step(
    project: Project, size: str
) -> None:
    planned(project, "{shape: wsd, max: 4e-4, min: 4e-5, warmup: 2000 steps, horizon: 100B, decay: 10B}")
    (project.root / "stages/two.yaml").write_text(VARIANT % "{shape: decay, min: 0, decay: 20B, decay_shape: 1-sqrt}")
    trunk, decay, more = compile_curriculum(Project(project.root), "two", size).stages
    rate, plan = decay.plan.learning_rate, decay.plan
    assert rate.at(plan.start) == trunk.plan.learning_rate.max
    middle = (plan.start + rate.horizon) // 2
    assert rate.at(middle) == pytest.approx(rate.max * (1 - math.sqrt(0.5)), rel=1e-3)
    assert (plan.lr(plan.stop_step - 1), plan.lr(plan.stop_step - 3) > 0) == (0.0, True)
    assert more.plan.learning_rate == rate
    assert not [note for stage in (trunk, decay) for note in stage.notes if "inside the decay" in note]


def test_a_decay_that_ends_before_its_stage_starts_is_refused(project: Project) -> None:
    """The stage starts at the first step boundary past 50B, and its decay counts from 50B."""
    planned(project, "{shape: constant, max: 4e-4}")
    path = project.root / "stages/two.yaml"
    start = -(-50 * 10**9 // STEP) * STEP
    path.write_text(VARIANT % f"{{shape: decay, min: 0, decay: {start - 50 * 10**9 + 1} tokens}}")
    assert compile_curriculum(Project(project.root), "two", "full").stages[1].plan.learning_rate.horizon == start + 1
    path.write_text(VARIANT % f"{{shape: decay, min: 0, decay: {start - 50 * 10**9} tokens}}")
    with pytest.raises(PlanError, match=f"the decay would end at {start:,} tokens, where its stage starts: {start:,}"):
        compile_curriculum(Project(project.root), "two", "full")


def test_a_fall_to_the_rate_where_it_starts_is_refused(project: Project) -> None:
    """A power of a half is at half its rate after four warm-ups."""
    power = "{shape: power, max: 8e-4, warmup: 10B, min: %s, decay: 10B, horizon: 50B}"
    assert rate_of(project, power % "3.9e-4").min == 3.9e-4
    with pytest.raises(PlanError, match="is not above its last"):
        rate_of(project, power % "4e-4")
    planned(project, "{shape: constant, max: 4e-4}")
    (project.root / "stages/two.yaml").write_text(VARIANT % "{shape: decay, min: 4e-4, decay: 20B}")
    with pytest.raises(PlanError, match="is not above its last"):
        compile_curriculum(Project(project.root), "two", "full")


def test_branch_writes_one_stage_in_which_the_rate_falls(project: Project) -> None:
    planned(project, "{shape: wsd, max: 4e-4, min: 4e-5, warmup: 2000 steps, horizon: 100B, decay: 10B}")
    change = Change(decay="20B", to="1e-5", shape="sqrt")
    made = branch(Project(project.root), parse_address("one@50B"), "annealed", change, "full")
    plan = made.compiled.stages[-1].plan
    assert [stage.name for stage in made.compiled.stages] == ["one/whole", "annealed/decay"]
    assert 0 <= plan.end - 70 * 10**9 < STEP
    assert (plan.learning_rate.at(plan.start), plan.lr(plan.stop_step - 1)) == (4e-4, 1e-5)
    assert plan.learning_rate.points[0].then == "sqrt"
    again = branch(Project(project.root), parse_address("one"), "longer", Change(decay="5000 steps"), "full")
    assert again.compiled.stages[-1].plan.steps in (4999, 5000)
    assert again.compiled.stages[-1].plan.learning_rate.min == 0


def test_a_schedule_that_ends_inside_its_last_fall_is_reported(project: Project) -> None:
    stage = planned(
        project, "{shape: points, points: [{at: 1B, rate: 4e-4}, {at: 90B, rate: 4e-4}, {at: 200B, rate: 0}]}"
    )
    assert "inside the decay from 90B to 200B" in stage.stages[-1].notes[-1]


SHAPES: dict[str, dict[str, Any]] = {
    "cosine": {"max": "4e-4", "min": "4e-5", "horizon": "1T"},
    "wsd": {"max": "4e-4", "min": "4e-5", "horizon": "1T", "decay": "1B"},
    "linear": {"max": "4e-4", "min": "4e-5", "horizon": "1T"},
    "constant": {"max": "4e-4"},
    "exponential": {"max": "4e-4", "min": "4e-5", "horizon": "1T"},
    "power": {"max": "4e-4", "warmup": "2000 steps", "horizon": "1T"},
    "wsd-s": {"max": "4e-4", "min": "4e-5", "cycles": ["50B", "1T"], "decay": "1B"},
    "points": {"points": [{"at": "1B", "rate": "4e-4"}]},
    "decay": {"min": "0", "decay": "1B"},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_needs_its_keys_and_takes_no_other(shape: str) -> None:
    from pydantic import ValidationError

    stated = {"shape": shape, **SHAPES[shape]}
    LearningRateEntry.model_validate(stated)
    for key in SHAPES[shape]:
        with pytest.raises((Refusal, ValidationError), match=f"lacks|needs|{key}"):
            LearningRateEntry.model_validate({k: v for k, v in stated.items() if k != key})
    for key in {"points", "cycles", "return", "exponent", "half_life"} - {*stated}:
        value: Any = [{"at": "1B", "rate": "1"}] if key == "points" else ["1B"] if key == "cycles" else "1B"
        if key == "exponent":
            value = "1"
        if (shape, key) in {("power", "exponent"), ("wsd-s", "return")}:
            continue
        with pytest.raises((Refusal, ValidationError)):
            LearningRateEntry.model_validate({**stated, key: value})
