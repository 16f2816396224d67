"""Held-out loss per source at a checkpoint: a pure function of (weights, held-out set), written once.

The windows are spread evenly over the held-out split and always the same, so that two checkpoints' losses can
be compared window by window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from curriculum.artifacts.jobs import HeldOut
from curriculum.data.dataset import Dataset

SequenceLosses = Callable[[torch.Tensor], torch.Tensor]
"""Tokens `[n, sequence_length + 1]` on the device to summed losses `[n]`, without gradients."""


class HeldOutSets:
    """The opened held-out sets of a job, by source name."""

    def __init__(
        self,
        held_out: Mapping[str, HeldOut],
        *,
        sequence_length: int,
        vocab_size: int,
        tokenizer_digest: str | None = None,
    ) -> None:
        self.sequence_length = sequence_length
        self.sets: dict[str, tuple[Dataset, NDArray[np.int64]]] = {}
        for name, entry in sorted(held_out.items()):
            dataset = Dataset.open(
                Path(entry.folder),
                split="held-out",
                sequence_length=sequence_length,
                vocab_size=vocab_size,
                tokenizer_digest=tokenizer_digest,
            )
            windows = min(entry.windows, dataset.windows)
            self.sets[name] = (dataset, np.arange(windows, dtype=np.int64) * dataset.windows // windows)

    def digests(self) -> dict[str, str]:
        return {name: dataset.digest for name, (dataset, _) in self.sets.items()}

    def measure(
        self,
        losses: SequenceLosses,
        *,
        names: list[str],
        rank: int,
        ranks: int,
        add: Callable[[torch.Tensor], torch.Tensor],
        chunk: int,
        device: torch.device,
    ) -> dict[str, Any]:
        """Loss (nats a token) of each named set; every rank measures its share, `add` sums over ranks.

        All ranks call the model equally often, as sharded parameters demand: the last share is filled up with
        windows that are not counted.
        """
        results = {}
        for name in names:
            dataset, windows = self.sets[name]
            per_window = torch.zeros(len(windows), dtype=torch.float64)
            for begin in range(0, len(windows), chunk * ranks):
                part = np.arange(begin + rank * chunk, begin + (rank + 1) * chunk)
                counted = part[part < len(windows)]
                rows = dataset.read(windows[np.minimum(part, len(windows) - 1)])
                values = losses(torch.from_numpy(rows).to(device)).double().cpu()
                per_window[torch.from_numpy(counted)] = values[: len(counted)]
            per_window = add(per_window) / self.sequence_length
            results[name] = {
                "loss": float(per_window.mean()),
                "windows": len(windows),
                "tokens": len(windows) * self.sequence_length,
                "digest": dataset.digest,
                "per_window": [round(float(value), 6) for value in per_window],
            }
        return results
