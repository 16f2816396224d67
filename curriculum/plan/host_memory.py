"""What a stage keeps in the memory of a node, and whether a save may take a second copy of the state there.

With P parameters in s shards and n processes on a node, in bytes, all fp32:

    state       16 P n/s    weights, both moments and gradients; only where a CPU trains
    staging     12 P n/s    what a save copies of weights and moments, once however many ranks hold the same rows

and 4 P n/s more of each where a moving average is kept, 4 less of every matrix that Muon steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SHARE: Final = (3, 4)
"""The part of a node's memory that both may fill; a CPU's activations, processes and the page cache take the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostNeed:
    """Bytes in the memory of a node: `state` of training, `staging` of a save that does not hold training up."""

    state: int
    staging: int

    @property
    def node(self) -> int:
        """The least memory of a node, in bytes, in which a save copies the state."""
        return -(-(self.state + self.staging) * SHARE[1] // SHARE[0])

    def copies(self, memory: int, free: int | None = None) -> bool:
        """Whether a save copies the state in a node with `memory` bytes, `free` of them at its first copy."""
        return self.node <= memory and (free is None or self.staging * SHARE[1] <= free * SHARE[0])


def host_need(parameters: int, *, saved: int, ranks: int, local_ranks: int, sharding: str, on_cpu: bool) -> HostNeed:
    """What `ranks` processes, `local_ranks` of them on a node, keep there, with a machine's word for the sharding.

    `saved` are the bytes of a checkpoint's tensors.
    """
    shards = {"none": 1, "full": ranks}.get(sharding, local_ranks)
    return HostNeed(
        state=(saved + 4 * parameters) * local_ranks // shards if on_cpu else 0,
        staging=saved * min(local_ranks, shards) // shards,
    )
