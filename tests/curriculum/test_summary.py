"""What the plan tells about a model is what the model is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from curriculum import summary
from curriculum.models import CATALOGUE
from runner.model import ModelConfig, parameter_count

SMALL = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 100,
    "vocab_size": 301,
}


@pytest.mark.parametrize(
    "model",
    [*CATALOGUE.values(), SMALL, {**SMALL, "tie_word_embeddings": True}],
    ids=[*CATALOGUE, "small", "small and tied"],
)
def test_the_parameters_counted_by_arithmetic_are_those_of_the_built_model(model: Mapping[str, Any]) -> None:
    numbers = {**model, "rms_norm_eps": float(model.get("rms_norm_eps", 1e-5)), "max_position_embeddings": 8}
    assert summary.parameters(model) == parameter_count(ModelConfig.from_json(numbers))


@pytest.mark.parametrize(
    ("name", "count"),
    [("tinyllama-1.1b", 1_100_048_384), ("smollm2-135m", 134_515_008), ("llama-2-7b", 6_738_415_616)],
)
def test_models_of_the_catalogue_have_their_published_number_of_parameters(name: str, count: int) -> None:
    assert summary.parameters(CATALOGUE[name]) == count
