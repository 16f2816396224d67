"""An exponential moving average of the weights, kept beside them as part of the optimizer's state.

    average <- average + (1 - d) (weights - average)        d = 0.5 ^ (tokens of the step / half-life)

after every step of the clock, one without an update included, in fp32. It is state of the optimizer: each rank keeps
that of its rows, checkpoints hold it, replicas compare it, and a reset of the optimizer begins it at the weights.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from runner.checkpoint.tensors import EMA as EMA
from runner.parallel.ranks import local_part


def keep(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Add the average to the optimizer's state; `begin` or a checkpoint gives it its values."""
    for parameter in parameters:
        optimizer.state[parameter][EMA] = torch.zeros_like(parameter)


@torch.no_grad()
def begin(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Set the average to the weights, where one is kept."""
    for parameter in parameters:
        if EMA in (state := optimizer.state[parameter]):
            local_part(state[EMA]).copy_(local_part(parameter))


@torch.no_grad()
def update(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], decay: float) -> None:
    """Take the weights into the average, of which `decay` stays.

    Three operations, each rounded once: torch's lerp rounds the numbers beyond a CPU's last full lanes differently, by
    which the bits would depend on the sharding.
    """
    for parameter in parameters:
        average = local_part(optimizer.state[parameter][EMA])
        average += (local_part(parameter) - average).mul_(1.0 - decay)
