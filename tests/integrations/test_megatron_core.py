"""megatron-core's micro-batch schedule and rate scheduler; its GPT needs a GPU, and a training loop it has not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from megatron.core import parallel_state
from megatron.core.enums import ModelType
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.utils.data import DataLoader

from curriculum.integrations.torch import Batches, megatron
from curriculum.stream import Stream
from tests.integrations.witnessed import MICRO, Seen, loss, model, on_ranks, require_plan


class PlannedRate(OptimizerParamScheduler):
    """Counts consumed samples, as Megatron does."""

    def __init__(self, plan: Stream, optimizer: Any) -> None:
        self.plan = plan
        super().__init__(optimizer, 0.0, 1.0, 0.0, 0, plan.last_sample, "constant", 0.0, 0.0, 1, "constant")

    def get_lr(self, param_group: dict[str, Any]) -> float:
        return self.plan.lr(self.plan.step_of(min(self.num_steps, self.plan.last_sample - 1)))


def train(plan: Stream, path: Path, stop: int) -> Seen:
    """Steps up to `stop` on this rank, from the state at `path` if there is one."""
    torch.distributed.init_process_group("gloo")
    parallel_state.initialize_model_parallel()
    rank, world_size = parallel_state.get_data_parallel_rank(), parallel_state.get_data_parallel_world_size()
    network = model(plan)
    network.config = TransformerConfig(num_layers=1, hidden_size=8, num_attention_heads=1)
    network.set_input_tensor = lambda tensors: None
    network.model_type = ModelType.encoder_or_decoder
    optimizer = torch.optim.AdamW(network.parameters())
    rate = PlannedRate(plan, optimizer)
    if path.exists():
        state = torch.load(path)
        network.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        rate.load_state_dict(state["rate"])
    start, seen = plan.step_of(rate.num_steps), Seen()
    batches = Batches(plan, start, stop, rank=rank, world_size=world_size, micro_batch=MICRO, shape=megatron)
    items = iter(DataLoader(batches, batch_size=None))

    def forward(iterator: Iterator[dict[str, torch.Tensor]], network: Any) -> Any:
        batch = next(iterator)
        seen.read(step, batch["tokens"], optimizer.param_groups[0]["lr"])
        return network(batch["tokens"]), lambda logits: (loss(logits, batch["labels"]), {})

    for step in range(start, stop):
        optimizer.zero_grad()
        get_forward_backward_func()(
            forward_step_func=forward,
            data_iterator=items,
            model=network,
            num_microbatches=plan.batch_size(step) // (MICRO * world_size),
            seq_length=plan.sequence_length,
            micro_batch_size=MICRO,
        )
        optimizer.step()
        rate.step(plan.batch_size(step))
    if rank == 0:
        state = {"model": network.state_dict(), "optimizer": optimizer.state_dict(), "rate": rate.state_dict()}
        torch.save(state, path)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    return seen


def train_on_cpu(plan: Stream, path: Path, stop: int) -> Seen:
    """The schedule counts its tokens on a GPU."""
    zeros = torch.zeros

    def on_cpu(*sizes: Any, **options: Any) -> torch.Tensor:
        return zeros(*sizes, **{**options, "device": "cpu"})

    with mock.patch("torch.zeros", on_cpu):
        return train(plan, path, stop)


@pytest.mark.holds(
    "one run over all stages on two ranks, with its micro-batch schedule; stopped and resumed by samples"
)
def test_two_ranks_read_the_plan_also_after_a_stop(variant: Stream, tmp_path: Path) -> None:
    stop = variant.stages[1].first_step + 5
    parts = on_ranks(train_on_cpu, variant, tmp_path / "state.pt", stop)
    parts += on_ranks(train_on_cpu, variant, tmp_path / "state.pt", variant.last_step)
    require_plan(variant, range(variant.last_step), *parts)
