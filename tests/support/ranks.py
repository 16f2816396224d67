"""Steps as the training loop takes them, in this process or, run as a script, as one rank of several.

python ranks.py FOLDER      under torchrun's environment variables; see `main`
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from small import Exchanges

from curriculum.artifacts.jobs import Machine
from curriculum.plan.learning_rate import LearningRate
from curriculum.plan.source import Segment, SourcePlan
from curriculum.plan.stage import MixturePhase, MixtureSegment, StagePlan
from curriculum.stream.batch import Batch
from runner.checkpoint import tensors as checkpoint_tensors
from runner.model.forward import losses
from runner.monitor.layer_norms import layer_norms
from runner.parallel import fsdp
from runner.parallel.build import build, draw_weights
from runner.parallel.ranks import Ranks, join_ranks, leave_ranks
from runner.train.optimizer import adamw
from runner.train.state import State
from runner.train.step import count, forward_backward, update

LENGTH, BATCH, STEPS = 16, 8, 4
MODEL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 101,  # divides by nothing: ranks hold different numbers of rows
    "max_position_embeddings": LENGTH,
}
OPTIMIZER: dict[str, Any] = {
    "name": "adamw",
    "betas": [0.9, 0.95],
    "eps": 1e-8,
    "weight_decay": 0.1,
    "decay": "all",
    "clip_norm": 0.5,
}


def small_plan(*, batch: int = BATCH, steps: int = STEPS, tied: bool = False) -> StagePlan:
    """One stage over two sources, three windows of prose to one of code."""
    windows = {"code": 40, "prose": 50}
    return StagePlan(
        seed=11,
        model={**MODEL, "tie_word_embeddings": tied},
        tokenizer={},
        optimizer=OPTIMIZER,
        learning_rate=LearningRate("constant", max=1e-2),
        sequence_length=LENGTH,
        batch_sequences=batch,
        first_step=0,
        steps=steps,
        start=0,
        sources={
            name: SourcePlan(dataset=name, segments=(Segment(first_item=0, pass_number=0, windows=count),))
            for name, count in windows.items()
        },
        blends=(MixturePhase(weights={"code": 1, "prose": 3}, base={}),),
        pieces=(MixtureSegment(first=0, blend=0, index=0),),
        read_before={},
    )


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How the steps are carried out; only `tied` and `bf16` change what is computed."""

    sharding: str
    bf16: bool = False
    activation_checkpointing: str = "none"
    reshard: str = "never"
    exchange: str = "last-micro-batch"
    tied: bool = False
    evaluates: bool = False


SETTINGS = {
    "full": Setting(sharding="full"),
    "none": Setting(sharding="none"),
    "hybrid": Setting(sharding="hybrid"),
    "auto": Setting(sharding="auto"),
    "tied weights": Setting(sharding="full", tied=True),
    "activation checkpointing": Setting(sharding="full", activation_checkpointing="full"),
    "resharded": Setting(sharding="full", reshard="after-forward", evaluates=True),
    "exchanged": Setting(sharding="full", exchange="every-micro-batch"),
    "copies, exchanged": Setting(sharding="none", reshard="after-forward", exchange="every-micro-batch"),
    "evaluations between": Setting(sharding="full", evaluates=True),
    "bf16": Setting(sharding="full", bf16=True),
}


def batch(plan: StagePlan, step: int, ranks: Ranks) -> Batch:
    """A rank's slots of a step of drawn tokens."""
    tokens = np.random.default_rng(step).integers(0, MODEL["vocab_size"], (plan.batch_sequences, LENGTH + 1))
    source = np.arange(plan.batch_sequences, dtype=np.int32) % 4 // 3
    share = plan.batch_sequences // ranks.size
    mine = slice(ranks.rank * share, (ranks.rank + 1) * share)
    return Batch(step, plan.lr(step), tokens[mine], source[mine], plan.names)


def run(setting: Setting, ranks: Ranks) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """STEPS clipped steps of accumulated micro-batches, then an evaluation: numbers, and whole tensors."""
    plan = small_plan(tied=setting.tied)
    machine = Machine(
        sharding=setting.sharding,
        precision="bf16" if setting.bf16 else "fp32",
        activation_checkpointing=setting.activation_checkpointing,
        reshard=setting.reshard,
        exchange=setting.exchange,
        compile=False,
    )
    model = build(plan, machine, ranks)
    draw_weights(model, plan.seed)
    optimizer = adamw(model, plan.optimizer)
    numbers: dict[str, Any] = {"losses": [], "norms": [], "evaluations": []}
    tensors = {}
    for step in range(STEPS):
        read = batch(plan, step, ranks)
        with Exchanges() as seen:
            slot_losses = forward_backward(model, read, 2, plan)
        numbers.setdefault("exchanges", dict(seen.counts))
        sums, _ = count(State(), read, slot_losses.numpy(), True, ranks)
        numbers["losses"].append(sums.tolist())
        if step == 0:
            tensors = {f"gradient of {name}": whole(p.grad) for name, p in model.named_parameters()}
        numbers["layer norms"] = layer_norms(model)()
        numbers["norms"].append(float(update(model, optimizer, plan, step, ranks)))
        if setting.evaluates:
            with torch.no_grad():
                numbers["evaluations"].append(float(losses(model, np.arange(34).reshape(2, 17)).sum()))
    fsdp.reshard(model)
    for name, parameter in model.named_parameters():
        tensors[name] = whole(parameter)
        for moment in checkpoint_tensors.MOMENTS:
            tensors[f"{moment} of {name}"] = whole(optimizer.state[parameter][moment])
    return numbers, tensors


def whole(tensor: torch.Tensor | None) -> torch.Tensor:
    assert tensor is not None
    gathered = tensor.full_tensor() if isinstance(tensor, torch.distributed.tensor.DTensor) else tensor
    return gathered.detach().clone()


def main(folder: Path) -> None:
    """Every setting; rank 0 leaves `<name>.safetensors` and one `numbers.json`."""
    torch.set_num_threads(1)
    ranks = join_ranks("cpu")
    numbers = {}
    for name, setting in SETTINGS.items():
        numbers[name], tensors = run(setting, ranks)
        if ranks.first:
            save_file(tensors, folder / f"{name}.safetensors")
    if ranks.first:
        (folder / "report.json").write_text(json.dumps(numbers))
    leave_ranks(ranks)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
