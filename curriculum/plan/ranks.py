"""Which slots of a batch a rank takes, and which numbers of ranks divide a batch."""

from __future__ import annotations

from curriculum.errors import PlanError
from curriculum.plan.source import Segment as Segment
from curriculum.plan.source import SourcePlan as SourcePlan


def share_of_rank(batch: int, ranks: int, micro_batch: int | None = None) -> int:
    """Sequences of a step's `batch` that each of `ranks` takes, in whole micro-batches if one is stated.

    PlanError, naming the nearest that fit, when the batch cannot be dealt so.
    """
    share, rest = divmod(batch, ranks)
    if rest:
        raise PlanError(
            f"a batch of {batch:,} sequences cannot be dealt evenly to {ranks:,} processes",
            hint=f"the nearest numbers of processes that fit: {nearest_divisors(batch, ranks)}",
        )
    if micro_batch is not None and share % micro_batch:
        raise PlanError(
            f"`micro_batch: {micro_batch}` does not divide {share:,}, the sequences that a process takes of "
            f"a batch of {batch:,}",
            hint=f"the nearest that fit: {nearest_divisors(share, micro_batch)}",
        )
    return share


def nearest_divisors(whole: int, wanted: int) -> str:
    """The divisors of `whole` next below and next above `wanted`, in words."""
    below = next(n for n in range(min(wanted, whole), 0, -1) if whole % n == 0)
    above = next((n for n in range(wanted, whole + 1) if whole % n == 0), None)
    return f"{below}" if above is None else f"{below} or {above}"
