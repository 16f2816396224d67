"""Canonical sums: gradients, and the norm they are clipped by, whose bits do not depend on the number of ranks.

A floating-point sum depends on its order, so the plan alone fixes the order. The slots of a step are divided into
`groups`, a power of two that the number of ranks divides. A group's micro-batches are added one after the other, as
autograd does; the groups' sums are added in pairs, 0+1, 2+3, …, then pairs of pairs. Rank r of W takes the groups
r, r+W, r+2W …, so that the lowest levels of the tree are across ranks (first across the shards of the parameters,
then across replicas) and the others on each rank.

The cost is `groups / ranks` exchanges a step instead of one, and up to log2(groups / ranks) further copies of this
rank's gradients. See docs/exactness.md for what each level promises.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from curriculum.errors import PlanError
from runner.parallel.ranks import Ranks, local_part, rows_of

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule

GROUPS_AT_MOST = 64
"""Also the largest number of ranks, since one rank adds up a group by itself."""


def groups_of(batch: int, micro_batch: int, ranks: Ranks) -> int:
    """The number of groups of a step, from its batch in sequences and the micro-batch, never from the ranks.

    PlanError when the groups do not divide among the ranks.
    """
    parts, rest = divmod(batch, micro_batch)
    groups = min(parts & -parts, GROUPS_AT_MOST) if not rest else 0
    if not groups or groups % ranks.size:
        raise PlanError(
            f"`exactness: canonical` cannot divide a batch of {batch:,} sequences in micro-batches of "
            f"{micro_batch:,} among {ranks.size:,} processes",
            hint=f"take a power of two of processes, {groups} at most; or `exactness: native`"
            if groups
            else "take a `micro_batch` that divides every batch of the curriculum",
        )
    return groups


def pairwise(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum of a power of two of tensors, always in pairs, then pairs of pairs."""
    while len(parts) > 1:
        parts = [left + right for left, right in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


class PairwiseReduceScatter:
    """FSDP2's reduce-scatter: rank i of the group gets the i-th part of every rank's input, added in pairs.

    (FSDP2 needs `allocate` and a call of it; its base class is in a private module of torch.)
    """

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: dist.ProcessGroup,
        op: Any,
        async_op: bool = False,
    ) -> None:
        received = torch.empty_like(input_tensor)
        dist.all_to_all_single(received, input_tensor, group=group)
        output_tensor.copy_(pairwise(received.chunk(dist.get_world_size(group))))


def replicas_sum(group: dist.ProcessGroup) -> Callable[[torch.Tensor], None]:
    """The hook that FSDP2 calls after its reduce-scatter: every replica's part, added in pairs, on every replica."""

    def add(part: torch.Tensor) -> None:
        parts = [torch.empty_like(part) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, part, group=group)
        part.copy_(pairwise(parts))

    return add


def add_in_pairs(module: FSDPModule, replicas: DeviceMesh) -> None:
    """Have a module that is sharded over one node and replicated over `replicas` add its gradients in pairs."""
    module.set_custom_reduce_scatter(PairwiseReduceScatter())  # type: ignore[arg-type]
    if replicas.size() > 1:
        module.set_all_reduce_hook(replicas_sum(replicas.get_group()))


class GroupSums:
    """Adds the groups' gradients in pairs as they are computed, with one sum for each level of the tree."""

    def __init__(self, model: nn.Module) -> None:
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._sums: list[tuple[int, list[torch.Tensor]]] = []  # (groups in it, gradients), larger ones first

    def add(self) -> None:
        """Move the finished gradients of a group out of the model."""
        number, sums = 1, []
        for parameter in self._parameters:
            assert parameter.grad is not None
            sums.append(parameter.grad)
            parameter.grad = None
        while self._sums and self._sums[-1][0] == number:
            _, earlier = self._sums.pop()
            torch._foreach_add_([local_part(g) for g in earlier], [local_part(g) for g in sums])
            number, sums = 2 * number, earlier
        self._sums.append((number, sums))

    def restore(self) -> None:
        """Set the sum of all groups, a power of two of them, as the model's gradients."""
        ((_, sums),) = self._sums
        for parameter, gradient in zip(self._parameters, sums, strict=True):
            parameter.grad = gradient
        self._sums = []


@torch.no_grad()
def gradient_norm(model: nn.Module, ranks: Ranks) -> torch.Tensor:
    """The norm of all gradients, a scalar, the same bits on any mesh: by rows, in fp64, added up in one fixed order.

    No row is on two ranks. Every rank puts its rows into a vector of all rows, zeros elsewhere, so that adding the
    vectors rounds nothing.
    """
    rows: list[torch.Tensor] = []
    for parameter in model.parameters():
        gradient = parameter.grad
        if gradient is None:
            continue
        part = (
            local_part(gradient).double().flatten(1) if gradient.dim() > 1 else local_part(gradient).double()[:, None]
        )
        squares = torch.zeros(len(gradient), dtype=torch.float64, device=part.device)
        first, last, replica = rows_of(gradient)
        if replica == 0:
            squares[first:last] = part.square().sum(dim=1)
        rows.append(squares)
    return ranks.add(torch.cat(rows)).sum().sqrt()
