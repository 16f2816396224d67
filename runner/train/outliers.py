"""Outlier steps: those whose gradient norm is far above the norms of the steps before them.

A step is one when its norm exceeds the mean of the last `window` steps' norms by more than `deviations` of their
standard deviations; with fewer than half of them known none is. The rule is OLMo-core's for its skipped steps, which
looks at the loss, too, and at both sides. Norms of skipped steps count, so that a norm that stays high is soon none of
an outlier; those that are not finite do not. All is computed on the device, and the CPU waits for no figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

Norms = Sequence[float | None]
"""The gradient norms of the last steps, oldest first; None for one that was not finite."""


class OutlierRule:
    """The last steps' norms, in fp64 on the device, the same on every rank; NaN where none is known.

    `latest` is whether the step observed last is an outlier.
    """

    def __init__(self, numbers: Mapping[str, Any], device: torch.device, norms: Norms = ()) -> None:
        window = numbers["window"]
        recorded = [math.nan if norm is None else norm for norm in norms[-window:]]
        values = [math.nan] * (window - len(recorded)) + recorded
        self._deviations = numbers["deviations"]
        self._norms = torch.tensor(values, dtype=torch.float64, device=device)
        self.latest = torch.tensor(False, device=device)

    def observe(self, norm: torch.Tensor) -> torch.Tensor:
        """Add a step's norm; whether it is an outlier among those before it, a boolean scalar on the device."""
        norm = norm.double()
        present = self._norms.isfinite()
        number = present.sum()
        mean = self._norms.nansum() / number
        deviation = ((self._norms - mean).square().nansum() / (number - 1)).sqrt()
        enough = number >= len(self._norms) // 2
        self._norms = torch.cat((self._norms[1:], norm.masked_fill(~norm.isfinite(), math.nan)[None]))
        self.latest = enough & norm.isfinite() & (norm > mean + self._deviations * deviation)
        return self.latest

    def norms(self) -> list[float | None]:
        """What a checkpoint keeps of them; the CPU waits for the device."""
        return [norm if math.isfinite(norm) else None for norm in self._norms.tolist()]
