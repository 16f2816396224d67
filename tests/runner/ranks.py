"""One rank of a small training run through the real model, sharding, loss and optimizer: `python ranks.py FOLDER`.

The tests compare what several ranks leave in FOLDER with what the same steps give in one process.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from curriculum import durable
from curriculum.plan import Blend, Piece, Segment, SourcePlan, StagePlan
from curriculum.schedule import LearningRate
from runner import checkpoint, data, distributed, optim, sharding
from runner.distributed import Ranks
from runner.model import Llama, ModelConfig, initialise
from runner.train import forward_backward, losses

LENGTH = 16
BATCH = 8
NUMBERS: dict[str, Any] = {
    "name": "adamw",
    "betas": [0.9, 0.95],
    "eps": 1e-8,
    "weight_decay": 0.1,
    "decay": "all",
    "clip_norm": 0.5,
}
MODEL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 101,  # divides by nothing: shards are uneven
    "max_position_embeddings": LENGTH,
}


def small_plan(*, steps: int = 8, batch: int = BATCH, model: Mapping[str, Any] = MODEL) -> StagePlan:
    """A plan of one stage over two sources, 3 to 1."""
    source = {
        name: SourcePlan(dataset=name, segments=(Segment(first_item=0, pass_number=0, windows=windows),))
        for name, windows in (("code", 40), ("prose", 50))
    }
    return StagePlan(
        seed=11,
        model=model,
        tokenizer={},
        optimizer=NUMBERS,
        learning_rate=LearningRate("constant", max=1e-2),
        sequence_length=LENGTH,
        batch_sequences=batch,
        first_step=0,
        steps=steps,
        start=0,
        sources=source,
        blends=(Blend(weights={"code": 1, "prose": 3}, base={}),),
        pieces=(Piece(first=0, blend=0, index=0),),
        read_before={},
    )


def one_rank() -> Ranks:
    return Ranks(0, 1, 1, torch.device("cpu"))


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a run is carried out; `tied` alone changes what is trained."""

    sharding: str = "auto"
    bf16: bool = False
    activation_checkpointing: str = "none"
    tied: bool = False
    micro: int = 2
    evaluate: bool = False
    sum_reduction: bool = True


SETTINGS = {
    "full": Setting(sharding="full"),
    "none": Setting(sharding="none"),
    "hybrid": Setting(sharding="hybrid"),
    "auto": Setting(sharding="auto"),
    "tied": Setting(sharding="full", tied=True),
    "wrapped": Setting(sharding="full", activation_checkpointing="full"),
    "evaluating": Setting(sharding="full", evaluate=True),
    "bf16": Setting(sharding="full", bf16=True),
}


@dataclass
class Run:
    """A model in training and what it gave so far."""

    setting: Setting
    ranks: Ranks
    model: Llama = field(init=False)
    optimizer: torch.optim.AdamW = field(init=False)
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.plan = small_plan(model={**MODEL, "tie_word_embeddings": self.setting.tied})
        self.model = Llama(ModelConfig.from_json(self.plan.model))
        initialise(self.model, self.plan.seed)
        sharding.apply(
            self.model,
            self.ranks,
            sharding=self.setting.sharding,
            bf16=self.setting.bf16,
            activation_checkpointing=self.setting.activation_checkpointing,
            compile_blocks=False,
        )
        self.optimizer = optim.adamw(self.model, NUMBERS)

    def batch(self, step: int) -> data.Batch:
        """This rank's slots of a step of drawn tokens."""
        draw = np.random.default_rng(step)
        tokens = draw.integers(0, MODEL["vocab_size"], (BATCH, LENGTH + 1))
        source = np.arange(BATCH, dtype=np.int32) % 2
        share = BATCH // self.ranks.size
        mine = slice(self.ranks.rank * share, (self.ranks.rank + 1) * share)
        return data.Batch(step, tokens[mine], source[mine], ("code", "prose"))

    def gradients(self, step: int) -> dict[str, torch.Tensor]:
        """The whole gradient of one step, before clipping."""
        forward_backward(self.model, self.batch(step), self.setting.micro, self.plan, self.ranks)
        grads = {f"grad.{name}": whole(p.grad) for name, p in self.named() if p.grad is not None}
        self.optimizer.zero_grad()
        return grads

    def steps(self, first: int, last: int) -> None:
        for step in range(first, last):
            sums = forward_backward(self.model, self.batch(step), self.setting.micro, self.plan, self.ranks)
            self.losses.append(float(sums.sum()) / self.plan.batch_tokens)
            self.norms.append(optim.clip(self.model, NUMBERS["clip_norm"]))
            optim.set_learning_rate(self.optimizer, self.plan.lr(step))
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.setting.evaluate:
                self.model.eval()
                with torch.no_grad():
                    tokens = torch.from_numpy(np.random.default_rng(99).integers(0, 101, (4, LENGTH + 1)))
                    self.held_out.append(float(losses(self.model, tokens).sum()))
                self.model.train()

    def named(self) -> list[tuple[str, torch.nn.Parameter]]:
        clean = "_checkpoint_wrapped_module."
        return [(name.replace(clean, ""), p) for name, p in self.model.named_parameters()]

    def save(self, folder: Path, step: int) -> None:
        checkpoint.save(folder, self.model, self.optimizer, {"step": step}, self.ranks)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Whole weights and moments."""
        found = {}
        for name, parameter in self.named():
            found[name] = whole(parameter)
            for moment in checkpoint.MOMENTS:
                found[f"{moment}.{name}"] = whole(self.optimizer.state[parameter][moment])
        return found


def whole(tensor: torch.Tensor) -> torch.Tensor:
    full = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full.detach().clone()


def launch(folder: Path, what: str, ranks: int = 2) -> None:
    """Run this file as `ranks` processes and wait; fails with what they printed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "OMP_NUM_THREADS": "1",
    }
    started = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder), what],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        printed = [process.communicate(timeout=120)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert all(process.returncode == 0 for process in started), "\n".join(printed)


def trained(folder: Path, ranks: Ranks) -> None:
    """Every setting: the gradient of a step, then four steps; leaves NAME.json and NAME.pt."""
    for name, setting in SETTINGS.items():
        run = Run(setting, ranks)
        grads = run.gradients(0)
        run.steps(0, 4)
        if setting.evaluate:
            run.save(folder / name, 4)
        tensors = {} if setting.evaluate else run.tensors()
        if ranks.first:
            torch.save({**grads, **tensors}, folder / f"{name}.pt")
            durable.write_json(
                folder / f"{name}.json",
                {"losses": run.losses, "norms": run.norms, "held_out": run.held_out},
            )


def resumed(folder: Path, ranks: Ranks) -> None:
    """Go on from one rank's checkpoint `from-one`, then save `from-two` (shards) and `copies` (replicas)."""
    run = Run(SETTINGS["full"], ranks)
    checkpoint.load(folder / "from-one", run.model, run.optimizer)
    run.save(folder / "unchanged", 2)
    run.steps(2, 4)
    run.save(folder / "from-two", 4)
    run = Run(SETTINGS["none"], ranks)
    checkpoint.load(folder / "from-two", run.model, run.optimizer)
    run.save(folder / "copies", 4)
    run = Run(replace(SETTINGS["wrapped"], bf16=True), ranks)
    checkpoint.load(folder / "from-one", run.model, run.optimizer)
    run.save(folder / "wrapped", 2)


if __name__ == "__main__":
    torch.set_num_threads(1)
    joined = distributed.join("cpu")
    {"trained": trained, "resumed": resumed}[sys.argv[2]](Path(sys.argv[1]), joined)
    distributed.leave(joined)
    print(json.dumps({"rank": joined.rank, "done": True}))
