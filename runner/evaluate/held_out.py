"""Held-out loss per source at a checkpoint: a pure function of (weights, held-out set).

The windows are spread evenly over the held-out split and always the same, so that the losses of two checkpoints can
be compared window by window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from curriculum.plan.stage import StagePlan
from curriculum.stream.batch import document_end
from curriculum.stream.held_out import HeldOutSets, quarter_ends
from runner.model.forward import losses
from runner.model.transformer import Transformer
from runner.parallel import fsdp
from runner.parallel.ranks import Ranks


def evaluate(
    model: Transformer,
    plan: StagePlan,
    held_out: HeldOutSets,
    names: Sequence[str],
    ranks: Ranks,
    micro_batch: int,
    before_forward: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Loss of the model on each named set, by name, as `evaluations/` records it; leaves the model in training mode."""
    eos = document_end(plan)

    def sequence_losses(tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        before_forward()
        each = losses(model, tokens, eos)
        ends = quarter_ends(each.shape[1])
        parts = torch.stack([part.sum(dim=1) for part in each.tensor_split(ends[:-1], dim=1)], dim=1)
        summed: NDArray[np.float64] = torch.cat((each.sum(dim=1, keepdim=True), parts), dim=1).double().cpu().numpy()
        return summed

    def add(values: NDArray[np.float64]) -> NDArray[np.float64]:
        summed: NDArray[np.float64] = ranks.add(torch.from_numpy(values)).numpy()
        return summed

    model.eval()
    with torch.no_grad():
        results = held_out.measure(sequence_losses, names, micro_batch, rank=ranks.rank, world_size=ranks.size, add=add)
    fsdp.reshard(model)
    model.train()
    return results
