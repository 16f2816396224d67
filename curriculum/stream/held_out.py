"""Held-out sets of a job, opened: which windows are measured, the same for every trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from curriculum.artifacts.jobs import HeldOut
from curriculum.data.dataset import Dataset
from curriculum.plan.stage import StagePlan
from curriculum.stream import reader

Losses = Callable[[NDArray[np.int64]], ArrayLike]
"""Tokens `[n, sequence_length + 1]` to the summed loss of each window in nats, `[n]`; or `[n, 1 + QUARTERS]`, that loss
and those of the quarters of the window, as `quarter_ends` divides it."""
QUARTERS = 4


def quarter_ends(sequence_length: int) -> list[int]:
    """Where the quarters of a window end, in tokens; of a length that 4 does not divide, as evenly as can be."""
    return [sequence_length * quarter // QUARTERS for quarter in range(1, QUARTERS + 1)]


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

    def measure(
        self,
        losses: Losses,
        names: Sequence[str],
        micro_batch: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        add: Callable[[NDArray[np.float64]], NDArray[np.float64]] = lambda values: values,
    ) -> dict[str, Any]:
        """Loss (nats a token) of each named set, as `evaluations/` records it; every rank measures its share.

        `add` sums an array over ranks. All ranks call `losses` equally often, as sharded parameters demand: the last
        share is padded with windows that are not counted.
        """
        results = {}
        for name in names:
            dataset, windows = self.datasets[name], self.windows[name]
            per_window = np.zeros(len(windows))
            quarters: NDArray[np.float64] | None = None
            for begin in range(0, len(windows), micro_batch * world_size):
                share = begin + rank * micro_batch + np.arange(micro_batch)
                counted = share[share < len(windows)]
                values = np.asarray(losses(dataset.read(windows[np.minimum(share, len(windows) - 1)])), np.float64)
                if values.ndim > 1:
                    quarters = np.zeros((len(windows), QUARTERS)) if quarters is None else quarters
                    quarters[counted] = values[: len(counted), 1:]
                    values = values[:, 0]
                per_window[counted] = values[: len(counted)]
            per_window = add(per_window) / self.sequence_length
            results[name] = {
                "loss": float(per_window.mean()),
                "windows": len(windows),
                "tokens": len(windows) * self.sequence_length,
                "digest": dataset.digest,
                "per_window": [round(float(value), 6) for value in per_window],
            }
            if quarters is not None and self.sequence_length >= QUARTERS:
                tokens = np.diff([0, *quarter_ends(self.sequence_length)])
                results[name]["by_quarter"] = [round(float(v), 6) for v in add(quarters).mean(axis=0) / tokens]
        return results
