"""Held-out loss per source at a checkpoint: a pure function of (weights, held-out set).

The windows are spread evenly over the held-out split and always the same, so that the losses of two checkpoints can
be compared window by window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from curriculum.artifacts.jobs import HeldOut
from curriculum.data.dataset import Dataset
from curriculum.plan.stage import StagePlan
from curriculum.stream import reader
from curriculum.stream.batch import document_end
from runner.model.forward import losses
from runner.model.llama import Llama
from runner.parallel import fsdp
from runner.parallel.ranks import Ranks

SequenceLosses = Callable[[NDArray[np.int64]], torch.Tensor]
"""Tokens `[n, sequence_length + 1]` to summed losses `[n]`, without gradients."""


class HeldOutSets:
    """The opened held-out sets of a job, by source: their datasets, and the numbers of the windows to measure."""

    def __init__(self, plan: StagePlan, held_out: Mapping[str, HeldOut]) -> None:
        self.sequence_length = plan.sequence_length
        self.datasets: dict[str, Dataset] = {}
        self.windows: dict[str, NDArray[np.int64]] = {}
        for name, entry in sorted(held_out.items()):
            dataset = reader.open_dataset(plan, entry.folder, "held-out")
            self.datasets[name] = dataset
            self.windows[name] = dataset.spread(entry.windows)

    def measure(self, losses: SequenceLosses, names: Sequence[str], ranks: Ranks, micro_batch: int) -> dict[str, Any]:
        """Loss (nats a token) of each named set; every rank measures its share of the windows.

        All ranks call the model equally often, as sharded parameters demand: the last share is padded with windows
        that are not counted.
        """
        results = {}
        for name in names:
            dataset, windows = self.datasets[name], self.windows[name]
            per_window = torch.zeros(len(windows), dtype=torch.float64)
            for begin in range(0, len(windows), micro_batch * ranks.size):
                share = begin + ranks.rank * micro_batch + np.arange(micro_batch)
                counted = share[share < len(windows)]
                tokens = dataset.read(windows[np.minimum(share, len(windows) - 1)])
                values = losses(tokens).double().cpu()
                per_window[torch.from_numpy(counted)] = values[: len(counted)]
            per_window = ranks.add(per_window) / self.sequence_length
            results[name] = {
                "loss": float(per_window.mean()),
                "windows": len(windows),
                "tokens": len(windows) * self.sequence_length,
                "digest": dataset.digest,
                "per_window": [round(float(value), 6) for value in per_window],
            }
        return results


def evaluate(
    model: Llama,
    plan: StagePlan,
    held_out: HeldOutSets,
    names: Sequence[str],
    ranks: Ranks,
    micro_batch: int,
    before_forward: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Loss of the model on each named set, by name, as `evaluations/` records it; leaves the model in training mode."""
    eos = document_end(plan)

    def sequence_losses(tokens: NDArray[np.int64]) -> torch.Tensor:
        before_forward()
        return losses(model, tokens, eos).sum(dim=1)

    model.eval()
    with torch.no_grad():
        results = held_out.measure(sequence_losses, names, ranks, micro_batch)
    fsdp.reshard(model)
    model.train()
    return results
