"""The peak memory of a device during a step of training, from a closed formula.

The formula counts what the runner's model keeps when it trains in bf16 with blocks and loss compiled, FlashAttention
and FSDP2; each of its terms was read off traces of that model on fake tensors (`tests/support/memory_trace.py`), and
`tests/runner/parallel/test_memory.py` holds it to them. With P parameters in s shards, R of them outside the blocks (a
token's embedding, the output weight and the last norm), N tokens in a micro-batch, L layers and the letters of
`runner/model/transformer.py`, V the vocabulary, in bytes:

    weights         4 P/s, fp32                       moments         8 P/s, fp32; of Muon's matrices 4 P/s
    average         4 P/s, fp32, where a moving average of the weights is kept
    gathered        2 P, bf16; with `reshard` 2 R, and the blocks' only while they are used
    gradients       4 P, fp32, from the second micro-batch on; 4 P/s when every micro-batch is exchanged
    activations     N L a, where a is the sum of `kept`
    loss            N D 12 + 4 V D + V (2 c + 2 max(c, D)), c the tokens whose bf16 logits exist at once

which is the state when the last chunk of logits is computed. Where the backward pass through the output weight, that
through a recomputed block, the last exchange of gradients or a step of Muon needs more, the peak is theirs. CUDA's own
context, NCCL's buffers, cuBLAS's workspaces and what the allocator cannot fill are not counted: a card sold as 80 GB
has 85e9 bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from curriculum.plan.model import ModelConfig
from curriculum.plan.stage import StagePlan
from curriculum.units import show_bytes

LOGIT_BYTES, LOGIT_ROWS = 512 << 20, 128
"""Of the logits that the loss computes at a time: bytes in fp32, and the tokens of which they are a multiple
(`CHUNK_BYTES` and `COMPILED_ROWS` of `runner/model/loss.py`)."""


ADAMW: Mapping[str, Any] = MappingProxyType({"name": "adamw"})
"""An optimizer with two moments of each parameter and no moving average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """How a device takes its share of a step: `micro_batches` passes over `micro_batch` sequences.

    `shards` is over how many devices weights, moments and gradients are spread, in each of the `replicas`. With
    `reshard` a block's weights are dropped after its forward pass, with `exchange` gradients are reduced in every
    micro-batch instead of in the last.
    """

    sequence_length: int
    micro_batch: int
    micro_batches: int
    shards: int
    replicas: int = 1
    checkpointing: str = "none"
    reshard: bool = False
    exchange: bool = False


def step_of(
    plan: StagePlan,
    *,
    micro_batch: int,
    ranks: int,
    local_ranks: int,
    sharding: str,
    checkpointing: str,
    reshard: str,
    exchange: str,
) -> Step:
    """The step of a stage on `ranks` GPUs, `local_ranks` of them in a node, with a machine's words."""
    shards = shards_of(sharding, ranks=ranks, local_ranks=local_ranks)
    return Step(
        sequence_length=plan.sequence_length,
        micro_batch=micro_batch,
        micro_batches=max(plan.batches) // ranks // micro_batch,
        shards=shards,
        replicas=ranks // shards,
        checkpointing=checkpointing,
        reshard=reshard == "after-forward",
        exchange=exchange == "every-micro-batch",
    )


def shards_of(sharding: str, *, ranks: int, local_ranks: int) -> int:
    """Over how many devices a machine's word for `sharding` spreads each matrix."""
    return {"none": 1, "full": ranks}.get(sharding, local_ranks)


def formula_holds(*, precision: str, compile: bool | None, exactness: str) -> bool:
    """Whether a GPU that trains so, in a machine's words, is one that the formula counts."""
    return precision != "fp32" and compile is not False and exactness == "native"


def sentence(micro_batch: int, kinds: Mapping[str, int]) -> str:
    """`a micro-batch of 7 sequences needs 32.6 GB of each GPU (weights 1.1 GB, …)`."""
    parts = ", ".join(f"{kind} {show_bytes(amount)}" for kind, amount in kinds.items() if amount)
    many = "sequence" if micro_batch == 1 else "sequences"
    return f"a micro-batch of {micro_batch} {many} needs {show_bytes(sum(kinds.values()))} of each GPU ({parts})"


def kept(config: ModelConfig, checkpointing: str = "none") -> dict[str, int]:
    """Bytes that a block keeps of each token for its backward pass, by kind."""
    D, F, H, K, d = _letters(config)
    stream = {"residual stream": 2 * D}
    if checkpointing == "full":
        return stream
    products = stream | {
        "queries, keys, values": 2 * (H + 2 * K) * d,  # the fused product: the values are a view of it
        "attention": 2 * H * d + 4 * H + 2 * D,  # its output, its fp32 log-sums, and their projection
        "feed-forward": 4 * F + (2 * D if config.norm == "after" else 0),  # a norm after it reads its output
    }
    if checkpointing == "selective":
        return products
    L = config.num_hidden_layers
    rotated = 2 * (H + K) * d * (L - len(config.no_rope)) // L  # a layer without rotations reads the product itself
    norms = 2 * D if config.norm == "after" else 4 * D
    return products | {"norms": norms, "rotated queries and keys": rotated, "gated feed-forward": 2 * F}


def peak(config: ModelConfig, step: Step, optimizer: Mapping[str, Any] = ADAMW) -> dict[str, int]:
    """Bytes in use at the peak, by kind, with the numbers of a plan's optimizer; their sum is the peak."""
    return max(_instants(config, step, optimizer), key=lambda kinds: sum(kinds.values()))


def _instants(config: ModelConfig, step: Step, optimizer: Mapping[str, Any]) -> list[dict[str, int]]:
    """The bytes by kind at each instant of a step that can be its peak."""
    D, F, *_ = _letters(config)
    V, L = config.vocab_size, config.num_hidden_layers
    N = step.sequence_length * step.micro_batch
    fused = {name: _fused_shape(tensors) for name, tensors in config.fused_tensors().items()}
    elements = sum(map(math.prod, fused.values()))
    root = sum(math.prod(shape) for name, shape in fused.items() if not name.startswith("blocks."))
    block = (elements - root) // L
    share = sum(-(-rows // step.shards) * math.prod(rest) for rows, *rest in fused.values())
    accumulated = 0 if step.micro_batches == 1 else 4 * (share if step.exchange else elements)
    state = {"weights": 4 * share, **_kept_by_optimizer(config, optimizer, step.shards)}
    gathered = 2 * (root if step.reshard else elements)
    a_token = sum(kept(config, step.checkpointing).values())
    chunk = min(N, max(LOGIT_ROWS, LOGIT_BYTES // (4 * V) // LOGIT_ROWS * LOGIT_ROWS))
    logits = V * (2 * chunk + 2 * max(chunk, D))  # bf16: beside their gradient the logits, then the weights' gradient
    in_loss = state | {
        "gathered weights": gathered,
        "gradients": accumulated,
        "activations": N * L * a_token,
        "loss": 12 * N * D + 4 * V * D + logits,
    }
    after_loss = in_loss | {"loss": 14 * N * D + 10 * V * D}
    after_norm = in_loss | {"loss": 26 * N * D + 2 * V * D}
    in_block = in_loss | {
        # with `reshard`, those of the block and the buffer in which the next one's arrive
        "gathered weights": gathered + (4 * block if step.reshard else 0),
        "gradients": accumulated + 2 * V * D + 2 * D * F,
        "activations": N * ((L - 1) * a_token + _of_block_backward(config, step.checkpointing)),
        "loss": 4 * N * D,
    }
    instants = [in_loss, after_loss, after_norm, in_block]
    often = step.micro_batches > 1
    if step.exchange or not often:  # a block's gradients are on their way while the block before it is computed
        instants.append(
            in_block
            | {
                "gathered weights": in_block["gathered weights"] - (0 if step.reshard else 2 * block),
                "gradients": in_block["gradients"] + 4 * block + 4 * block // step.shards,
                "activations": in_block["activations"] - N * a_token,
            }
        )
    at_end = state | {
        "gathered weights": 2 * root,
        "gradients": 4 * share + (8 if often and not step.exchange else 6) * root,
        "activations": 0,
        "loss": 4 * N * D,
    }
    if step.exchange and often:
        # what replicas exchange is kept until a backward pass ends; that of the first micro-batch is the gradients
        exchanged = {"gradients": at_end["gradients"] + (4 * share if step.replicas > 1 else 0)}
        whole_model = {"gathered weights": at_end["gathered weights"] if step.reshard else 2 * elements}
        instants.append(at_end | whole_model | (exchanged if step.micro_batches > 2 else {}))
        at_end |= exchanged
    update = at_end | {"gradients": 4 * share, "loss": 0, "update": _of_update(config, optimizer)}
    return [*instants, at_end, *([update] if update["update"] else [])]


def _of_update(config: ModelConfig, optimizer: Mapping[str, Any]) -> int:
    """Bytes that a step of the optimizer takes for a moment: of Muon's matrices, which are stepped one by one.

    A fused matrix and its momentum are kept in fp32, since a step that is not finite is undone, one after the other;
    before that there are, of each separate matrix in it, the fp32 update, two bf16 iterates and two bf16 products of
    its shorter side.
    """
    if optimizer.get("name") != "muon":
        return 0
    fused = [tensors for tensors in config.fused_tensors().values() if len(next(iter(tensors.values()))) == 2]
    return max(
        8 * math.prod(_fused_shape(tensors))
        + max(4 * math.prod(_fused_shape(tensors)), *(8 * r * c + 4 * min(r, c) ** 2 for r, c in tensors.values()))
        for tensors in fused
        if not {"model.embed_tokens.weight", "lm_head.weight"} & tensors.keys()
    )


def _of_block_backward(config: ModelConfig, checkpointing: str) -> int:
    """Bytes a token of the block that the backward pass is in, recomputed ones included."""
    own = sum(kept(config, checkpointing).values())
    if checkpointing == "none":
        return own + 4 * config.intermediate_size
    if checkpointing == "selective":
        return own + 6 * config.intermediate_size
    D, F, H, K, d = _letters(config)
    return 10 * F + 4 * D + 2 * (H + 2 * K) * d + 2 * (H + K) * d + 2 * H * d + 4 * H


def saved_bytes(config: ModelConfig, optimizer: Mapping[str, Any] = ADAMW) -> int:
    """Bytes of a checkpoint's tensors: weights, moments, and the moving average where one is kept."""
    return 4 * config.parameters + sum(_kept_by_optimizer(config, optimizer, 1).values())


def _kept_by_optimizer(config: ModelConfig, optimizer: Mapping[str, Any], shards: int) -> dict[str, int]:
    """Bytes of the optimizer's state on a device, by kind: two moments, one of Muon's matrices inside the blocks."""
    moments, average = 0, 0
    for name, tensors in config.fused_tensors().items():
        rows, *rest = _fused_shape(tensors)
        numbers = -(-rows // shards) * math.prod(rest)
        by_muon = optimizer.get("name") == "muon" and name.startswith("blocks.") and len(rest) == 1
        moments += numbers * (4 if by_muon else 8)
        average += numbers * 4
    return {"moments": moments} | ({"average": average} if optimizer.get("ema") is not None else {})


def _letters(config: ModelConfig) -> tuple[int, int, int, int, int]:
    return (
        config.hidden_size,
        config.intermediate_size,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
    )


def _fused_shape(tensors: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    shapes = list(tensors.values())
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])
