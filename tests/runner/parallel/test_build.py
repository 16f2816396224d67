"""The model as it is built: sharded before it has memory, drawn only where nothing is loaded."""

from __future__ import annotations

import pytest
import ranks as steps
import torch
from small import ALONE

from curriculum.artifacts.jobs import Machine
from curriculum.plan.model import ModelConfig
from runner.model.init import initialise
from runner.model.transformer import Transformer
from runner.parallel import fsdp
from runner.parallel.build import build, draw_weights

MACHINE = Machine(precision="fp32", compile=False)


@pytest.mark.promise("No rank ever holds the whole model, and a resume draws nothing")
@pytest.mark.parametrize("tied", [False, True])
def test_a_model_has_no_memory_before_it_is_sharded_and_then_the_weights_of_the_seed(
    tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = steps.small_plan(tied=tied)
    seen: list[bool] = []
    apply = fsdp.apply

    def spied(model: Transformer, *arguments: object, **options: object) -> None:
        seen.append(all(parameter.is_meta for parameter in model.parameters()))
        apply(model, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(fsdp, "apply", spied)
    model = build(plan, MACHINE, ALONE)
    draw_weights(model, plan.seed)
    expected = Transformer(ModelConfig.from_json(plan.model))
    initialise(expected, plan.seed)
    assert seen == [True]
    assert (model.head.weight is model.embedding.weight) is tied
    assert dict(model.named_parameters()).keys() == dict(expected.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, expected.get_parameter(name)), name
