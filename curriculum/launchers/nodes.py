"""torchrun across nodes, begun by hand on each: the first node leads, the others join what it announces.

The rendezvous is static: an address, a port, a number for each node. What the first node starts it announces in
the attempt's folder, which all nodes see; a node that joined an attempt leaves it when a newer one is announced.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from curriculum import durable
from curriculum.errors import PlanError
from curriculum.launchers import runner_command

PORT = 29_500
ANNOUNCED = "nodes.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """torchrun on one of several nodes."""

    nodes: int
    node_rank: int
    address: str
    processes: int
    threads: int

    def __post_init__(self) -> None:
        if not 0 <= self.node_rank < self.nodes:
            raise PlanError(
                f"there is no node {self.node_rank} among {self.nodes}",
                hint=f"`--node-rank` counts from 0 to {self.nodes - 1}",
            )

    def command(self, job: Path) -> list[str]:
        host, port = host_and_port(self.address)
        return [
            sys.executable,
            "-m",
            "torch.distributed.run",
            f"--nnodes={self.nodes}",
            f"--node-rank={self.node_rank}",
            f"--master-addr={host}",
            f"--master-port={port}",
            f"--nproc-per-node={self.processes}",
            "--max-restarts=0",
            *runner_command()[1:],
            str(job),
        ]

    def announce(self, job: Path) -> None:
        durable.write_json(job.parent / ANNOUNCED, {"nodes": self.nodes, "address": self.address})


def host_and_port(address: str) -> tuple[str, int]:
    """`host` or `host:port` as both; PlanError for anything else."""
    host, colon, port = address.partition(":")
    if not host or (colon and not (port.isdecimal() and 0 < int(port) < 65536)):
        raise PlanError(f"`{address}` is no address of a node", hint="as in `node001` or `10.0.0.1:29500`")
    return host, int(port) if colon else PORT


def announced(attempt: Path) -> bool:
    """Whether the first node told the others of this attempt."""
    return (attempt / ANNOUNCED).exists()
