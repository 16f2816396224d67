"""Activation checkpointing, compilation, FSDP2 and precision, applied to the single-device model from outside."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from runner.model.attention import operators
from runner.model.transformer import Transformer
from runner.parallel.canonical import add_in_pairs
from runner.parallel.ranks import Ranks
from runner.parallel.sharded import is_managed

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule


def apply(
    model: Transformer,
    ranks: Ranks,
    *,
    sharding: str,
    bf16: bool,
    activation_checkpointing: str,
    compile_blocks: bool,
    reshard: bool = False,
    exchange_often: bool = False,
    canonical: bool = False,
) -> None:
    """Change `model` in place: each block is checkpointed, compiled and sharded, then the rest; names stay.

    `hybrid` shards inside a node and replicates between nodes (v1.1's change), `full` shards over all ranks,
    `none` replicates. One fp32 process runs without FSDP, which would cost time and change no bit. With `reshard` a
    block's gathered weights are dropped after its forward and after its backward pass, with `exchange_often` every
    micro-batch's gradients are exchanged: both cost exchanges and save memory. `canonical` adds gradients as
    canonical.py does.
    """
    if activation_checkpointing != "none":
        # matrix products and attention cost most to recompute
        costly = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default, *operators(model.attend))
        for block in model.blocks:
            block.forward = _recomputed(block.forward, costly if activation_checkpointing == "selective" else ())
    if compile_blocks:
        for block in model.blocks:
            block.compile(fullgraph=True, dynamic=False)
        model.compiled = True
    if ranks.size == 1 and not bf16:
        return
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    shard = {"none": 1, "full": ranks.size, "hybrid": ranks.local_size, "auto": ranks.local_size}[sharding]
    mesh, replicas = ranks.mesh(shard), None
    if canonical:  # our hooks add the replicas, so FSDP2 gets none
        mesh, replicas = mesh["shard"], mesh["replicate"]
    elif shard == ranks.size:  # else FSDP2 keeps what it exchanges among replicas until a backward pass ends
        mesh = mesh["shard"]
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for block in model.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard)
    # the output weight's gradient is the first that is complete: in a unit of its own nothing waits for its exchange at
    # the end of the backward pass; tied to the embedding it is the last one, whose unit is the root
    ends = () if model.config.tie_word_embeddings else (model.embedding, model.head)
    for module in (*ends, model):  # the loss reads the output weight
        fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    if is_managed(model.embedding):
        # else it gathers what came before it, which is the output weight of the micro-batch before
        model.embedding.set_modules_to_backward_prefetch([model])  # type: ignore[list-item]
    model.reshards, model.exchanges_often = reshard, exchange_often
    for module in sharded(model):
        # The loss is divided by the global token count, so gradients are summed, not averaged; a divide
        # factor of 1 by itself makes FSDP2 use PREMUL_SUM, which gloo refuses.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
        if replicas is not None:
            add_in_pairs(module, replicas)


def _recomputed(forward: Callable[..., torch.Tensor], stored: Sequence[Any] = ()) -> Callable[..., torch.Tensor]:
    """`forward`, storing only its input and the results of the operators `stored`.

    The model draws no random numbers, so none are replayed.
    """
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if stored:
        options["context_fn"] = functools.partial(create_selective_checkpoint_contexts, list(stored))

    def checkpointed(*arguments: Any) -> torch.Tensor:
        out: torch.Tensor = checkpoint(forward, *arguments, **options)
        return out

    return checkpointed


def sharded(model: nn.Module) -> Iterator[FSDPModule]:
    """The modules that FSDP2 manages; none without it."""
    return (module for module in model.modules() if is_managed(module))


@contextlib.contextmanager
def micro_batch(model: Transformer, *, last: bool, exchange: bool | None = None) -> Iterator[None]:
    """Exchange gradients once, in a step's last micro-batch; until then the weights stay unsharded.

    `exchange` overrides that for sums that are exchanged group by group, and `apply` what it learnt of the model.
    """
    exchanges_often, reshards = model.exchanges_often, model.reshards
    if is_managed(model):
        exchange = exchanges_often or (last if exchange is None else exchange)
        model.set_requires_gradient_sync(exchange)
        model.set_is_last_backward(exchange)
        model.set_reshard_after_backward(last or reshards)
    yield


def reshard(model: nn.Module) -> None:
    """Shard every parameter again: a forward pass without a backward leaves them unsharded."""
    for module in sharded(model):
        module.reshard()
