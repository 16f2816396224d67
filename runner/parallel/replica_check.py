"""Compares ranks that hold replicas of the same state, so that no state is saved once they differ.

Compared are sums of the bits of all weights and moments, which any one changed bit changes. Without it a replica
with a memory or arithmetic fault trains on unnoticed (layer norms of BLOOM, replicas of nanotron).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from curriculum.errors import RunFailed
from runner.parallel.ranks import Ranks, local_part, rows_of

EVERY = 100
"""Steps between two comparisons; there is one before every save too."""


@torch.no_grad()
def fingerprint(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """For every tensor that this rank holds the sum of its 32-bit words, as integers."""
    sums = {}
    for name, parameter in model.named_parameters():
        state: dict[str, Any] = optimizer.state[parameter]
        for kind, tensor in (("weights", parameter), *((key, state[key]) for key in state if key != "step")):
            words = local_part(tensor).detach().contiguous().view(torch.int32)
            sums[f"{kind} of `{name}`"] = words.sum(dtype=torch.int64)
    stacked = torch.stack(list(sums.values())).cpu().tolist() if sums else []
    return dict(zip(sums, map(int, stacked), strict=True))


def check(model: nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks, step: int) -> None:
    """Every rank calls it; RunFailed on all of them, naming ranks and tensor, when replicas of the same rows differ."""
    if ranks.size == 1:
        return
    rows = rows_of(next(model.parameters()))[:2]
    gathered = ranks.gather((rows, fingerprint(model, optimizer)))
    first: dict[tuple[int, int], int] = {}
    for rank, (rows, sums) in enumerate(gathered):
        other = first.setdefault(rows, rank)
        differs = [name for name, value in sums.items() if gathered[other][1][name] != value]
        if differs:
            raise RunFailed(
                f"before step {step:,} ranks {other} and {rank} hold different {differs[0]}, which should be the "
                "same; one of them has a faulty processor or memory",
                hint="the last checkpoint was compared before it was saved; the same command continues from it, "
                "without the faulty machine if it comes back",
            )
