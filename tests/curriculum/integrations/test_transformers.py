"""transformers' Trainer on a plan, token for token, across a stage's boundary, stopped and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback, TrainingArguments

import curriculum
from curriculum import stream
from curriculum.errors import PlanError
from curriculum.integrations.transformers import PlannedTrainer, planned_arguments
from curriculum.stream import Stream

MICRO = 4


@pytest.fixture(scope="module")
def variant(finished: Path) -> Stream:
    return curriculum.open(finished).stream("variant")


def tiny() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=300,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=32,
        )
    )


class Watching(PlannedTrainer):
    """It keeps the witness and the rate of every step."""

    seen: dict[int, int]
    rates: dict[int, float]

    def training_step(self, model: Any, inputs: dict[str, torch.Tensor], *more: Any) -> torch.Tensor:
        step = self.state.global_step
        self.seen[step] = (self.seen.get(step, 0) + stream.witness(inputs["input_ids"].numpy())) % 2**64
        self.rates[step] = self.optimizer.param_groups[0]["lr"]
        return super().training_step(model, inputs, *more)


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        control.should_save = control.should_training_stop = state.global_step == self.step
        return control


def trainer(stage: Stream, folder: Path, *callbacks: TrainerCallback, **more: Any) -> Watching:
    options = {**planned_arguments(stage, micro_batch=MICRO), "save_steps": stage.last_step, **more}
    arguments = TrainingArguments(str(folder), use_cpu=True, report_to=[], logging_steps=1000, **options)
    made = Watching(tiny(), arguments, stream=stage, callbacks=list(callbacks))
    made.seen, made.rates = {}, {}
    return made


@pytest.mark.promise("transformers' Trainer reads the plan's tokens at its rates, stopped and resumed across stages")
def test_trainers_of_successive_stages_read_the_plan_also_after_a_stop(variant: Stream, tmp_path: Path) -> None:
    basic, continual = variant.stage("basic"), variant.stage("continual")
    first = trainer(basic, tmp_path / "basic")
    first.train()
    stop = continual.first_step + 5
    second = trainer(continual, tmp_path / "continual", StopAt(stop))
    second.train(str(tmp_path / f"basic/checkpoint-{basic.last_step}"))
    assert max(second.seen) == stop - 1
    third = trainer(continual, tmp_path / "continual")
    third.train(resume_from_checkpoint=True)
    assert min(third.seen) == stop
    steps = range(continual.last_step)
    seen, rates = first.seen | second.seen | third.seen, first.rates | second.rates | third.rates
    assert [seen[step] for step in steps] == [variant.witness(step) for step in steps]
    assert [rates[step] for step in steps] == [variant.lr(step) for step in steps]


def test_the_trainer_s_loss_is_over_every_target(variant: Stream, tmp_path: Path) -> None:
    stage = variant.stage("basic")
    made = trainer(stage, tmp_path)
    inputs = next(iter(made.get_train_dataloader()))
    logits = made.model(input_ids=inputs["input_ids"]).logits
    targets = torch.from_numpy(stage.batch(0).targets[:MICRO])
    wanted = torch.nn.functional.cross_entropy(logits.reshape(-1, 300), targets.reshape(-1))
    assert made.compute_loss(made.model, inputs).item() == pytest.approx(wanted.item(), rel=1e-6)


def test_arguments_that_are_not_the_plan_s_are_refused_by_name(variant: Stream, tmp_path: Path) -> None:
    stage = variant.stage("basic")
    for name, value in (("max_steps", 7), ("gradient_accumulation_steps", 3), ("ignore_data_skip", False)):
        with pytest.raises(PlanError, match=f"`{name}` is {value}"):
            trainer(stage, tmp_path, **{name: value})
    with pytest.raises(PlanError, match="one Trainer has one"):
        planned_arguments(variant, micro_batch=4)


def test_a_stage_is_not_started_from_another_step_than_its_first(variant: Stream, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="would start at step 0"):
        trainer(variant.stage("continual"), tmp_path).train()
