"""The collectives of a step as one rank of 64 issues them, on fake tensors.

python programs.py RANK      prints them
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from memory_trace import OPTIMIZER, FakeRanks, group
from small import CONFIG
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from runner.model.loss import next_token_loss
from runner.model.transformer import Transformer
from runner.parallel import fsdp
from runner.train.optimizer import adamw, clip_gradients, gradients_of, total_norm

RANKS, NODE = 64, 4
Program = list[tuple[str, list[list[int]]]]


class Collectives(TorchDispatchMode):
    """Collects the collectives: name, and the shapes of their tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Program = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            shapes = [list(value.shape) for value in tree_iter((args, kwargs)) if isinstance(value, torch.Tensor)]
            self.seen.append((func.overloadpacket.__name__, shapes))
        return func(*args, **(kwargs or {}))


def program(rank: int, micro_batches: int = 2) -> Program:
    """The collectives of a step of `rank`, with the norm of the update."""
    with group(RANKS, rank), FakeTensorMode(allow_non_fake_inputs=True), Collectives() as collectives:
        model = Transformer(CONFIG)
        ranks = FakeRanks(rank, RANKS, NODE, torch.device("cpu"))
        fsdp.apply(model, ranks, sharding="hybrid", bf16=True, activation_checkpointing="none", compile_blocks=False)
        adamw(model, OPTIMIZER)
        for number in range(micro_batches):
            tokens = torch.zeros((2, 17), dtype=torch.long)
            with fsdp.micro_batch(model, last=number + 1 == micro_batches):
                total, _ = model.head(model(tokens[:, :-1]), tokens[:, 1:], next_token_loss)
                torch.autograd.backward(total)
        clip_gradients(gradients_of(model.parameters()), 1.0, total_norm(gradients_of(model.parameters())))
    return collectives.seen


if __name__ == "__main__":
    print(json.dumps(program(int(sys.argv[1]))))
