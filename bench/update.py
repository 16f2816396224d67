"""Time of the CPU to clip and update as many sharded tensors as 1.1B parameters have: `python -m bench.update`.

The tensors are tiny, so that what is measured is what the CPU does to issue the work; a GPU's own time is not in it.
Compared with torch's clip and AdamW on the same sharded tensors, and with the goal of 2 ms a step.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from bench import measure
from curriculum.plan.model import ModelConfig
from runner.model.transformer import Transformer
from runner.parallel import fsdp
from runner.parallel.ranks import Ranks
from runner.train.optimizer import AdamW, adamw, clip_gradients, gradients_of, total_norm

NODE, GOAL = 4, 2e-3
NUMBERS = {"betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1, "decay": "all"}


def ours(model: Transformer, optimizer: AdamW) -> None:
    gradients = gradients_of(optimizer.parameters)
    norm = total_norm(gradients)
    clip_gradients(gradients, 1.0, norm)
    optimizer.found_inf = norm.isfinite().logical_not().float()
    optimizer.step()


def torchs(model: Transformer, optimizer: torch.optim.AdamW) -> None:
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def main() -> None:
    given = measure.arguments(__doc__ or "")
    measure.machine("torch")
    torch.set_num_threads(1)
    dist.init_process_group("fake", rank=0, world_size=NODE, store=FakeStore())
    model = Transformer(
        ModelConfig(
            hidden_size=16,
            num_hidden_layers=2 if given.toy else 22,
            num_attention_heads=4,
            num_key_value_heads=4,
            intermediate_size=16,
            vocab_size=64,
            max_position_embeddings=16,
        )
    )
    ranks = Ranks(0, NODE, NODE, torch.device("cpu"))
    fsdp.apply(model, ranks, sharding="hybrid", bf16=True, activation_checkpointing="none", compile_blocks=False)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    mine = adamw(model, NUMBERS)
    theirs = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), fused=True)

    def timed(step: Callable[[], None]) -> Callable[[], float]:
        def measured() -> float:
            step()  # warm
            started = time.thread_time()
            for _ in range(20):
                step()
            return (time.thread_time() - started) / 20

        return measured

    rows = measure.in_turns(
        {"ours": timed(lambda: ours(model, mine)), "torch's, on sharded tensors": timed(lambda: torchs(model, theirs))},
        given.turns,
    )
    title = f"clip and update of {len(mine.state)} tensors in {NODE} shards, CPU seconds a step"
    measure.table(title, list(rows.values()), "s", against="ours")
    measure.goal("clip and update", rows["ours"].median, GOAL, at_most=True, unit="s")
    measure.save(given.json, {title: list(rows.values())})
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
