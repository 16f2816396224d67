"""Models by name or by numbers, from a stage file to the plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from curriculum.compiler.compile import compile_curriculum
from curriculum.config.model_catalogue import CATALOGUE
from curriculum.config.project import Project
from curriculum.errors import ConfigError

INLINE = (
    "{hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2,\n"
    "        intermediate_size: 64, vocab_size: 300"
)


def planned(project: Path, old: str, new: str) -> dict[str, object]:
    path = project / "stages/trunk.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return dict(compile_curriculum(Project(project), "trunk", "full").stages[0].plan.model)


def test_head_size_and_scaled_rotations_reach_the_plan_as_plain_numbers(small_project: Path) -> None:
    scaling = "rope_scaling: {factor: 8, original_max_position_embeddings: 16}"
    model = planned(small_project, INLINE, f"{INLINE}, head_dim: 12, {scaling}")
    assert model["head_dim"] == 12
    assert model["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }


def test_what_a_model_does_not_say_is_not_in_its_plan(small_project: Path) -> None:
    model = planned(small_project, INLINE, INLINE)
    assert not {"head_dim", "rope_scaling"} & model.keys()


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_model_of_the_catalogue_can_be_planned_by_its_name(small_project: Path, name: str) -> None:
    model = planned(small_project, INLINE + "}", name)
    assert model["max_position_embeddings"] == 32
    assert model["hidden_size"] == CATALOGUE[name]["hidden_size"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("head_dim: 7", r"head_dim.* of 7 is odd"),
        ("rope_scaling: {factor: 8}", "lacks `original_max_position_embeddings`"),
        (
            "rope_scaling: {factor: 8, low_freq_factor: 4, original_max_position_embeddings: 16}",
            r"low_freq_factor.* must be below",
        ),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(small_project: Path, more: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        planned(small_project, INLINE, f"{INLINE}, {more}")
