"""A stage file in parts, and what a model makes of YAML."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from curriculum.config import validate
from curriculum.config.yaml import parse_yaml
from curriculum.errors import ConfigError

CURVE = "learning_rate: {shape: cosine, max: 4e-4, min: 4e-5, warmup: 2000 steps, horizon: 2T}\n"
HEAD = "seed: 1\nmodel: tinyllama-1.1b\ntokenizer: t\nsequence_length: 8\noptimizer: {weight_decay: 0.1}\n" + CURVE
STAGES = "stages:\n  - {name: a, until: 1T, mixture: m, batch: 8 sequences}\n"
NUMBERS = (
    "{hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, "
    "intermediate_size: 96, vocab_size: 257}"
)


def given_yaml(model: type[BaseModel], text: str) -> Any:
    return validate(model, parse_yaml(text.encode(), "f.yaml"))


def refusal(model: type[BaseModel], text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        given_yaml(model, text)
    return caught.value
