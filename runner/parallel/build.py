"""The model as plan and machine file specify it, on this rank, and its micro-batch."""

from __future__ import annotations

import torch

from curriculum.artifacts.jobs import Machine
from curriculum.errors import PlanError
from curriculum.plan.model import ModelConfig
from curriculum.plan.ranks import shares_of_rank
from curriculum.plan.stage import StagePlan
from runner.model import attention
from runner.model.init import initialise
from runner.model.transformer import Transformer
from runner.parallel import fsdp
from runner.parallel.ranks import Ranks, local_part, rows_of
from runner.parallel.sharded import is_sharded

MICRO_BATCH_TOKENS = {"cpu": 4096, "cuda": 32768}  # of one forward pass, when the machine file states none


def build(plan: StagePlan, machine: Machine, ranks: Ranks) -> Transformer:
    """The model on this rank's device, sharded as the machine file says, its weights neither drawn nor loaded yet.

    It is sharded before it has memory, so that no rank ever holds the whole of it.
    """
    config = ModelConfig.from_json(plan.model)
    bf16 = uses_bf16(machine, ranks.device)
    request = attention.request_of(
        ranks.device,
        bf16=bf16,
        head_dim=config.head_dim,
        deterministic=machine.deterministic,
        masked=plan.mask_documents,
        windowed=bool(config.sliding_window),
    )
    try:
        _, attend = attention.choose(machine.attention, request)
    except ValueError as error:
        raise PlanError(str(error), hint="choose another `attention` in machines.yaml, or `auto`") from None
    attention.activate(attend)
    with torch.device("meta"):
        model = Transformer(config, attend)
    fsdp.apply(
        model,
        ranks,
        sharding=machine.sharding,
        bf16=bf16,
        activation_checkpointing=machine.activation_checkpointing,
        reshard=machine.reshard == "after-forward",
        exchange_often=machine.exchange == "every-micro-batch",
        compile_blocks=compiles(machine, ranks.device),
        canonical=machine.exactness == "canonical",
    )
    model._apply(lambda tensor: _in_memory(tensor, ranks.device))  # type: ignore[no-untyped-call]
    if config.tie_word_embeddings:
        model.head.weight = model.embedding.weight
    return model


def _in_memory(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """As `Module.to_empty` has it; what is not sharded without `empty_like`, for which torch imports sympy."""
    if is_sharded(tensor):
        return torch.empty_like(tensor, device=device)
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=device)


def draw_weights(model: Transformer, seed: int) -> None:
    """Draw the initial weights of a model as `build` gave it; every rank draws all of them and keeps its rows."""

    def write(parameter: torch.Tensor, value: torch.Tensor) -> None:
        first, last, _ = rows_of(parameter)
        local_part(parameter).copy_(value[first:last])

    initialise(model, seed, write)


def uses_bf16(machine: Machine, device: torch.device) -> bool:
    return machine.precision == "bf16" or (machine.precision == "auto" and device.type == "cuda")


def compiles(machine: Machine, device: torch.device) -> bool:
    return device.type == "cuda" if machine.compile is None else machine.compile


def micro_batch(plan: StagePlan, stated: int | None, ranks: Ranks) -> int:
    """Sequences of one forward pass on this rank; PlanError, with those that fit, when the batch does not divide."""
    share = shares_of_rank(plan.batches, ranks.size, stated)
    if stated is not None:
        return stated
    fitting = [n for n in range(1, share + 1) if share % n == 0]
    most = max(1, MICRO_BATCH_TOKENS[ranks.device.type] // plan.sequence_length)
    return max(n for n in fitting if n <= most)
