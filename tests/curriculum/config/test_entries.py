"""What may be written in each file: values as people mean them."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction

import pytest
from entries import HEAD, NUMBERS, STAGES, given_yaml
from hypothesis import given, strategies as st
from shipped import shipped

from curriculum.config import MODELS, CurriculumFile, MachinesFile, MixtureFile, SourcesFile, entry, is_name
from curriculum.config.model_catalogue import CATALOGUE
from curriculum.config.optimizer import OptimizerEntry
from curriculum.units import Length, parse_fraction


def test_weights_are_the_exact_numbers_that_were_written() -> None:
    weights = given_yaml(MixtureFile, "weights: {a: 0.1, c: 3, d: 1e-30, e: 0}").weights
    assert weights == {"a": Fraction(1, 10), "c": Fraction(3), "d": Fraction(1, 10**30), "e": Fraction(0)}
    percent = given_yaml(MixtureFile, "weights: {a: 0.1%, b: 99.9%}").weights
    assert percent == {"a": Fraction(1, 1000), "b": Fraction(999, 1000)}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("until: 1.5T", Length(1_500_000_000_000, "tokens")),
        ("until: 1_835_008", Length(1_835_008, "tokens")),
        ("until: 1.5e12", Length(1_500_000_000_000, "tokens")),
        ("until: 010", Length(10, "tokens")),
        ("tokens: 6B tokens", Length(6_000_000_000, "tokens")),
        ("tokens: 300 steps", Length(300, "steps")),
        ("tokens: 1 sequence", Length(1, "sequences")),
    ],
)
def test_a_stage_s_end_is_read_as_people_mean_it(written: str, meant: Length) -> None:
    stage = given_yaml(CurriculumFile, HEAD + STAGES.replace("until: 1T", written)).stages[0]
    assert (stage.until or stage.tokens) == meant


def test_a_model_is_a_name_of_the_catalogue_or_its_numbers() -> None:
    assert given_yaml(CurriculumFile, HEAD + STAGES).model == "tinyllama-1.1b"
    model = given_yaml(CurriculumFile, HEAD.replace("tinyllama-1.1b", NUMBERS) + STAGES).model
    assert (model.hidden_size, model.rms_norm_eps, model.rope_theta) == (64, Fraction(1, 10**5), 10_000)


def test_a_model_s_switches_are_in_its_dump_where_they_are_stated_alone() -> None:
    switches = "attention_bias: qkv, qk_norm: head, no_rope: every 4th, full_attention: [1, 0], sliding_window: 8"
    numbers = NUMBERS.removesuffix("}") + f", num_hidden_layers: 4, {switches}}}"
    numbers = numbers.replace("num_hidden_layers: 2, ", "")
    model = given_yaml(CurriculumFile, HEAD.replace("tinyllama-1.1b", numbers) + STAGES).model
    dump = json.loads(json.dumps(model.model_dump(exclude_none=True)))
    assert (dump["no_rope"], dump["full_attention"], dump["attention_bias"]) == (4, [0, 1], "qkv")
    plain = given_yaml(CurriculumFile, HEAD.replace("tinyllama-1.1b", NUMBERS) + STAGES).model
    assert plain.model_dump(exclude_none=True).keys() == {
        *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size"),
        *("vocab_size", "rms_norm_eps", "rope_theta", "tie_word_embeddings"),
    }, "a plan without switches has the fingerprint that it always had"


@pytest.mark.parametrize(
    ("scaling", "keys"),
    [
        ("{factor: 8, original_max_position_embeddings: 16}", {"low_freq_factor", "high_freq_factor"}),
        ("{rope_type: yarn, factor: 8, original_max_position_embeddings: 16}", set()),
        ("{rope_type: yarn, factor: 8, original_max_position_embeddings: 16, beta_fast: 16}", {"beta_fast"}),
        ("{rope_type: linear, factor: 8}", set()),
    ],
)
def test_each_way_to_stretch_rotations_has_its_own_keys(scaling: str, keys: set[str]) -> None:
    numbers = NUMBERS.removesuffix("}") + f", rope_scaling: {scaling}}}"
    model = given_yaml(CurriculumFile, HEAD.replace("tinyllama-1.1b", numbers) + STAGES).model
    stated = model.model_dump(exclude_none=True)["rope_scaling"].keys()
    assert stated - {"rope_type", "factor", "original_max_position_embeddings"} == keys


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("tinyllama-1.1b", 1_100_048_384), ("smollm2-135m", 134_515_008), ("llama-2-7b", 6_738_415_616)],
)
def test_a_model_of_the_catalogue_has_its_published_size(name: str, parameters: int) -> None:
    m = MODELS[name]
    head = m.hidden_size // m.num_attention_heads
    block = (
        2 * m.hidden_size * m.hidden_size  # query and output
        + 2 * m.hidden_size * head * m.num_key_value_heads
        + 3 * m.hidden_size * m.intermediate_size
        + 2 * m.hidden_size  # the two norms
    )
    tables = m.vocab_size * m.hidden_size * (1 if m.tie_word_embeddings else 2)
    assert m.num_hidden_layers * block + tables + m.hidden_size == parameters
    assert name in CATALOGUE


def test_a_dump_of_a_model_is_plain_numbers() -> None:
    dump = MODELS["tinyllama-1.1b"].model_dump()
    assert (dump["rms_norm_eps"], dump["rope_theta"]) == (1e-5, 10000.0)
    assert json.loads(json.dumps(dump)) == dump


@given(st.integers(1, 10**9), st.integers(0, 9))
def test_a_held_out_share_comes_back_exactly(digits: int, places: int) -> None:
    written = Decimal(digits).scaleb(-places - 2)
    if not 0 < written <= Decimal("0.5"):
        written = Decimal("0.05")
    text = f"sources: {{a: {{read: {{folder: x}}, held_out: {written:f}}}}}"
    source = given_yaml(SourcesFile, text).sources["a"]
    assert parse_fraction(source.held_out_options()["share"]) == Fraction(written)


@pytest.mark.parametrize(
    ("written", "processes"),
    [
        ("{}", 1),
        ("{gpus_per_node: 8}", 1),
        ("{launcher: torchrun, gpus_per_node: 8}", 8),
        ("{launcher: slurm, nodes: 2, gpus_per_node: 4}", 4),
        ("{launcher: torchrun, gpus_per_node: 8, processes: 2}", 2),
        ("{launcher: torchrun, processes: 2}", 2),
        ("{launcher: torchrun}", 1),
    ],
)
def test_a_machine_runs_a_process_for_each_gpu_unless_it_says_otherwise(written: str, processes: int) -> None:
    assert given_yaml(MachinesFile, f"m: {written}").root["m"].processes == processes


def test_outliers_are_skipped_on_request_only_and_a_plan_without_it_has_no_key_of_it() -> None:
    plain = OptimizerEntry.model_validate({"weight_decay": "0.1"})
    assert "skip_outliers" not in plain.model_dump(exclude_none=True)
    asked = OptimizerEntry.model_validate({"weight_decay": "0.1", "skip_outliers": {}})
    assert asked.model_dump(exclude_none=True)["skip_outliers"] == {"window": 128, "deviations": 6.0}


def test_compile_is_true_false_or_left_to_the_program() -> None:
    machines = given_yaml(MachinesFile, "a: {compile: auto}\nb: {compile: true}\nc: {compile: false}\nd: {}")
    assert [m.compile for m in machines.root.values()] == [None, True, False, None]


def test_what_was_read_cannot_be_changed() -> None:
    file = shipped("stages/v1.1.yaml")
    with pytest.raises(ValueError, match="frozen"):
        file.seed = 1


@pytest.mark.parametrize("name", ["a", "v1.1", "v1.1-math-code", "a100-40g-16x4", "a" * 64])
def test_a_name_is_short_plain_and_no_path(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize(
    "name", ["", "A", "1a", "-a", ".a", "a/b", "a..b", "..", "a b", "a_b", "a\n", "é", "a" * 65, 3, None]
)
def test_what_could_be_a_path_or_be_mistaken_is_no_name(name: object) -> None:
    assert not is_name(name)


def test_every_key_is_described_for_the_reference() -> None:
    for model in entry.Entry.__subclasses__():
        assert model.__doc__, model
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
            assert field.description.endswith("."), f"{model.__name__}.{name}"
