"""Applied to the single-device model from outside: activation checkpointing, compilation, FSDP2, precision."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from runner.distributed import Ranks
from runner.model import Llama

SHARDINGS = ("auto", "none", "full", "hybrid")


def apply(
    model: Llama,
    ranks: Ranks,
    *,
    sharding: str,
    bf16: bool,
    activation_checkpointing: str,
    compile_blocks: bool,
) -> None:
    """Change `model` in place: each block is wrapped, compiled and sharded, then the root.

    `hybrid` shards inside a node and replicates between nodes (v1.1's change), `full` shards over all ranks,
    `none` replicates. One process on a CPU goes without FSDP, which costs time there and changes no bit.
    """
    if activation_checkpointing == "full":
        for at, block in enumerate(model.blocks):
            model.blocks[at] = checkpoint_wrapper(block)
    if compile_blocks:
        for block in model.blocks:
            block.compile(fullgraph=True, dynamic=False)
    if ranks.size == 1 and not bf16:
        return
    shard = {"none": 1, "full": ranks.size, "hybrid": ranks.local_size, "auto": ranks.local_size}[sharding]
    mesh = ranks.mesh(shard)
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for module in (*model.blocks, model):
        fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # The loss is divided by the global token count, so gradients are summed, not averaged; a divide factor
            # of 1 alone makes FSDP2 use PREMUL_SUM, which gloo refuses.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


@contextlib.contextmanager
def micro_batch(model: Llama, *, last: bool) -> Iterator[None]:
    """Gradients are exchanged once, in the last micro-batch of a step."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
        model.set_is_last_backward(last)
    yield
