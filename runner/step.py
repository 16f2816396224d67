"""One optimizer step: forward and backward in micro-batches, the update, and the count of what was read."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from curriculum.plan.stage import StagePlan
from runner import attention, data, exactness, optim, sharding
from runner.distributed import Ranks
from runner.loss import next_token_loss, next_token_losses
from runner.model import Llama
from runner.state import State


def forward_backward(
    model: Llama, batch: data.Batch, micro: int, plan: StagePlan, groups: int | None = None
) -> NDArray[np.float64]:
    """Accumulate the gradient of the mean loss over the global batch; returns this rank's slots' summed losses.

    With `groups`, this rank's share of them is added up in pairs (exactness.py).
    """
    tokens = torch.from_numpy(batch.tokens).to(model.embedding.weight.device, non_blocking=True)
    group = plan.batch_sequences // groups if groups else len(tokens)
    in_pairs = exactness.GroupSums(model) if groups else None
    losses = []
    for begin in range(0, len(tokens), micro):
        part, end = tokens[begin : begin + micro], begin + micro
        with sharding.micro_batch(model, last=end >= len(tokens), exchange=end % group == 0):
            states = hidden(model, part, batch.bounds_of(begin, begin + len(part)))
            total, each = next_token_loss(states, model.head.weight, part[:, 1:])
            torch.autograd.backward(total / plan.batch_tokens)
        losses.append(each.sum(dim=1))
        if in_pairs and end % group == 0:
            in_pairs.take()
    if in_pairs:
        in_pairs.give()
    slot_losses: NDArray[np.float64] = torch.cat(losses).double().cpu().numpy()
    return slot_losses


def update(
    model: Llama,
    optimizer: torch.optim.Optimizer,
    plan: StagePlan,
    step: int,
    ranks: Ranks,
    *,
    canonical: bool = False,
) -> float:
    """Clip and apply the gradient at the step's learning rate; returns the norm it had before clipping.

    A gradient that is not finite changes nothing. (`canonical` adds the norm up in an order of its own.)
    """
    norm = optim.clip(
        model, plan.optimizer["clip_norm"], exactness.gradient_norm(model, ranks) if canonical else None
    )
    if math.isfinite(norm):
        optim.set_learning_rate(optimizer, plan.lr(step))
        optimizer.step()
    optimizer.zero_grad()
    return norm


def count(
    state: State, batch: data.Batch, slot_losses: NDArray[np.float64], finite: bool, ranks: Ranks
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Count what was truly read, for the ledger, and steps whose gradient was not finite.

    Returns, by source and over all ranks, the sum of the losses and the number of windows, shape `[sources]` each.
    """
    sources = len(batch.names)
    both = np.stack(
        (
            np.bincount(batch.source, weights=slot_losses, minlength=sources),
            np.bincount(batch.source, minlength=sources),
        )
    )
    sums, windows = ranks.add(torch.from_numpy(both)).numpy()
    for name, read in zip(batch.names, windows.tolist(), strict=True):
        state.windows[name] = state.windows.get(name, 0) + int(read)
    state.nonfinite_in_a_row = 0 if finite else state.nonfinite_in_a_row + 1
    state.nonfinite_steps += 0 if finite else 1
    return sums, windows.astype(np.int64)


def losses(model: Llama, tokens: torch.Tensor, mark: int | None = None) -> torch.Tensor:
    """Loss of every target of `tokens` `[n, sequence_length + 1]`, in nats, shape `[n, sequence_length]`.

    With a `mark`, which ends a document, no token sees another document than its own.
    """
    bounds = None if mark is None else data.document_bounds(tokens.cpu().numpy(), mark)
    return next_token_losses(hidden(model, tokens, bounds), model.head.weight, tokens[:, 1:])


def hidden(model: Llama, tokens: torch.Tensor, bounds: NDArray[np.int32] | None) -> torch.Tensor:
    """The hidden states at the inputs of `tokens`, each document by itself where `bounds` tells them apart."""
    inputs = tokens[:, :-1]
    if bounds is None:
        return model(inputs)  # type: ignore[no-any-return]
    documents = attention.documents(bounds, *inputs.shape)
    return model(inputs, documents.to(inputs.device))  # type: ignore[no-any-return]
