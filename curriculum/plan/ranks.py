"""The sequences of a batch that a rank takes, and which numbers of ranks divide a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from curriculum.errors import PlanError


def share_of_rank(batch: int, ranks: int, micro_batch: int | None = None) -> int:
    """Sequences of a step's `batch` that each of `ranks` takes, in whole micro-batches if their size is given.

    PlanError with the nearest sizes that fit when the batch does not divide evenly.
    """
    if micro_batch is not None and micro_batch < 1:
        raise PlanError(f"`micro_batch: {micro_batch}` is no number of sequences", hint="1 or more, or none at all")
    share, rest = divmod(batch, ranks)
    if rest:
        raise PlanError(
            f"a batch of {batch:,} sequences cannot be divided evenly among {ranks:,} processes",
            hint=f"the nearest numbers of processes that fit: {nearest_divisors(batch, ranks)}",
        )
    if micro_batch is not None and share % micro_batch:
        raise PlanError(
            f"`micro_batch: {micro_batch}` does not divide {share:,}, the sequences that a process takes of "
            f"a batch of {batch:,}",
            hint=f"the nearest that fit: {nearest_divisors(share, micro_batch)}",
        )
    return share


def shares_of_rank(batches: Sequence[int], ranks: int, micro_batch: int | None = None) -> int:
    """What `share_of_rank` gives for each of a stage's `batches`, as far as they have it in common.

    PlanError with the nearest sizes that fit all of them.
    """
    if len(batches) == 1:
        return share_of_rank(batches[0], ranks, micro_batch)
    common = math.gcd(*batches)
    if common % ranks:
        first = next(batch for batch in batches if batch % ranks)
        raise PlanError(
            f"the batch changes from {batches[0]:,} to {batches[-1]:,} sequences, and one of {first:,} cannot be "
            f"divided evenly among {ranks:,} processes",
            hint=f"the nearest numbers of processes that divide every batch: {nearest_divisors(common, ranks)}; or "
            "take other sizes",
        )
    if micro_batch is not None and (common // ranks) % micro_batch:
        raise PlanError(
            f"`micro_batch: {micro_batch}` does not divide every batch that a process takes, as the batch changes from "
            f"{batches[0]:,} to {batches[-1]:,} sequences",
            hint=f"the nearest that fit: {nearest_divisors(common // ranks, micro_batch)}",
        )
    return common // ranks


def require_rank(rank: int, ranks: int) -> None:
    """PlanError unless `rank` is one of `ranks`."""
    if not 0 <= rank < ranks:
        raise PlanError(f"there is no rank {rank} of {ranks}", hint="ranks are counted from 0")


def nearest_divisors(number: int, near: int) -> str:
    """The divisors of `number` next to `near`, below and above, as text: `16 or 32`."""
    below = next(n for n in range(min(near, number), 0, -1) if number % n == 0)
    above = next((n for n in range(near, number + 1) if number % n == 0), None)
    return f"{below}" if above is None else f"{below} or {above}"
