"""One optimizer step: forward and backward in micro-batches, the update, and the count of windows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from curriculum.plan.stage import StagePlan
from curriculum.stream.batch import Batch
from runner.model.forward import hidden
from runner.model.loss import next_token_loss
from runner.model.transfer import to_device
from runner.model.transformer import Transformer
from runner.parallel import fsdp
from runner.parallel.canonical import GroupSums, gradient_norm
from runner.parallel.ranks import Ranks
from runner.train import ema
from runner.train.optimizer import AdamW, clip_gradients, gradients_of, set_learning_rate, total_norm
from runner.train.outliers import OutlierRule
from runner.train.state import State


def forward_backward(
    model: Transformer,
    batch: Batch,
    micro: int,
    plan: StagePlan,
    groups: int | None = None,
    before_forward: Callable[[], None] = lambda: None,
) -> torch.Tensor:
    """Accumulate the gradient of the mean loss over the global batch; returns this rank's slots' summed losses.

    They are fp64 on the device, shape `[slots]`. With `groups`, this rank's share of them is added in pairs
    (canonical.py). `before_forward` is called before each micro-batch.
    """
    tokens = to_device(torch.from_numpy(batch.tokens), model.embedding.weight.device)
    z_loss = plan.optimizer.get("z_loss", 0.0)
    group = plan.batch_of(batch.step) // groups if groups else len(tokens)
    in_pairs, all_tokens = GroupSums(model) if groups else None, plan.tokens_of(batch.step)
    losses = []
    for begin in range(0, len(tokens), micro):
        before_forward()
        part, end = tokens[begin : begin + micro], begin + micro
        with fsdp.micro_batch(model, last=end >= len(tokens), exchange=end % group == 0):
            states = hidden(model, part, batch.cu_seqlens_of(begin, begin + len(part)))
            compiled = model.compiled and tokens.device.type == "cuda"
            total, token_losses = model.head(states, part[:, 1:], next_token_loss, compiled=compiled, z_loss=z_loss)
            torch.autograd.backward(total / all_tokens)
        losses.append(token_losses.sum(dim=1))
        if in_pairs and end % group == 0:
            in_pairs.add()
    if in_pairs:
        in_pairs.restore()
    return torch.cat(losses).double()


def update(
    model: Transformer,
    optimizer: AdamW,
    plan: StagePlan,
    step: int,
    ranks: Ranks,
    *,
    canonical: bool = False,
    outliers: OutlierRule | None = None,
) -> torch.Tensor:
    """Clip and apply the gradient at the step's learning rate; returns the norm it had before clipping, on the device.

    A gradient that is not finite, or one of the `outliers`, changes no weight, and a moving average takes in the
    weights as they are. The CPU waits for no figure. (`canonical` adds the norm in its own order.)
    """
    gradients = gradients_of(optimizer.parameters)
    norm = gradient_norm(model, ranks) if canonical else total_norm(gradients)
    clip_gradients(gradients, plan.optimizer["clip_norm"], norm)
    set_learning_rate(optimizer, plan.lr(step))
    skipped = norm.isfinite().logical_not()
    if outliers is not None:
        skipped |= outliers.observe(norm)
    optimizer.found_inf = skipped.float()
    optimizer.step()
    optimizer.zero_grad()
    if (decay := plan.average_decay(step)) is not None:
        ema.update(optimizer, optimizer.parameters, decay)
    return norm


def count(
    state: State, batch: Batch, slot_losses: NDArray[np.float64], finite: bool, ranks: Ranks, *, outlier: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Count the windows read, for the ledger, and the steps whose gradient was not finite, or an outlier.

    Returns, by source and over all ranks, the sum of the losses and the number of windows, shape `[sources]` each.
    """
    sources = len(batch.names)
    by_source = np.stack(
        (
            np.bincount(batch.source, weights=slot_losses, minlength=sources),
            np.bincount(batch.source, minlength=sources),
        )
    )
    sums, windows = ranks.add(torch.from_numpy(by_source)).numpy()
    for name, number in zip(batch.names, windows.tolist(), strict=True):
        state.windows[name] = state.windows.get(name, 0) + int(number)
    state.nonfinite_in_a_row = 0 if finite else state.nonfinite_in_a_row + 1
    state.nonfinite_steps += 0 if finite else 1
    state.outlier_steps += outlier
    return sums, windows.astype(np.int64)
