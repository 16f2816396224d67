"""Megatron-LM's flags and blends: scripts, files of arguments, YAML; phases, batches that grow, the learning rate."""

from __future__ import annotations

import math
import tempfile
from fractions import Fraction
from pathlib import Path

import pytest
from foreign_recipes import FIXTURES, converted, planned, steps
from hypothesis import given, settings, strategies as st

from curriculum.config.recipes.convert import read_recipe
from curriculum.errors import ConfigError

PHASES = ("megatron-phases.sh", "megatron-phase-1.json", "megatron-phase-2.json")
FLAGS = "--seq-length 64 --global-batch-size 16 --train-iters 300 --lr 3e-4"


def written(folder: Path, text: str, name: str = "run.sh") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.promise(
    "Recipes of nanotron, Megatron-LM, OLMo-core and TinyLlama become plans of exactly their steps, tokens and shares"
)
def test_phases_and_their_blends_become_stages_under_one_curve(tmp_path: Path) -> None:
    first, second = planned(tmp_path, *PHASES).stages
    batch = 3072 * 8192
    assert (first.plan.steps, second.plan.steps) == (800_000, 3_051_757_813 // 3072 - 800_000)
    assert first.plan.batch_tokens == second.plan.batch_tokens == batch
    assert first.shares == {"high": Fraction("0.62"), "medium": Fraction("0.2"), "code": Fraction("0.18")}
    assert second.shares == {name: Fraction(n, 11) for name, n in (("high", 5), ("code", 3), ("math", 3))}
    rate = first.plan.learning_rate
    assert (rate.warmup, rate.horizon, rate.decay) == tuple(n * 8192 for n in (24414063, 3048706055, 610351563))
    assert (rate.shape, rate.decay_shape, rate.max, rate.min) == ("wsd", "sqrt", 2.5e-4, 2.5e-6)


def test_a_script_that_builds_its_blend_line_by_line_is_read_without_being_run(tmp_path: Path) -> None:
    recipe, _ = converted(tmp_path, "megatron-one.sh")
    assert recipe.stages[0].length.text == "61_000 steps"
    weights = [weight.number() for weight in recipe.stages[0].blend.weights.values()]
    assert [str(weight) for weight in weights] == ["1442858730", "4697570389", "8670888578", "485412592.3"]
    assert any(line.endswith("${CHECKPOINT_ARGS}") for line in recipe.left_out)
    assert not any("run.log" in line for line in recipe.left_out)


@pytest.mark.parametrize(
    "text",
    [
        f"{FLAGS} --data-path 0.7 /d/web 0.3 /d/code",
        "--data-path 0.7 /d/web 0.3 /d/code --lr=3e-4 \\\n --train-iters=300 # steps\n"
        "--global-batch-size 16 --seq-length 64",
        "A=0.7\nDATA=(\n  $A /d/web   # first\n  0.3 /d/code\n)\nARGS=(--data-path ${DATA[@]})\n"
        'ARGS+=(--seq-length $((8 * 8)) --lr 3e-4)\nrun "${ARGS[@]}" --train-iters ${N:-300} --global-batch-size 16',
        'export DATA="0.7 /d/web \\\n  0.3 /d/code"\nif x; then\n  MORE+=" 1 /d/no"\nfi; go '
        f'{FLAGS} "--data-path $DATA" 2>&1',
        f"W='0.7'\ngo {FLAGS} --data-path $W /d/web\\\n   0.3 '/d/code' | tee log && echo --done",
    ],
    ids=["arguments", "other order", "arrays", "a condition beside", "quotes"],
)
def test_the_same_flags_are_read_from_any_spelling(text: str, tmp_path: Path) -> None:
    compiled = planned(tmp_path, written(tmp_path, text))
    assert steps(compiled) == [300]
    assert compiled.stages[0].plan.batch_tokens == 16 * 64
    assert compiled.stages[0].shares == {"web": Fraction(7, 10), "code": Fraction(3, 10)}


def test_yaml_with_flags_as_keys_and_a_blend_in_a_file_of_its_own(tmp_path: Path) -> None:
    text = "ENV_VARS: {A: 1}\nMODEL_ARGS:\n  --seq-length: 64\n  --global-batch-size: '16'\n  --train-samples: 4.8e3\n"
    flags = written(tmp_path, text + "  --bf16: true\n  --tiktoken-pattern: v2\n", "model_config.yaml")
    blend = written(tmp_path, "0.7 /d/web\n0.3 /d/code  # the rest\n", "blend.txt")
    assert steps(planned(tmp_path, flags, blend)) == [300]


@pytest.mark.promise(
    "Recipes of nanotron, Megatron-LM, OLMo-core and TinyLlama become plans of exactly their steps, tokens and shares"
)
@settings(max_examples=10, deadline=None)
@given(
    batches=st.lists(st.integers(4, 64), min_size=1, max_size=4),
    gaps=st.lists(st.integers(5000, 200_000), min_size=4, max_size=4),
)
def test_a_batch_grows_at_the_step_at_which_its_threshold_is_reached(batches: list[int], gaps: list[int]) -> None:
    """Held to the calculator of Megatron, which counts samples from step to step."""
    thresholds = [sum(gaps[:number]) for number in range(len(batches))]
    total = thresholds[-1] // 64 + 3000
    schedule = " ".join(f"{tokens}:{batch}" for tokens, batch in zip(thresholds, batches, strict=True))
    text = f"--seq-length 64 --train-samples {total} --data-path /d/web --step-batch-size-schedule '{schedule}'"
    counted = [0] * len(batches)
    read = 0
    while True:
        current = max(number for number, tokens in enumerate(thresholds) if read >= tokens // 64)
        if current == len(batches) - 1 and read + batches[current] > total:
            break
        counted[current] += 1
        read += batches[current]
    with tempfile.TemporaryDirectory() as folder:
        recipe = read_recipe([written(Path(folder), text)])
    assert [stage.length.text for stage in recipe.stages] == [f"{count:_} steps" for count in counted]
    assert [stage.batch.text for stage in recipe.stages] == [f"{batch} sequences" for batch in batches]
    assert math.prod(counted) > 0


@pytest.mark.parametrize(
    ("start", "increment", "ramp", "total"), [(4, 4, 1000, 5000), (8, 2, 333, 2000), (2, 7, 90, 999)]
)
def test_a_ramp_of_the_batch_is_one_stage_that_grows_at_megatron_s_steps(
    start: int, increment: int, ramp: int, total: int, tmp_path: Path
) -> None:
    flags = f"--rampup-batch-size {start} {increment} {ramp} --global-batch-size 16 --seq-length 64 --lr 3e-4"
    compiled = planned(tmp_path, written(tmp_path, f"{flags} --train-samples {total} --data-path /d/web"))
    (plan,) = [stage.plan for stage in compiled.stages]
    number, read, step = (16 - start) // increment, 0, 0
    while True:  # as RampupBatchsizeNumMicroBatchesCalculator updates
        current = 16 if read > ramp else start + int(read / (ramp / number)) * increment
        if read + current > total:
            break
        assert plan.batch_of(step) == current
        read, step = read + current, step + 1
    assert (plan.steps, plan.sequences) == (step, read)


@pytest.mark.parametrize(("swiglu", "inner"), [("--swiglu", 128), ("", 256)])
def test_a_model_without_an_inner_width_has_megatron_s(swiglu: str, inner: int, tmp_path: Path) -> None:
    flags = f"{FLAGS} --seed 1 --num-layers 4 --hidden-size 64 --num-attention-heads 4 --vocab-size 2048 {swiglu}"
    path = written(tmp_path, f"{flags} --data-path 0.7 /d/web 0.3 /d/code")
    model = read_recipe([path]).root["model"].text
    assert "hidden_size: 64" in model
    assert f"intermediate_size: {inner}" in model


def test_an_inverse_square_root_and_a_cosine_at_the_end_are_read(tmp_path: Path) -> None:
    power = f"{FLAGS} --data-path /d/web --lr-decay-style inverse-square-root --lr-warmup-iters 10"
    rate = planned(tmp_path / "a", written(tmp_path, power)).stages[0].plan.learning_rate
    assert rate.at(90 * 16 * 64) == pytest.approx(3e-4 / 3)
    fall = f"{FLAGS} --data-path /d/web --lr-decay-style WSD --lr-wsd-decay-style cosine --lr-wsd-decay-iters 100"
    rate = planned(tmp_path / "b", written(tmp_path, fall, "b.sh")).stages[0].plan.learning_rate
    assert (rate.decay_shape, rate.at(250 * 16 * 64)) == ("cosine", pytest.approx(1.5e-4))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--data-path /d/web /d/code", "must be weights and prefixes in turn"),
        ("--data-path 0.5 /d/web 0.5", "must be weights and prefixes in turn"),
        ("--data-path 0.5 /d/web x /d/code", "must be weights and prefixes in turn"),
        ("", "states no blend that is known"),
        ("--data-path $DATA", "holds `\\$DATA`, which this file does not set"),
        ("--data-path /d/web --lr 2e-4", "is given a second time, after `--lr 3e-4` in line 1"),
        ("--data-path /d/web --phase-transition-iterations 300", "makes 2 phases"),
        ("--data-path /d/web --rampup-batch-size 4 4", "has 2 numbers"),
        ("--data-path /d/web --rampup-batch-size 4 4 1000", "Megatron counts samples then"),
        ("--data-path /d/web --lr-decay-style inverse-square-root", "needs a warm-up"),
        ("--data-path /d/web --lr-decay-style WSD --lr-wsd-decay-iters 9", "of WSD|is the text `exponential`"),
        ("--data-path /d/web --lr-decay-style WSD", "of WSD needs"),
        ("--data-path /d/web --optimizer sgd", "is the text `sgd`"),
        ("--data-path /d/web --min-lr $LOW", "is `\\$LOW`, which this file does not set"),
        ("--data-path /d/web --lr-warmup-iters 400", "must fit before the end|rises for"),
    ],
)
def test_flags_that_say_too_little_or_something_else_are_refused(flags: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        read_recipe([written(tmp_path, f"{FLAGS} {flags}")])
    assert refused.value.place is not None
    assert refused.value.place.line == 1


@pytest.mark.parametrize("change", ['DATA="0.3 /d/b"', 'DATA+=" 0.3 /d/b"', "export DATA=/d/b"])
def test_a_blend_that_depends_on_a_condition_is_refused(change: str, tmp_path: Path) -> None:
    script = f'DATA="0.7 /d/web"\nif [ -n "$BIG" ]; then\n  {change}\nfi\ngo {FLAGS} --data-path $DATA\n'
    with pytest.raises(ConfigError, match="holds `\\$DATA`, which this file does not set unconditionally") as refused:
        read_recipe([written(tmp_path, script)])
    assert refused.value.place is not None
    assert refused.value.place.line == 1 or refused.value.place.line == 5


def test_flags_that_a_condition_adds_are_listed(tmp_path: Path) -> None:
    script = f"ARGS=({FLAGS} --data-path /d/web)\nif x; then\n  ARGS+=(--fp8-format hybrid)\nfi\ngo ${{ARGS[@]}}\n"
    assert any("run.sh:3 ARGS=" in line for line in read_recipe([written(tmp_path, script)]).left_out)


def test_launches_of_two_runs_and_phases_after_the_end_are_refused(tmp_path: Path) -> None:
    flags = f"{FLAGS} --phase-transition-iterations 200,250 --data-path /d/web"
    one = written(tmp_path, flags, "1.sh")
    other = written(tmp_path, flags.replace("--lr 3e-4", "--lr 2e-4"), "2.sh")
    with pytest.raises(ConfigError, match="but the text `3e-4` in"):
        read_recipe([one, one, other])
    assert [stage.length.text for stage in read_recipe([one, one, one]).stages] == ["200 steps", "50 steps", "50 steps"]
    late = written(tmp_path, flags.replace("200,250", "300"))
    with pytest.raises(ConfigError, match="begin at iteration 300, but training ends at 300"):
        read_recipe([late, late])
    with pytest.raises(ConfigError, match="nothing says how long each phase is"):
        read_recipe([FIXTURES / name for name in PHASES[1:]])
    with pytest.raises(ConfigError, match="of nanotron and Megatron-LM: they cannot be one run"):
        read_recipe([one, FIXTURES / "smollm3-1.yaml"])
