"""nanotron's stages: SmolLM3's released figures, random configurations, the learning rate, and what is refused."""

from __future__ import annotations

import json
import tempfile
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from foreign_recipes import FIXTURES, converted, planned, steps
from hypothesis import given, settings, strategies as st

from curriculum.config.recipes.convert import read_recipe
from curriculum.errors import ConfigError
from curriculum.plan.model import ModelConfig

SMOLLM3 = ("smollm3-1.yaml", "smollm3-2.yaml", "smollm3-3.yaml")


@pytest.mark.promise(
    "Recipes of nanotron, Megatron-LM, OLMo-core and TinyLlama become plans of exactly their steps, tokens and shares"
)
@pytest.mark.parametrize("files", [SMOLLM3, SMOLLM3[::-1], SMOLLM3[2:]], ids=["in order", "reversed", "the last alone"])
def test_smollm3s_released_files_give_the_published_steps_tokens_and_curve(
    files: tuple[str, ...], tmp_path: Path
) -> None:
    stages = planned(tmp_path, *files).stages
    assert [stage.plan.steps for stage in stages] == [3_450_000, 748_000, 522_000]
    assert {stage.plan.batch_sequences for stage in stages} == {576}
    assert stages[-1].plan.end == 11_135_877_120_000
    assert ModelConfig.from_json(stages[0].plan.model).parameters == 3_075_098_624
    assert stages[0].shares["fineweb-edu"] == Fraction("0.333")
    assert stages[1].shares["dclm"] == Fraction("0.33") / Fraction("1.00005")
    assert stages[2].shares["dclm"] == Fraction("0.3") / Fraction("1.00565")
    assert [len(stage.shares) for stage in stages] == [41, 46, 56]
    rate = stages[-1].plan.learning_rate
    assert rate.at(stages[1].plan.end) == 2e-4
    assert rate.at(stages[2].plan.start + 261_000 * 2_359_296) == pytest.approx(1e-4)
    assert rate.at(stages[-1].plan.end) == 0


def test_smollm3s_files_are_distinguished_where_the_second_states_another_end(tmp_path: Path) -> None:
    recipe, _ = converted(tmp_path, *SMOLLM3)
    assert any("train_steps: 4000000, where smollm3-3.yaml:" in note for note in recipe.notes)
    assert any("add up to 1.00565" in note for note in recipe.notes)
    assert any(line.endswith("no_rope_layer: 4") for line in recipe.left_out)
    assert any("weight_decay_exclude_named_params" in line for line in recipe.left_out)


def configuration(stages: list[dict[str, Any]], train_steps: int, **others: Any) -> dict[str, Any]:
    """A configuration as nanotron reads it, of a small model."""
    return {
        "data_stages": stages,
        "model": {
            "model_config": {
                "hidden_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "intermediate_size": 128,
                "vocab_size": 256,
                "rope_theta": 10000,
            }
        },
        "optimizer": {
            "learning_rate_scheduler": {"learning_rate": 3e-4, "lr_warmup_steps": 2, "min_decay_lr": 0}
            | others.get("scheduler", {}),
            "optimizer_factory": {"name": "adamW", "adam_beta1": 0.9, "adam_beta2": 0.95, "adam_eps": 1e-8},
            "weight_decay": 0.1,
        },
        "parallelism": {"dp": others.get("dp", 4)},
        "tokens": {
            "micro_batch_size": others.get("micro", 2),
            "batch_accumulation_per_replica": others.get("accumulation", 1),
            "sequence_length": others.get("sequence_length", 64),
            "train_steps": train_steps,
        },
    }


def stage(start: int, name: str = "main", **dataset: Any) -> dict[str, Any]:
    return {"name": name, "start_training_step": start, "data": {"dataset": dataset or {"dataset_folder": "/data/a"}}}


def written(folder: Path, config: dict[str, Any]) -> Path:
    """The file of a configuration; JSON is YAML."""
    path = folder / "config.yaml"
    path.write_text(json.dumps(config, indent=1))
    return path


@pytest.mark.promise(
    "Recipes of nanotron, Megatron-LM, OLMo-core and TinyLlama become plans of exactly their steps, tokens and shares"
)
@settings(max_examples=10, deadline=None)
@given(
    lengths=st.lists(st.integers(60, 10**6), min_size=1, max_size=4),
    weights=st.lists(st.lists(st.integers(500, 9999), min_size=5, max_size=5), min_size=4, max_size=4),
    parts=st.tuples(st.integers(4, 9), st.integers(4, 9), st.integers(1, 3)),
    length=st.sampled_from([64, 4096]),
    data=st.data(),
)
def test_any_stages_become_a_plan_of_their_steps_tokens_and_shares(
    lengths: list[int], weights: list[list[int]], parts: tuple[int, int, int], length: int, data: st.DataObject
) -> None:
    """Weights with up to four decimals and any sum; folders in any order; numbers also in quotes."""
    stages, start = [], 1
    chosen: list[dict[str, int]] = []
    for number, own in enumerate(lengths):
        folders = data.draw(st.permutations(["/data/web", "/data/code/", "s3://b/math/standard", "x/web", "wiki"]))
        chosen.append(dict(zip(folders, weights[number], strict=True)))
        spelled = [str(Decimal(w) / 10000) if w % 2 else w / 10000 for w in weights[number]]
        stages.append(stage(start, f"stage {number}", dataset_folder=folders, dataset_weights=spelled))
        start += own
    micro, dp, accumulation = parts
    config = configuration(
        stages, start - 1, micro=micro, dp=str(dp), accumulation=accumulation, sequence_length=length
    )
    with tempfile.TemporaryDirectory() as folder:
        compiled = planned(Path(folder), written(Path(folder), config))
    assert steps(compiled) == lengths
    assert compiled.stages[-1].plan.end == (start - 1) * micro * dp * accumulation * length
    names = {"/data/web": "data-web", "/data/code/": "code", "s3://b/math/standard": "standard", "x/web": "x-web"}
    for planned_stage, own_weights in zip(compiled.stages, chosen, strict=True):
        total = sum(own_weights.values())
        expected = {names.get(path, path): Fraction(weight, total) for path, weight in own_weights.items()}
        assert planned_stage.shares == expected


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        ({"lr_decay_style": "cosine", "lr_decay_steps": 198}, ("cosine", 200, None)),
        ({"lr_decay_style": "linear", "lr_decay_steps": None}, ("linear", 200, None)),
        ({"lr_decay_style": "linear", "lr_decay_starting_step": 150, "lr_decay_steps": 50}, ("wsd", 200, "linear")),
        ({"lr_decay_style": "cosine", "lr_decay_starting_step": 150, "lr_decay_steps": 50}, ("wsd", 200, "cosine")),
        ({"lr_decay_style": "1-sqrt", "lr_decay_starting_step": 101, "lr_decay_steps": 100}, ("wsd", 200, "sqrt")),
        ({"lr_decay_steps": 0}, ("constant", 0, None)),
    ],
)
def test_the_learning_rate_rises_holds_and_falls_as_in_nanotron(
    scheduler: dict[str, Any], expected: tuple[str, int, str | None], tmp_path: Path
) -> None:
    stages = [stage(1, "a"), stage(101, "b", dataset_folder="/data/b")]
    rate = planned(tmp_path, written(tmp_path, configuration(stages, 200, scheduler=scheduler))).stages[0].plan
    shape, horizon, fall = expected
    curve = rate.learning_rate
    assert (curve.shape, curve.horizon) == (shape, horizon * 8 * 64)
    assert curve.warmup == 2 * 8 * 64
    assert fall is None or (curve.decay_shape, curve.falls_from) == (fall, (100 if fall == "sqrt" else 150) * 8 * 64)


def test_older_forms_of_a_data_set_are_read(tmp_path: Path) -> None:
    stages = [
        stage(1, "one", dataset_path="datasets/a.npy"),
        stage(15, "blend", dataset_path={"datasets/a.npy": 0.8, "datasets/b.npy": 0.2}),
        stage(25, "hub", hf_dataset_or_datasets="HuggingFaceH4/testing_alpaca_small", text_column_name="completion"),
    ]
    compiled = planned(tmp_path, written(tmp_path, configuration(stages, 200)))
    assert steps(compiled) == [14, 10, 176]
    assert compiled.stages[1].shares == {"a.npy": Fraction(4, 5), "b.npy": Fraction(1, 5)}
    assert "hub: HuggingFaceH4/testing_alpaca_small, text: completion" in (tmp_path / "sources.yaml").read_text()


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([stage(5)], "is 5 in the first stage: what is read before it is not known"),
        ([stage(1), stage(1, "again")], "as another stage or blend does"),
        ([stage(1, dataset_folder=["/a", "/b"], dataset_weights=[0.5])], "must be a list of 2 numbers"),
        ([stage(1, nothing=None)], "names no folder of tokens and no dataset of the hub"),
        ([stage(1, dataset_folder=["/a", "/b"], dataset_weights=[0.5, "x"])], "must be a number from 0 up"),
        ([{"name": "a", "start_training_step": 1}], "a stage lacks `dataset`"),
    ],
)
def test_stages_that_are_not_known_are_refused(stages: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        read_recipe([written(tmp_path, configuration(stages, 200))])
    assert refused.value.place is not None


def test_files_of_two_runs_are_refused(tmp_path: Path) -> None:
    text = (FIXTURES / SMOLLM3[1]).read_text()
    other = tmp_path / "other.yaml"
    for old, new, message in (
        ("- 0.30\n", "- 0.31\n", "as another stage or blend does at"),
        ("sequence_length: 4096", "sequence_length: 8192", "but the number 8192 in"),
        ("dp: 192", "dp: 96", "but the number 96 in"),
    ):
        assert text.count(old) == 1
        other.write_text(text.replace(old, new))
        with pytest.raises(ConfigError, match=message):
            read_recipe([FIXTURES / SMOLLM3[0], other, FIXTURES / SMOLLM3[2]])
